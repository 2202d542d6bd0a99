#!/usr/bin/env python3
"""Writes the seeds of the gguf, gguf_tokenizer, safetensors, config_json and zip fuzz targets to tests/fuzz/corpus/.

Everything is made here, from nothing but this file, and comes out the same each time.
usage: tests/fuzz/make_corpus.py
"""
import io
import json
import struct
import zipfile
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def gguf(keys, tensors, data, version=3, alignment=32):
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    for name, kind, value in keys:
        out += text(name) + struct.pack("<I", kind) + value
    for name, dims, kind, offset in tensors:
        out += text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
        out += struct.pack("<IQ", kind, offset)
    return out + b"\0" * (-len(out) % alignment) + data


def array(kind, items):
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def vocabulary(model, tokens, kinds, extra=()):
    """A GGUF with nothing but a tokenizer: tokens with their scores, types, and further keys."""
    return gguf([("tokenizer.ggml.model", 8, text(model)),
                 ("tokenizer.ggml.tokens", 9, array(8, [text(token) for token in tokens])),
                 ("tokenizer.ggml.scores", 9, array(6, [struct.pack("<f", -i) for i in range(len(tokens))])),
                 ("tokenizer.ggml.token_type", 9, array(5, [struct.pack("<i", kinds.get(t, 1)) for t in tokens])),
                 *extra], [], b"")


def gguf_tokenizer_seeds():
    ids = [("tokenizer.ggml.bos_token_id", 4, struct.pack("<I", 1)), ("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 2))]
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3, "<|im_end|>": 3, "[UNK]": 3, "[CLS]": 3, "[SEP]": 3}
    named = [f"<0x{byte:02X}>" for byte in (10, 195, 169, 240, 159)]
    llama = ["<unk>", "<s>", "</s>", *named, "▁", "O", "n", "▁O", "ce", "c", "e", "▁On", "▁Once", "中"]
    merges = ["h e", "Ġ t", "i m", "Ġt im", "Ġtim e", "1 2", "Ã ©"]
    gpt2 = ["<|im_end|>", "<s>", "</s>", *"OncupatimehI'l123Ġ,Ã©", "he", "Ġt", "im", "Ġtim", "Ġtime", "12", "Ã©"]
    yield "llama", vocabulary("llama", llama, kinds | {name: 6 for name in named},
                              ids + [("tokenizer.chat_template", 8, text("{{ messages }}"))])
    yield "bert", vocabulary("bert", ["[UNK]", "[CLS]", "[SEP]", "▁once", "upon", "▁a", ","], kinds)
    yield "t5", vocabulary("t5", llama, kinds, ids)
    for pre in ("gpt-2", "smollm", "llama-bpe", "qwen35", "gpt-4o", "deepseek-llm", "deepseek-coder", "deepseek-v3", "default"):
        yield pre, vocabulary("gpt2", list(dict.fromkeys(gpt2)), kinds,
                              ids + [("tokenizer.ggml.pre", 8, text(pre)),
                                     ("tokenizer.ggml.merges", 9, array(8, [text(merge) for merge in merges]))])
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), " ", "O", " O"]
    yield "llama2c", struct.pack("<i", 6) + b"".join(
        struct.pack("<fi", -i, len(word)) + word.encode() for i, word in enumerate(words))


def gguf_seeds():
    scalars = [
        ("u8", 0, b"\x07"), ("i8", 1, b"\xf9"), ("u16", 2, b"\1\2"), ("i16", 3, b"\xff\xff"),
        ("u32", 4, struct.pack("<I", 9)), ("i32", 5, struct.pack("<i", -9)), ("f32", 6, struct.pack("<f", 0.5)),
        ("bool", 7, b"\1"), ("text", 8, text("hello")), ("u64", 10, struct.pack("<Q", 2**63)),
        ("i64", 11, struct.pack("<q", -1)), ("f64", 12, struct.pack("<d", -2.5)),
    ]
    words = [text("w" * (i % 5)) for i in range(20)]
    arrays = [
        ("tokenizer.ggml.tokens", 9, array(8, words)),
        ("tokenizer.ggml.scores", 9, array(6, [struct.pack("<f", -i) for i in range(20)])),
        ("tokenizer.ggml.token_type", 9, array(5, [struct.pack("<i", 1)] * 20)),
        ("empty", 9, array(8, [])),
    ]
    tensors = [("m", (32, 3), 2, 0), ("v", (5,), 0, 64), ("c", (2, 3, 4), 1, 96)]
    yield "empty", gguf([], [], b"")
    yield "scalars", gguf(scalars, [], b"")
    yield "arrays", gguf(arrays, [], b"")
    yield "tensors", gguf([], tensors, bytes(range(144)))
    yield "all-v2", gguf(scalars + arrays, tensors, bytes(144), version=2)
    yield "alignment", gguf([("general.alignment", 4, struct.pack("<I", 8))], [("v", (3,), 0, 8)], bytes(24),
                            alignment=8)
    yield "split", gguf([("split.count", 2, b"\2\0")], [], b"")
    yield "nested", gguf([("k", 9, array(9, [array(4, [])]))], [], b"")
    yield "big-endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 0)
    yield "hostile-counts", b"GGUF" + struct.pack("<IQQ", 3, 2**64 - 1, 2**64 - 1)
    yield "hostile-string", gguf([("k", 8, struct.pack("<Q", 2**64 - 1))], [], b"")
    yield "hostile-offset", gguf([], [("v", (8,), 0, 2**64 - 32)], bytes(32))


