#!/usr/bin/env python3
"""Makes the tiny models of the golden tests: same bytes every time, nothing but Python's standard library.

usage: make_models.py FOLDER

Weights are multiples of 1/64 (1/128 in the static model) from a seeded generator, so that f32, f16 and bf16 hold
them exactly and one set of golden vectors serves all three; q8_0 and q4_0 round as ggml's reference does. golden.py
computes the vectors.

  bert-mean/    HF folder, f32, WordPiece, mean pooling, normalised, 48 tokens at most (all-MiniLM's layout)
  bert-cls/     HF folder, f16, odd sizes, CLS pooling, tensors named "bert.…", a pooler nobody uses (bge's)
  bert-shards/  HF folder, bf16, two shards and an index, mean pooling, not normalised
  e5/           HF folder, f32, unigram with a character map, mean pooling, normalised, prompts (multilingual-e5's)
  bert-mean-{f32,f16,bf16,q8_0,q4_0}.gguf, bert-cls-f32.gguf, e5-{f16,q4_0}.gguf    as llama.cpp names things
  static-{f32,f16,int8}/  model2vec; static-vocab/  the same with `mapping` and `weights`, not normalised
  and the decoders of make_decoders.py
"""
import base64
import json
import pathlib
import struct
import sys

MASK = (1 << 64) - 1


class Random:
    """SplitMix64."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def values(self, n, reach, middle=0):
        """n multiples of 1/64 in middle ± reach/64."""
        return [middle + ((self.next() >> 33) % (2 * reach + 1) - reach) / 64 for _ in range(n)]


# ---- vocabularies -------------------------------------------------------------------------------------------

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = """the a of and to in was is it he she they that this sea lamp light keeper house door story night day morning
river stone old year two three not no but had were with on at for said again once always cabe fits machine memory
byte budget word el la mar casa noche de que y o não uma um""".split()
PIECES = "ing ed er ly es s ness tion un re ment able al en ar os as".split()


def wordpiece_vocabulary():
    singles = list(LETTERS) + list("0123456789") + list(".,;:!?'\"()-—¿¡…") + list("中国語") + ["ß", "ø", "ñ"]
    joined = ["##" + letter for letter in LETTERS] + ["##" + piece for piece in PIECES if len(piece) > 1]
    joined += ["##" + digit for digit in "0123456789"]
    return list(dict.fromkeys(SPECIAL + singles + WORDS + joined))


def unigram_vocabulary():
    """(piece, score); <s> <pad> </s> <unk> first and <mask> last, as XLM-R has them."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [("▁", -3.5)]
    pieces += [("▁" + word, -4.0 - i / 16) for i, word in enumerate(dict.fromkeys(WORDS + ["query", "passage", "não"]))]
    pieces += [(piece, -6.0 - i / 16) for i, piece in enumerate(PIECES) if len(piece) > 1]
    pieces += [(letter, -8.0 - i / 32) for i, letter in enumerate(LETTERS + "ABCDEFGHIJKLMNOPQRSTUVWXYZ")]
    pieces += [(other, -9.0 - i / 32) for i, other in enumerate("0123456789.,;:!?'\"()-—¿¡áéíóúñãõç中国語")]
    seen, unique = set(), []
    for piece, score in pieces + [("<mask>", 0.0)]:
        if piece not in seen:
            seen.add(piece)
            unique.append((piece, score))
    return unique


# ---- a character map as sentencepiece stores it: a double-array trie and the replacements it points at -----------

CHARACTER_MAP = {"ﬁ": "fi", "…": "...", "’": "'", "\u00a0": " ", "\t": " ", "\n": " ", "\u200b": "",
                 "①": "1", "½": "1/2", "Ａ": "A", "ａ": "a", "！": "!", "e\u0301": "é", "a\u0303": "ã", "n\u0303": "ñ", "o\u0301": "ó", "ª": "a"}


