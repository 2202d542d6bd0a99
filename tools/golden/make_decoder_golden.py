#!/usr/bin/env python3
"""Computes tests/golden/decoder-*.json: logits of the tiny decoders as transformers has them, in f64.

usage: make_decoder_golden.py MODELS OUT       (MODELS made by make_models.py; needs torch, transformers, gguf)
"""
import json
import pathlib
import sys

import torch
from gguf import GGUFReader, dequantize
from transformers import AutoConfig, AutoModelForCausalLM

import make_decoders

IDS = [(7 * i * i + 3 * i + 1) % make_decoders.VOCABULARY for i in range(40)]
POSITIONS = [0, 5, 17, 39]


def logits(model):
    model = model.double().eval()
    with torch.no_grad():
        out = model(torch.tensor([IDS]), use_cache=False).logits[0]
    return [[float(f"{x:.7g}") for x in out[position].tolist()] for position in POSITIONS]


def of_folder(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")


def of_gguf(path, decoder):
    """The network with the weights of the file as gguf reads them, rows of q and k back in their halves."""
    config = AutoConfig.for_model(**decoder.config())
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config)
    back = {name: key for key, name in zip(decoder.tensors, decoder.gguf_tensors())}
    state = {}
    for tensor in GGUFReader(path).tensors:
        key = back[tensor.name]
        shape = decoder.tensors[key][0]
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type).copy()).reshape(shape)
        if key.endswith(("q_proj.weight", "k_proj.weight")):
            values = values.reshape(-1, decoder.head_dim // 2, 2, shape[1]).transpose(1, 2).reshape(shape)
        state[key] = values
    if decoder.tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    return model


def main():
    models, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    goldens = {}
    for name in make_decoders.decoders():
        files = [name] + [f.name for f in sorted(models.glob(f"{name}-f32.gguf")) + sorted(models.glob(f"{name}.bin"))]
        goldens[name] = files, logits(of_folder(models / name))
    for name, decoder, _ in make_decoders.mixed():
        goldens[name] = [name + ".gguf"], logits(of_gguf(models / f"{name}.gguf", decoder))
    for name, (files, values) in goldens.items():
        rows = ",\n  ".join(json.dumps(row) for row in values)
        tolerance = 2e-3 if name == "mixed-fives" else 1e-4  # q5_k is read as f16
        head = json.dumps({"models": files, "tolerance": tolerance, "ids": IDS, "positions": POSITIONS})[:-1]
        (out / f"decoder-{name}.json").write_text(f"{head},\n \"logits\": [\n  {rows}]}}\n")


if __name__ == "__main__":
    main()