def safetensors(header, data):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_seeds():
    some = {
        "__metadata__": {"format": "pt"}, "a": tensor("F32", [2], 0, 8), "b": tensor("F16", [2, 3], 8, 20),
        "e": tensor("I64", [0, 4], 20, 20), "s": tensor("BF16", [], 20, 22), "q": tensor("I8", [2, 1, 1, 2], 22, 26),
    }
    yield "some", safetensors(some, bytes(26))
    yield "empty", safetensors({}, b"")
    yield "padded", safetensors(json.dumps({"a": tensor("U8", [1], 0, 1)}).encode() + b"   ", b"x")
    yield "hole", safetensors({"a": tensor("U8", [1], 0, 1), "b": tensor("U8", [1], 2, 3)}, bytes(3))
    yield "overlap", safetensors({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 1, 3)}, bytes(3))
    yield "past-end", safetensors({"a": tensor("F64", [2], 0, 16)}, bytes(8))
    yield "huge-shape", safetensors({"a": tensor("F32", [2**62, 4], 0, 8)}, bytes(8))
    yield "twice", safetensors(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{}}', b"")
    yield "hostile-length", struct.pack("<Q", 2**64 - 1) + b"{}"


# The first byte says which document of the folder the rest is; the order is that of config_json_fuzz.c.
DOCUMENTS = ["config", "modules", "pooling", "tokenizer_config", "tokenizer", "special", "index", "sbert", "generation"]


def module(kind, path):
    return {"idx": 0, "name": "0", "path": path, "type": "sentence_transformers.models." + kind}


def config_json_seeds():
    documents = {
        "config": [{"model_type": "bert", "hidden_size": 4, "layer_norm_eps": 1e-12, "use_cache": True, "x": None}],
        "modules": [
            [module("Transformer", ""), module("Pooling", "1_Pooling"), module("Dense", "2_Dense"),
             module("Normalize", "3_Normalize")],
            [module("StaticEmbedding", ".")], [module("StaticEmbedding", "2_Dense")], [module("Transformer", "../x")],
        ],
        "pooling": [{"pooling_mode_mean_tokens": True, "word_embedding_dimension": 4}],
        "tokenizer_config": [{"model_max_length": 10**30, "do_lower_case": True}],
        "tokenizer": [
            {"model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1}}, "added_tokens": []},
            {"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["\0", -1.5]], "unk_id": 0}},
        ],
        "special": [{"unk_token": {"content": "[UNK]"}}],
        "index": [
            {"metadata": {"total_size": 8}, "weight_map": {"a": "shard-1.safetensors"}},
            {"weight_map": {"a": "../shard-1.safetensors"}}, {"weight_map": {"a": "model.safetensors.index.json"}},
            {"weight_map": {"a": "2_Dense/model.safetensors"}},
        ],
        "sbert": [{"max_seq_length": 256}],
        "generation": [{"eos_token_id": [1, 2]}],
    }
    for number, name in enumerate(DOCUMENTS):
        for i, document in enumerate(documents[name]):
            yield f"{name}-{i}", bytes([number]) + json.dumps(document).encode()
    yield "deep", b"\0" + b"[" * 3000
    yield "duplicate", b'\0{"a":1,"a":2}'
    yield "bad-utf8", b'\0{"a":"\xff"}'


def archive(members, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        for name, data, mode in members:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr = mode << 16
            info.compress_type = method
            z.writestr(info, data)
    return out.getvalue()


def zip_seeds():
    model = [
        ("pack/__init__.py", b"", 0o100644), ("pack/model/config.json", b"{}", 0o100644),
        ("pack/model/model.safetensors", b"weights " * 20, 0o100644),
        ("pack/model/1_Pooling/config.json", b"{}", 0o100644), ("pack-1.dist-info/RECORD", b"x", 0o100644),
    ]
    yield "stored", archive(model)
    yield "deflated", archive(model, zipfile.ZIP_DEFLATED)
    yield "gguf", archive([("pack/m.gguf", b"GGUF", 0o100644)])
    yield "climbs", archive(model + [("../x", b"x", 0o100644)])
    yield "absolute", archive(model + [("/x", b"x", 0o100644)])
    yield "link", archive(model + [("pack/model/l", b"/etc/passwd", 0o120777)])
    yield "folder", archive([("m/", b"", 0o040755), ("m/model.safetensors", b"w", 0o100644)])
    yield "file-and-folder", archive([("m", b"x", 0o100644), ("m/model.safetensors", b"w", 0o100644)])
    yield "truncated", archive(model)[:-30]


def main():
    for name, seeds in [("gguf", gguf_seeds), ("gguf_tokenizer", gguf_tokenizer_seeds), ("safetensors", safetensors_seeds),
                        ("config_json", config_json_seeds), ("zip", zip_seeds)]:
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for seed, data in seeds():
            (folder / seed).write_bytes(data)


if __name__ == "__main__":
    main()