def double_array(entries):
    """Darts-clone units for {bytes: value}: bit 31 leaf value, bits 0-7 label, bit 8 has a leaf, bits 10-30 offset."""
    trie = {}
    for key, value in entries.items():
        node = trie
        for byte in key:
            node = node.setdefault(byte, {})
        node[None] = value
    units, used = {0: 0}, {0}
    queue = [(0, trie)]
    while queue:
        position, node = queue.pop(0)
        labels = sorted(0 if key is None else key for key in node)
        base = 1
        while any((base ^ label) in used for label in labels) or (position ^ base) >> 21:
            base += 1
        units[position] |= (position ^ base) << 10
        for key, child in node.items():
            slot = base ^ (0 if key is None else key)
            used.add(slot)
            if key is None:
                units[position] |= 1 << 8
                units[slot] = 1 << 31 | child
            else:
                units[slot] = key
                queue.append((slot, child))
    size = (max(used) // 256 + 1) * 256
    return [units.get(i, 0) for i in range(size)]


def character_map():
    replacements, entries = b"", {}
    for source, target in CHARACTER_MAP.items():
        entries[source.encode()] = len(replacements)
        replacements += target.encode() + b"\0"
    units = double_array(entries)
    trie = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(trie)) + trie + replacements


# ---- dtypes -------------------------------------------------------------------------------------------------


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def pack_f16(values):
    return struct.pack(f"<{len(values)}e", *values)


def pack_f32(values):
    return struct.pack(f"<{len(values)}f", *values)


def pack_bf16(values):
    words = struct.unpack(f"<{len(values)}I", pack_f32(values))
    assert all(word & 0xFFFF == 0 for word in words), "not exact in bf16"
    return struct.pack(f"<{len(values)}H", *(word >> 16 for word in words))


def pack_q8_0(values):
    out = b""
    for i in range(0, len(values), 32):
        block = values[i:i + 32]
        d = f32(max(abs(x) for x in block) / 127)
        inverse = f32(1 / d) if d else 0.0
        scaled = [f32(x * inverse) for x in block]
        out += struct.pack("<e32b", d, *(int(abs(x) + 0.5) * (1 if x >= 0 else -1) for x in scaled))
    return out


def pack_q4_0(values):
    out = b""
    for i in range(0, len(values), 32):
        block = values[i:i + 32]
        largest = max(block, key=abs)
        d = f32(largest / -8)
        inverse = f32(1 / d) if d else 0.0
        q = [min(15, int(f32(f32(x * inverse) + 8.5))) for x in block]
        out += struct.pack("<e16B", d, *(q[j] | q[j + 16] << 4 for j in range(16)))
    return out


def f16(x):
    return struct.unpack("<e", struct.pack("<e", x))[0]


def steps(x, scale, most):
    """x / scale to the nearest of 0..most; 0 where the scale is."""
    return min(most, max(0, int(x / scale + 0.5))) if scale else 0


def pack_q4_1(values):
    out = b""
    for i in range(0, len(values), 32):
        block = values[i:i + 32]
        least = min(block)
        d = f32((max(block) - least) / 15)
        inverse = f32(1 / d) if d else 0.0
        q = [min(15, int(f32(f32(f32(x - least) * inverse) + 0.5))) for x in block]
        out += struct.pack("<ee16B", d, least, *(q[j] | q[j + 16] << 4 for j in range(16)))
    return out


def pack_q4_k(values):
    """Super-blocks of 256 as GGUF lays them out; a plain rounding, not ggml's search for the best scales."""
    out = b""
    for i in range(0, len(values), 256):
        blocks = [values[j:j + 32] for j in range(i, i + 256, 32)]
        least = [min(0.0, min(block)) for block in blocks]
        reach = [(max(block) - low) / 15 for block, low in zip(blocks, least)]
        d, dmin = f16(max(0.0, max(reach)) / 63), f16(-min(least) / 63)
        scales, mins = [steps(x, d, 63) for x in reach], [steps(-x, dmin, 63) for x in least]
        q = [[steps(x + dmin * m, d * s, 15) for x in block] for block, s, m in zip(blocks, scales, mins)]
        packed = [scales[j] | scales[j + 4] >> 4 << 6 for j in range(4)]
        packed += [mins[j] | mins[j + 4] >> 4 << 6 for j in range(4)]
        packed += [scales[j] & 15 | (mins[j] & 15) << 4 for j in range(4, 8)]
        nibbles = [q[j][k] | q[j + 1][k] << 4 for j in range(0, 8, 2) for k in range(32)]
        out += struct.pack("<ee12B128B", d, dmin, *packed, *nibbles)
    return out


