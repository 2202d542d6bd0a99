"""The tiny decoders of the golden tests; make_models.py runs this. make_decoder_golden.py computes their logits.

  llama2/      HF folder, f32; llama2-f32.gguf (rows of q and k for turning pairs side by side); llama2.bin (llama2.c)
  llama3/      HF folder, bf16, grouped heads, tied, llama3's scaling of RoPE; llama3-f32.gguf with rope_freqs
  mistral/     HF folder, f16, a window of 8
  qwen2/       HF folder, f32, biases, tied; qwen2-f32.gguf
  qwen3/       HF folder, f32, norms of heads, heads wider than width / heads; qwen3-f32.gguf
  llama-4/     HF folder, f32, heads of 4, width 20, five heads to a key; llama-4-f32.gguf; llama-4.bin (llama2.c)
  qwen3-12/    HF folder, bf16, heads of 12, width 36; qwen3-12-f32.gguf
  mistral-20/  HF folder, f16, heads of 20, a window of 8
  mixed.gguf, mixed-tied.gguf    q4_k with q6_k among them; q4_1 with a q8_0 embedding that is the head
  mixed-fives.gguf               q4_k with q5_k among them
"""
import math
import struct

import make_models as mm

VOCABULARY = 96
EPS = 1e-5


class Decoder:
    def __init__(self, seed, kind="llama", width=64, n_heads=4, n_kv_heads=4, head_dim=16, inner=96, n_layers=2,
                 tied=False, theta=10000.0, scaling=None, window=None, qk_norm=False, biases=False):
        self.kind, self.width, self.n_heads, self.n_kv_heads = kind, width, n_heads, n_kv_heads
        self.head_dim, self.inner, self.n_layers, self.tied = head_dim, inner, n_layers, tied
        self.theta, self.scaling, self.window, self.biases = theta, scaling, window, biases
        random = mm.Random(seed)
        self.tensors = {}  # by HF name; the order is that of the draws
        q, kv = n_heads * head_dim, n_kv_heads * head_dim
        near = max(1, 14 * 8 // int(math.sqrt(width)))

        def matrix(name, rows, columns, reach=near):
            self.tensors[name + ".weight"] = ((rows, columns), random.values(rows * columns, reach))

        def vector(name, n, reach=16, middle=1):
            self.tensors[name] = ((n,), random.values(n, reach, middle))

        matrix("model.embed_tokens", VOCABULARY, width, 48)
        for i in range(n_layers):
            layer = f"model.layers.{i}."
            vector(layer + "input_layernorm.weight", width)
            for part, rows in (("q", q), ("k", kv), ("v", kv)):
                matrix(f"{layer}self_attn.{part}_proj", rows, width)
                if biases:
                    vector(f"{layer}self_attn.{part}_proj.bias", rows, 16, 0)
            if qk_norm:
                vector(layer + "self_attn.q_norm.weight", head_dim)
                vector(layer + "self_attn.k_norm.weight", head_dim)
            matrix(layer + "self_attn.o_proj", width, q)
            vector(layer + "post_attention_layernorm.weight", width)
            matrix(layer + "mlp.gate_proj", inner, width)
            matrix(layer + "mlp.up_proj", inner, width)
            matrix(layer + "mlp.down_proj", width, inner)
        vector("model.norm.weight", width)
        if not tied:
            matrix("lm_head", VOCABULARY, width)

    def config(self, dtype="float32"):
        out = {"architectures": [{"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[self.kind]
                                 + "ForCausalLM"],
               "model_type": self.kind, "hidden_act": "silu", "hidden_size": self.width,
               "intermediate_size": self.inner, "num_attention_heads": self.n_heads,
               "num_key_value_heads": self.n_kv_heads, "num_hidden_layers": self.n_layers,
               "max_position_embeddings": 512, "rms_norm_eps": EPS, "rope_theta": self.theta,
               "tie_word_embeddings": self.tied, "vocab_size": VOCABULARY, "torch_dtype": dtype, "bos_token_id": 1,
               "eos_token_id": 2}
        if self.head_dim * self.n_heads != self.width:
            out["head_dim"] = self.head_dim
        if self.scaling:
            out["rope_scaling"] = self.scaling
        if self.kind == "mistral":
            out["sliding_window"] = self.window
        if self.kind.startswith("qwen"):
            out["use_sliding_window"] = False
        return out

    def gguf(self, name):
        kind = self.kind
        return [("general.architecture", "str", kind), ("general.name", "str", name),
                (kind + ".context_length", "u32", 512), (kind + ".embedding_length", "u32", self.width),
                (kind + ".feed_forward_length", "u32", self.inner), (kind + ".block_count", "u32", self.n_layers),
                (kind + ".attention.head_count", "u32", self.n_heads),
                (kind + ".attention.head_count_kv", "u32", self.n_kv_heads),
                (kind + ".attention.key_length", "u32", self.head_dim),
                (kind + ".attention.value_length", "u32", self.head_dim),
                (kind + ".rope.dimension_count", "u32", self.head_dim),
                (kind + ".rope.freq_base", "f32", self.theta),
                (kind + ".attention.layer_norm_rms_epsilon", "f32", EPS), *tokenizer()]

    def side_by_side(self, name, tensor):
        """Rows of q and k as llama.cpp's converter and llama2.c order them: channel i beside i + half."""
        if self.kind != "llama" or not name.endswith(("q_proj.weight", "k_proj.weight")):
            return tensor
        shape, values = tensor
        out, d, columns = [], self.head_dim, shape[1]
        for head in range(shape[0] // d):
            for i in range(d):
                row = head * d + i % 2 * (d // 2) + i // 2
                out += values[row * columns:(row + 1) * columns]
        return shape, out

    def gguf_tensors(self):
        names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
        parts = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
                 "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
                 "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm",
                 "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
        out = {}
        for name, tensor in self.tensors.items():
            stem, kind = name.rsplit(".", 1)
            if stem in names:
                out[f"{names[stem]}.{kind}"] = tensor
                continue
            number, part = stem[len("model.layers."):].split(".", 1)
            out[f"blk.{number}.{parts[part]}.{kind}"] = self.side_by_side(name, tensor)
        if self.scaling:
            out["rope_freqs.weight"] = ((self.head_dim // 2,), self.rope_factors())
        return out

    def rope_factors(self):
        """What llama3's scaling divides each frequency by."""
        s, out = self.scaling, []
        for i in range(self.head_dim // 2):
            turns = s["original_max_position_embeddings"] * self.theta ** (-2 * i / self.head_dim) / (2 * math.pi)
            kept = (turns - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
            kept = min(1.0, max(0.0, kept))
            out.append(1 / (kept + (1 - kept) / s["factor"]))
        return out

    def llama2c(self):
        vocabulary = VOCABULARY if self.tied else -VOCABULARY
        out = struct.pack("<7i", self.width, self.inner, self.n_layers, self.n_heads, self.n_kv_heads, vocabulary, 512)
        tensors = self.gguf_tensors()
        names = ["token_embd"] + [f"blk.%d.{part}" for part in
                                  ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate",
                                   "ffn_down", "ffn_up")] + ["output_norm", None, "output"]
        for name in names:
            if name is None:
                out += mm.pack_f32([0.0] * (512 * self.head_dim))
            elif "%d" in name:
                out += b"".join(mm.pack_f32(tensors[name % i + ".weight"][1]) for i in range(self.n_layers))
            elif name + ".weight" in tensors:
                out += mm.pack_f32(tensors[name + ".weight"][1])
        return out


def tokenizer():
    """SentencePiece BPE of single characters: the tokens of printable ASCII, a space among them."""
    pieces = ["<unk>", "<s>", "</s>", "\u2581"] + [chr(code) for code in range(33, 33 + VOCABULARY - 4)]
    return [("tokenizer.ggml.model", "str", "llama"), ("tokenizer.ggml.pre", "str", "default"),
            ("tokenizer.ggml.tokens", "strs", pieces),
            ("tokenizer.ggml.scores", "f32s", [-float(i) for i in range(VOCABULARY)]),
            ("tokenizer.ggml.token_type", "i32s", [2, 3, 3] + [1] * (VOCABULARY - 3)),
            ("tokenizer.ggml.bos_token_id", "u32", 1), ("tokenizer.ggml.eos_token_id", "u32", 2),
            ("tokenizer.ggml.unknown_token_id", "u32", 0), ("tokenizer.ggml.add_bos_token", "bool", 1)]


SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 64}


def decoders():
    return {"llama2": Decoder(11), "llama3": Decoder(12, n_kv_heads=2, tied=True, scaling=SCALING),
            "mistral": Decoder(13, "mistral", n_kv_heads=2, window=8),
            "qwen2": Decoder(14, "qwen2", n_kv_heads=2, tied=True, biases=True, theta=1000000.0),
            "qwen3": Decoder(15, "qwen3", n_kv_heads=1, head_dim=32, qk_norm=True, theta=1000000.0),
            "llama-4": Decoder(18, width=20, n_heads=5, n_kv_heads=1, head_dim=4, inner=28),
            "qwen3-12": Decoder(19, "qwen3", width=36, n_heads=6, n_kv_heads=2, head_dim=12, inner=52, qk_norm=True,
                                theta=1000000.0),
            "mistral-20": Decoder(20, "mistral", width=60, n_heads=6, n_kv_heads=3, head_dim=20, inner=44, window=8)}


def mixed():
    """Names, decoders and what their matrices are: as llama.cpp mixes types."""
    first = Decoder(16, width=256, n_heads=4, n_kv_heads=2, head_dim=64, inner=256, n_layers=1)
    second = Decoder(17, n_kv_heads=2, tied=True)

    def first_type(name):
        return "Q6_K" if name.startswith(("blk.0.attn_v", "blk.0.ffn_down", "output.")) else "Q4_K"

    def third_type(name):
        return "Q5_K" if name.startswith(("blk.0.attn_v", "token_embd")) else first_type(name)

    def second_type(name):
        return "Q8_0" if name.startswith("token_embd") else "Q4_0" if "ffn_gate" in name else "Q4_1"

    return [("mixed", first, first_type), ("mixed-tied", second, second_type), ("mixed-fives", first, third_type)]


def make(out):
    dtypes = {"llama3": ("BF16", "bfloat16"), "mistral": ("F16", "float16"), "qwen3-12": ("BF16", "bfloat16"),
              "mistral-20": ("F16", "float16")}
    for name, decoder in decoders().items():
        dtype, word = dtypes.get(name, ("F32", "float32"))
        mm.write_json(out / name / "config.json", decoder.config(word))
        mm.write_safetensors(out / name / "model.safetensors", decoder.tensors, mm.same(decoder.tensors, dtype))
        if decoder.kind != "mistral":
            tensors = decoder.gguf_tensors()
            mm.write_gguf(out / f"{name}-f32.gguf", decoder.gguf(name), tensors, mm.same(tensors, "F32"))
    for name in ("llama2", "llama-4"):
        (out / f"{name}.bin").write_bytes(decoders()[name].llama2c())
    for name, decoder, type_of in mixed():
        tensors = decoder.gguf_tensors()
        mm.write_gguf(out / f"{name}.gguf", decoder.gguf(name), tensors,
                      {key: type_of(key) if len(shape) == 2 else "F32" for key, (shape, _) in tensors.items()})
