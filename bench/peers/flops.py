#!/usr/bin/env python3
"""Multiply-and-add work (2 flop each) of a BERT folder over the lines of a file, no padding, as JSON.

usage: flops.py MODEL_FOLDER LINES
"""
import json
import sys

from tokenizers import Tokenizer


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, path = sys.argv[1:]
    config = json.load(open(folder + "/config.json"))
    width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(json.load(open(folder + "/sentence_bert_config.json"))["max_seq_length"])
    lengths = [len(row.ids) for row in tokenizer.encode_batch(open(path, encoding="utf-8").read().splitlines())]
    matrices = sum(lengths) * (4 * width * width + 2 * width * inner)
    attention = sum(n * n for n in lengths) * 2 * width
    print(json.dumps({"sentences": len(lengths), "tokens": sum(lengths), "flop": 2 * layers * (matrices + attention)}))


main()