def pack_q5_k(values):
    """As pack_q4_k, the fifth bits of 32 elements before the nibbles, a bit a block."""
    out = b""
    for i in range(0, len(values), 256):
        blocks = [values[j:j + 32] for j in range(i, i + 256, 32)]
        least = [min(0.0, min(block)) for block in blocks]
        reach = [(max(block) - low) / 31 for block, low in zip(blocks, least)]
        d, dmin = f16(max(0.0, max(reach)) / 63), f16(-min(least) / 63)
        scales, mins = [steps(x, d, 63) for x in reach], [steps(-x, dmin, 63) for x in least]
        q = [[steps(x + dmin * m, d * s, 31) for x in block] for block, s, m in zip(blocks, scales, mins)]
        packed = [scales[j] | scales[j + 4] >> 4 << 6 for j in range(4)]
        packed += [mins[j] | mins[j + 4] >> 4 << 6 for j in range(4)]
        packed += [scales[j] & 15 | (mins[j] & 15) << 4 for j in range(4, 8)]
        high = [sum((q[j][k] >> 4) << j for j in range(8)) for k in range(32)]
        nibbles = [q[j][k] & 15 | (q[j + 1][k] & 15) << 4 for j in range(0, 8, 2) for k in range(32)]
        out += struct.pack("<ee12B32B128B", d, dmin, *packed, *high, *nibbles)
    return out


def pack_q6_k(values):
    """As pack_q4_k: 16 blocks of 16, signed scales of 8 bits, quants of 6."""
    out = b""
    for i in range(0, len(values), 256):
        blocks = [values[j:j + 16] for j in range(i, i + 256, 16)]
        reach = [max(map(abs, block)) / 31 for block in blocks]
        d = f16(max(reach) / 127)
        scales = [steps(x, d, 127) for x in reach]
        scales = [-s if j % 3 == 1 else s for j, s in enumerate(scales)]  # readers must see the sign
        q = [steps(x + 32 * d * s, d * s, 63) if d * s > 0 else 63 - steps(x - 31 * d * s, -d * s, 63)
             for block, s in zip(blocks, scales) for x in block]
        low, high = [0] * 128, [0] * 64
        for j, x in enumerate(q):
            half, part, k = j // 128, j % 128 // 32, j % 32
            low[half * 64 + part % 2 * 32 + k] |= (x & 15) << part // 2 * 4
            high[half * 32 + k] |= x >> 4 << part * 2
        out += struct.pack("<128B64B16be", *low, *high, *scales, d)
    return out


PACK = {"F32": pack_f32, "F16": pack_f16, "BF16": pack_bf16, "Q8_0": pack_q8_0, "Q4_0": pack_q4_0,
        "Q4_1": pack_q4_1, "Q4_K": pack_q4_k, "Q5_K": pack_q5_k, "Q6_K": pack_q6_k}
GGML_TYPE = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "BF16": 30}

