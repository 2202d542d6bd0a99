#!/usr/bin/env python3
"""A BERT folder to STEM.onnx (f32) and STEM.int8.onnx (onnxruntime's dynamic quantisation).

usage: export_onnx.py MODEL_FOLDER STEM
"""
import sys

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModel


class LastHiddenState(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, stem = sys.argv[1:]
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.ones(2, 9, dtype=torch.long)
    axes = {0: "batch", 1: "tokens"}
    torch.onnx.export(LastHiddenState(model), (ids, ids), stem + ".onnx", input_names=["input_ids", "attention_mask"],
                      output_names=["hidden"], opset_version=17, dynamo=False,
                      dynamic_axes={"input_ids": axes, "attention_mask": axes, "hidden": axes})
    quantize_dynamic(stem + ".onnx", stem + ".int8.onnx", weight_type=QuantType.QInt8)


main()
