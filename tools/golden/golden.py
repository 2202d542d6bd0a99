#!/usr/bin/env python3
"""Computes the golden vectors of tests/golden/ from reference implementations, over make_models.py's files.

usage: golden.py MODELS OUT      (a folder that make_models.py filled; tests/golden)

Needs torch, transformers, sentence-transformers, tokenizers, model2vec, gguf (versions: tests/golden/README.md).
Vectors are those of PyTorch's BertModel in f64; sentence-transformers in f32 must agree, as must tokenizers.
"""
import json
import pathlib
import sys

import gguf
import numpy as np
import torch
from model2vec import StaticModel
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

TEXTS = [
    "The keeper of the old house said that the lamp was light.",
    "a",
    "No, no! Not again: the river, the sea and the stone door.",
    "ALWAYS once; Always ONCE… (always)",
    "La mar de noche, el río y la casa: ¿qué es un ángel?",
    "Não há memória que caiba no coração. O mar é um só.",
    "unable unreadable statement, placement & motion",
    "中国語 is 3 words or 1 word; 42 nights, 7 stories",
    "e\u0301tude \u00a0and\ttab ﬁre’s end！",
    "straße ☃ snow",
    "   spaces   everywhere   ",
    " ".join(["the night and the day"] * 14),
    "the machine has memory, and the budget is a byte budget: cabe means it fits in the house by the sea",
    "",
]


def rounded(array):
    return [[float(f"{x:.7g}") for x in row] for row in np.asarray(array, np.float64)]


def bert_from_gguf(path):
    """BertModel in f64 over the dequantised tensors of a GGUF file."""
    reader = gguf.GGUFReader(path)
    field = {key: value.contents() for key, value in reader.fields.items() if len(value.data) == 1}
    raw = {tensor.name: np.array(gguf.dequantize(tensor.data, tensor.tensor_type)) for tensor in reader.tensors}
    config = BertConfig(
        vocab_size=len(raw["token_embd.weight"]), hidden_size=field["bert.embedding_length"],
        num_hidden_layers=field["bert.block_count"], num_attention_heads=field["bert.attention.head_count"],
        intermediate_size=field["bert.feed_forward_length"], max_position_embeddings=field["bert.context_length"],
        layer_norm_eps=1e-12, attn_implementation="eager")
    model = BertModel(config, add_pooling_layer=False).double().eval()
    parts = {"attn_q": "attention.self.query", "attn_k": "attention.self.key", "attn_v": "attention.self.value",
             "attn_output": "attention.output.dense", "attn_output_norm": "attention.output.LayerNorm",
             "ffn_up": "intermediate.dense", "ffn_down": "output.dense", "layer_output_norm": "output.LayerNorm"}
    fixed = {"token_embd": "embeddings.word_embeddings", "position_embd": "embeddings.position_embeddings",
             "token_types": "embeddings.token_type_embeddings", "token_embd_norm": "embeddings.LayerNorm"}
    state = {}
    for name, value in raw.items():
        stem, kind = name.rsplit(".", 1)
        if stem.startswith("blk."):
            _, layer, part = stem.split(".")
            stem = f"encoder.layer.{layer}.{parts[part]}"
        else:
            stem = fixed[stem]
        state[f"{stem}.{kind}"] = torch.tensor(value.astype(np.float64))
    wanted = {key for key, _ in model.named_parameters()}
    assert set(state) == wanted, set(state) ^ wanted
    model.load_state_dict(state, strict=False)
    return model


def encode(tokenizer, texts, max_tokens):
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def run(model, ids, pooling, normalize):
    vectors, states = [], []
    for row in ids:
        with torch.no_grad():
            out = model(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row), dtype=torch.long))
        hidden = out.last_hidden_state[0].numpy()
        vector = hidden[0] if pooling == "cls" else hidden.mean(axis=0)
        vectors.append(vector / np.linalg.norm(vector) if normalize else vector)
        states.append(hidden)
    return np.array(vectors), states


def save(out, name, models, texts, ids, vectors, **more):
    golden = {"models": models, **more, "texts": texts, "ids": ids, "embeddings": rounded(vectors)}
    states = golden.pop("states", None)
    if states is not None:
        golden["tokens"] = {"text": 0, "rows": rounded(states[0])}  # the last layer's output for texts[0]
    body = json.dumps(golden, ensure_ascii=False)
    for key in golden:
        body = body.replace(f', "{key}": ', f',\n "{key}": ')
    body = body.replace("], [", "],\n  [")
    (out / f"{name}.json").write_text(body + "\n", encoding="utf-8")
    print(f"{name}: {len(texts)} texts, {len(vectors[0])} wide")