# ---- files --------------------------------------------------------------------------------------------------


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_safetensors(path, tensors, dtypes):
    """tensors: {name: (shape, values)}; dtypes: {name: dtype}."""
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, (shape, values) in tensors.items():
        kind = dtypes[name]
        if kind == "I8":
            data = struct.pack(f"<{len(values)}b", *values)
        elif kind == "I64":
            data = struct.pack(f"<{len(values)}q", *values)
        else:
            data = PACK[kind](values)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def gguf_string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_value(kind, value):
    if kind == "str":
        return struct.pack("<I", 8) + gguf_string(value)
    if kind == "strs":
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(gguf_string, value))
    if kind == "f32s":
        return struct.pack("<IIQ", 9, 6, len(value)) + pack_f32(value)
    if kind == "i32s":
        return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)
    if kind == "u8s":
        return struct.pack("<IIQ", 9, 0, len(value)) + value
    number, form = {"u32": (4, "<I"), "f32": (6, "<f"), "bool": (7, "<B")}[kind]
    return struct.pack("<I", number) + struct.pack(form, value)


def write_gguf(path, fields, tensors, dtypes):
    head = b"".join(gguf_string(key) + gguf_value(kind, value) for key, kind, value in fields)
    infos, body = b"", b""
    for name, (shape, values) in tensors.items():
        data = PACK[dtypes[name]](values)
        infos += gguf_string(name) + struct.pack("<I", len(shape))
        infos += struct.pack(f"<{len(shape)}Q", *reversed(shape))  # fastest dimension first
        infos += struct.pack("<IQ", GGML_TYPE[dtypes[name]], len(body))
        body += data + b"\0" * (-len(data) % 32)
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(fields)) + head + infos
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(start + b"\0" * (-len(start) % 32) + body)


# ---- networks -----------------------------------------------------------------------------------------------


class Bert:
    def __init__(self, seed, n_tokens, width, n_heads, inner, n_layers=2, positions=64):
        self.n_tokens, self.width, self.n_heads, self.inner = n_tokens, width, n_heads, inner
        self.n_layers, self.positions = n_layers, positions
        random = Random(seed)
        self.tensors = {}  # by HF name, in a fixed order: that order is the order of the draws

        def matrix(name, rows, columns, reach):
            self.tensors[name] = ((rows, columns), random.values(rows * columns, reach))

        def vector(name, n, reach, middle=0):
            self.tensors[name] = ((n,), random.values(n, reach, middle))

        def norm(name):
            vector(name + ".weight", width, 16, 1)
            vector(name + ".bias", width, 8)

        def dense(name, out, inside, reach):
            matrix(name + ".weight", out, inside, reach)
            vector(name + ".bias", out, 8)

        matrix("embeddings.word_embeddings.weight", n_tokens, width, 48)
        matrix("embeddings.position_embeddings.weight", positions, width, 12)
        matrix("embeddings.token_type_embeddings.weight", 2, width, 8)
        norm("embeddings.LayerNorm")
        for i in range(n_layers):
            layer = f"encoder.layer.{i}."
            for part in ("query", "key", "value"):
                dense(f"{layer}attention.self.{part}", width, width, 20)
            dense(layer + "attention.output.dense", width, width, 16)
            norm(layer + "attention.output.LayerNorm")
            dense(layer + "intermediate.dense", inner, width, 16)
            dense(layer + "output.dense", width, inner, 12)
            norm(layer + "output.LayerNorm")
        dense("pooler.dense", width, width, 16)

    def config(self, dtype):
        return {"architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu",
                "hidden_size": self.width, "intermediate_size": self.inner, "num_attention_heads": self.n_heads,
                "num_hidden_layers": self.n_layers, "max_position_embeddings": self.positions,
                "layer_norm_eps": 1e-12, "type_vocab_size": 2, "vocab_size": self.n_tokens, "pad_token_id": 0,
                "attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1,
                "position_embedding_type": "absolute", "torch_dtype": dtype}

    def gguf(self, name, pooling):
        return [("general.architecture", "str", "bert"), ("general.name", "str", name),
                ("bert.context_length", "u32", self.positions), ("bert.embedding_length", "u32", self.width),
                ("bert.feed_forward_length", "u32", self.inner), ("bert.block_count", "u32", self.n_layers),
                ("bert.attention.head_count", "u32", self.n_heads),
                ("bert.attention.layer_norm_epsilon", "f32", 1e-12), ("bert.attention.causal", "bool", 0),
                ("bert.pooling_type", "u32", pooling)]

    def gguf_tensors(self):
        """The same tensors under llama.cpp's names; the pooler stays behind."""
        names = {"embeddings.word_embeddings.weight": "token_embd.weight",
                 "embeddings.position_embeddings.weight": "position_embd.weight",
                 "embeddings.token_type_embeddings.weight": "token_types.weight"}
        parts = {"embeddings.LayerNorm": "token_embd_norm", "attention.self.query": "attn_q",
                 "attention.self.key": "attn_k", "attention.self.value": "attn_v",
                 "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
                 "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm"}
        out = {}
        for name, tensor in self.tensors.items():
            if name.startswith("pooler."):
                continue
            if name in names:
                out[names[name]] = tensor
                continue
            stem, kind = name.rsplit(".", 1)
            block = ""
            if stem.startswith("encoder.layer."):
                number, stem = stem[len("encoder.layer."):].split(".", 1)
                block = f"blk.{number}."
            out[f"{block}{parts[stem]}.{kind}"] = tensor
        return out


def same(tensors, dtype):
    return {name: dtype for name in tensors}


def gguf_dtypes(tensors, dtype):
    """As llama.cpp: matrices take the type of the file; vectors, positions and token types stay f32."""
    return {name: dtype if len(shape) == 2 and not name.startswith(("position_embd", "token_types")) else "F32"
            for name, (shape, _) in tensors.items()}


# ---- tokenizers ---------------------------------------------------------------------------------------------


def added(vocabulary, names):
    return [{"id": vocabulary.index(name), "content": name, "single_word": False, "lstrip": name == "<mask>",
             "rstrip": False, "normalized": False, "special": True} for name in names]


def template(first, last, ids):
    def token(name):
        return {"SpecialToken": {"id": name, "type_id": 0}}

    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    pair = {"Sequence": {"id": "B", "type_id": 0}}
    return {"type": "TemplateProcessing", "single": [token(first), sequence, token(last)],
            "pair": [token(first), sequence, token(last), pair, token(last)],
            "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (first, last)}}


def wordpiece_json(vocabulary, special_tokens=True):
    ids = {token: i for i, token in enumerate(vocabulary)}
    truncation, padding = None, None
    if special_tokens:  # as all-MiniLM's file has them; a program that obeyed them would cut and pad
        truncation = {"direction": "Right", "max_length": 32, "strategy": "LongestFirst", "stride": 0}
        padding = {"strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                   "pad_type_id": 0, "pad_token": "[PAD]"}
    return {"version": "1.0", "truncation": truncation, "padding": padding,
            "added_tokens": added(vocabulary, SPECIAL),
            "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                           "strip_accents": None, "lowercase": True},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": template("[CLS]", "[SEP]", ids),
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": ids}}


def unigram_json(pieces):
    vocabulary = [piece for piece, _ in pieces]
    ids = {token: i for i, token in enumerate(vocabulary)}
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": added(vocabulary, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]),
            "normalizer": {"type": "Precompiled",
                           "precompiled_charsmap": base64.b64encode(character_map()).decode()},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]},
            "post_processor": template("<s>", "</s>", ids),
            "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            "model": {"type": "Unigram", "unk_id": 3, "vocab": [list(piece) for piece in pieces],
                      "byte_fallback": False}}


def wordpiece_gguf(vocabulary):
    """llama.cpp marks the start of a word with ▁ and drops the ## of the rest."""
    def spelled(token):
        if token.startswith("##"):
            return token[2:]
        return token if token in SPECIAL else "▁" + token

    return [("tokenizer.ggml.model", "str", "bert"), ("tokenizer.ggml.pre", "str", "bert-bge"),
            ("tokenizer.ggml.token_type_count", "u32", 2),
            ("tokenizer.ggml.tokens", "strs", [spelled(token) for token in vocabulary]),
            ("tokenizer.ggml.token_type", "i32s", [3 if token in SPECIAL else 1 for token in vocabulary]),
            ("tokenizer.ggml.unknown_token_id", "u32", 1), ("tokenizer.ggml.seperator_token_id", "u32", 3),
            ("tokenizer.ggml.padding_token_id", "u32", 0), ("tokenizer.ggml.cls_token_id", "u32", 2),
            ("tokenizer.ggml.mask_token_id", "u32", 4)]