def encoder(models_dir, out, name, folder, weights, files, pooling, normalize, max_tokens, prefix=""):
    """One JSON for all of `files`, which hold the network of `weights`; `folder` has its tokenizer."""
    texts = TEXTS
    tokenizer = Tokenizer.from_file(str(models_dir / folder / "tokenizer.json"))
    ids = encode(tokenizer, [prefix + text for text in texts], max_tokens)
    vectors, states = run(bert_from_gguf(models_dir / weights), ids, pooling, normalize)
    for file in files:
        if file.endswith(".gguf"):
            again, _ = run(bert_from_gguf(models_dir / file), ids, pooling, normalize)
            assert np.abs(again - vectors).max() == 0, file
        else:
            reference = SentenceTransformer(str(models_dir / file), device="cpu", model_kwargs={"dtype": "float32"})
            got = reference.encode([prefix + text for text in texts])
            assert np.abs(got - vectors).max() < 2e-5, (file, np.abs(got - vectors).max(axis=1))
            assert reference.max_seq_length == max_tokens, (file, reference.max_seq_length)
    save(out, name, files, texts, ids, vectors, pooling=pooling, normalize=normalize, max_tokens=max_tokens,
         prefix=prefix, states=states)


def static(models_dir, out, name, files, normalize):
    model = StaticModel.from_pretrained(models_dir / files[0])
    assert model.normalize == normalize
    ids = [[int(i) for i in row] for row in model.tokenize(TEXTS)]
    vectors = model.encode(TEXTS)
    for file in files[1:]:
        other = StaticModel.from_pretrained(models_dir / file).encode(TEXTS)
        assert np.abs(np.asarray(other, np.float32) - vectors).max() < 2e-3, file
    save(out, name, files, TEXTS, ids, vectors, pooling="mean", normalize=normalize, max_tokens=0, prefix="")


def check_quantisers(models_dir):
    """make_models.py rounds as ggml does."""
    f32 = {t.name: t for t in gguf.GGUFReader(models_dir / "bert-mean-f32.gguf").tensors}
    for kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0):
        for tensor in gguf.GGUFReader(models_dir / f"bert-mean-{kind.name.lower()}.gguf").tensors:
            if tensor.tensor_type == kind:
                wanted = gguf.quantize(f32[tensor.name].data, kind)
                assert np.array_equal(wanted.reshape(-1), np.array(tensor.data).reshape(-1)), tensor.name


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    models_dir, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    check_quantisers(models_dir)
    mean = "bert-mean-f32.gguf"
    encoder(models_dir, out, "bert-mean", "bert-mean", mean,
            ["bert-mean-f32.gguf", "bert-mean-f16.gguf", "bert-mean-bf16.gguf"], "mean", True, 64)
    encoder(models_dir, out, "bert-mean-48", "bert-mean", mean, ["bert-mean"], "mean", True, 48)
    encoder(models_dir, out, "bert-shards", "bert-shards", mean, ["bert-shards"], "mean", False, 64)
    for kind in ("q8_0", "q4_0"):
        file = f"bert-mean-{kind}.gguf"
        encoder(models_dir, out, f"bert-mean-{kind}", "bert-mean", file, [file], "mean", True, 64)
    encoder(models_dir, out, "bert-cls", "bert-cls", "bert-cls-f32.gguf", ["bert-cls", "bert-cls-f32.gguf"], "cls",
            True, 64)
    encoder(models_dir, out, "e5", "e5", "e5-f16.gguf", ["e5", "e5-f16.gguf"], "mean", True, 64, "query: ")
    encoder(models_dir, out, "e5-q4_0", "e5", "e5-q4_0.gguf", ["e5-q4_0.gguf"], "mean", True, 64, "passage: ")
    static(models_dir, out, "static", ["static-f32", "static-f16"], True)
    static(models_dir, out, "static-int8", ["static-int8"], True)
    static(models_dir, out, "static-vocab", ["static-vocab"], False)


if __name__ == "__main__":
    main()