def unigram_gguf(pieces):
    kinds = {"<s>": 3, "<pad>": 3, "</s>": 3, "<unk>": 2, "<mask>": 3}
    return [("tokenizer.ggml.model", "str", "t5"), ("tokenizer.ggml.pre", "str", "default"),
            ("tokenizer.ggml.tokens", "strs", [piece for piece, _ in pieces]),
            ("tokenizer.ggml.scores", "f32s", [score for _, score in pieces]),
            ("tokenizer.ggml.token_type", "i32s", [kinds.get(piece, 1) for piece, _ in pieces]),
            ("tokenizer.ggml.token_type_count", "u32", 2),
            ("tokenizer.ggml.bos_token_id", "u32", 0), ("tokenizer.ggml.eos_token_id", "u32", 2),
            ("tokenizer.ggml.unknown_token_id", "u32", 3), ("tokenizer.ggml.padding_token_id", "u32", 1),
            ("tokenizer.ggml.seperator_token_id", "u32", 2), ("tokenizer.ggml.add_space_prefix", "bool", 1),
            ("tokenizer.ggml.remove_extra_whitespaces", "bool", 1),
            ("tokenizer.ggml.precompiled_charsmap", "u8s", character_map()),
            ("tokenizer.ggml.add_bos_token", "bool", 1), ("tokenizer.ggml.add_eos_token", "bool", 1),
            ("cabe.embed.query_prefix", "str", "query: "), ("cabe.embed.passage_prefix", "str", "passage: ")]


# ---- models -------------------------------------------------------------------------------------------------


def write_folder(folder, bert, tokenizer, dtype, pooling, normalize, max_tokens, prompts=None):
    """Everything of a sentence-transformers folder except the weights."""
    write_json(folder / "config.json", bert.config({"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]))
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json",
               {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": bert.positions,
                "pad_token": "<pad>" if prompts else "[PAD]"})
    if max_tokens:
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")] + ([("2_Normalize", "Normalize")] if normalize else [])
    write_json(folder / "modules.json",
               [{"idx": i, "name": str(i), "path": path, "type": "sentence_transformers.models." + kind}
                for i, (path, kind) in enumerate(kinds)])
    write_json(folder / "1_Pooling/config.json",
               {"word_embedding_dimension": bert.width, "pooling_mode_cls_token": pooling == "cls",
                "pooling_mode_mean_tokens": pooling == "mean", "pooling_mode_max_tokens": False,
                "pooling_mode_mean_sqrt_len_tokens": False})
    if prompts:
        write_json(folder / "config_sentence_transformers.json", {"prompts": prompts})


def make_bert(out):
    vocabulary = wordpiece_vocabulary()
    bert = Bert(1, len(vocabulary), width=64, n_heads=2, inner=128)
    tokenizer = wordpiece_json(vocabulary)

    write_folder(out / "bert-mean", bert, tokenizer, "F32", "mean", normalize=True, max_tokens=48)
    write_safetensors(out / "bert-mean/model.safetensors", bert.tensors, same(bert.tensors, "F32"))

    write_folder(out / "bert-shards", bert, tokenizer, "BF16", "mean", normalize=False, max_tokens=0)
    shards, places = [{}, {}], {}
    for i, (name, tensor) in enumerate(bert.tensors.items()):
        shards[i * 2 // len(bert.tensors)][name] = tensor
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_safetensors(out / "bert-shards" / file, shard, same(shard, "BF16"))
        places.update({name: file for name in shard})
    total = 2 * sum(len(values) for _, values in bert.tensors.values())
    write_json(out / "bert-shards/model.safetensors.index.json",
               {"metadata": {"total_size": total}, "weight_map": places})

    tensors = bert.gguf_tensors()
    for dtype in ("F32", "F16", "BF16", "Q8_0", "Q4_0"):
        write_gguf(out / f"bert-mean-{dtype.lower()}.gguf", bert.gguf("bert-mean", 1) + wordpiece_gguf(vocabulary),
                   tensors, gguf_dtypes(tensors, dtype))

    odd = Bert(2, len(vocabulary), width=48, n_heads=4, inner=100)
    write_folder(out / "bert-cls", odd, tokenizer, "F16", "cls", normalize=True, max_tokens=0)
    named = {"bert." + name: tensor for name, tensor in odd.tensors.items()}
    dtypes = same(named, "F16") | {"bert.embeddings.position_ids": "I64"}
    named = {"bert.embeddings.position_ids": ((1, odd.positions), list(range(odd.positions)))} | named
    write_safetensors(out / "bert-cls/model.safetensors", named, dtypes)
    tensors = odd.gguf_tensors()
    write_gguf(out / "bert-cls-f32.gguf", odd.gguf("bert-cls", 2) + wordpiece_gguf(vocabulary), tensors,
               gguf_dtypes(tensors, "F32"))


def make_e5(out):
    pieces = unigram_vocabulary()
    bert = Bert(3, len(pieces), width=64, n_heads=4, inner=96)
    write_folder(out / "e5", bert, unigram_json(pieces), "F32", "mean", normalize=True, max_tokens=0,
                 prompts={"query": "query: ", "passage": "passage: "})
    write_safetensors(out / "e5/model.safetensors", bert.tensors, same(bert.tensors, "F32"))
    tensors = bert.gguf_tensors()
    for dtype in ("F16", "Q4_0"):
        write_gguf(out / f"e5-{dtype.lower()}.gguf", bert.gguf("e5", 1) + unigram_gguf(pieces), tensors,
                   gguf_dtypes(tensors, dtype))


def make_static(out):
    vocabulary, width = wordpiece_vocabulary(), 32
    random = Random(4)
    steps = [(random.next() >> 33) % 255 - 127 for _ in range(len(vocabulary) * width)]  # int8's range
    rows = [step / 128 for step in steps]
    config = {"model_type": "model2vec", "architectures": ["StaticModel"], "hidden_dim": width,
              "seq_length": 1000000, "normalize": True}

    def write(name, tensors, dtypes, normalize=True):
        folder = out / name
        write_json(folder / "config.json", config | {"normalize": normalize})
        write_json(folder / "tokenizer.json", wordpiece_json(vocabulary, special_tokens=False))
        modules = [{"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"}]
        if normalize:
            modules.append({"idx": 1, "name": "1", "path": "1_Normalize",
                            "type": "sentence_transformers.models.Normalize"})
        write_json(folder / "modules.json", modules)
        write_safetensors(folder / "model.safetensors", tensors, dtypes)

    shape = (len(vocabulary), width)
    write("static-f32", {"embeddings": (shape, rows)}, {"embeddings": "F32"})
    write("static-f16", {"embeddings": (shape, rows)}, {"embeddings": "F16"})
    write("static-int8", {"embeddings": (shape, steps)}, {"embeddings": "I8"})
    n_rows = 40
    mapping = [(random.next() >> 33) % n_rows for _ in vocabulary]
    weights = [((random.next() >> 33) % 64 + 1) / 64 for _ in vocabulary]
    write("static-vocab", {"embeddings": ((n_rows, width), rows[:n_rows * width]),
                           "mapping": ((len(vocabulary),), mapping), "weights": ((len(vocabulary),), weights)},
          {"embeddings": "F32", "mapping": "I64", "weights": "F32"}, normalize=False)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[1])
    make_bert(out)
    make_e5(out)
    make_static(out)
    sys.dont_write_bytecode = True
    import make_decoders  # which imports this
    make_decoders.make(out)


if __name__ == "__main__":
    main()
