#!/usr/bin/env python3
"""Writes tests/golden/sampling.json: what the rules at the top of src/runtime/sample.h give, in numpy and f64.

usage: tools/golden/make_sampling_golden.py
"""
import json
from pathlib import Path

import numpy as np

DEFAULTS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0,
            "frequency_penalty": 0.0, "presence_penalty": 0.0, "penalty_last_n": -1, "seed": 1, "bias": []}
M32 = 0xFFFFFFFF


def uniform(seed, sequence, position):
    """Philox4x32-10, its first two words as 53 bits."""
    c = [position & M32, position >> 32, sequence & M32, sequence >> 32]
    k = [seed & M32, seed >> 32]
    for _ in range(10):
        p, q = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [q >> 32 ^ c[1] ^ k[0], q & M32, p >> 32 ^ c[3] ^ k[1], p & M32]
        k = [k[0] + 0x9E3779B9 & M32, k[1] + 0xBB67AE85 & M32]
    return ((c[1] << 32 | c[0]) >> 11) * 2.0**-53


def softmax(z):
    w = np.exp(z - z.max())
    return w / w.sum()


def kept(logits, p, history):
    """The ids that may be drawn, likeliest first, and their probabilities."""
    z = logits.astype(np.float64)
    for token, bias in p["bias"]:
        z[token] += -np.inf if bias is None else bias
    last = history if p["penalty_last_n"] < 0 else history[len(history) - min(p["penalty_last_n"], len(history)):]
    for token in set(last):
        r = p["repetition_penalty"]
        z[token] = z[token] / r if z[token] > 0 else z[token] * r
        z[token] -= last.count(token) * p["frequency_penalty"] + p["presence_penalty"]
    ids = np.lexsort((np.arange(len(z)), -z))
    ids = ids[z[ids] > -np.inf]
    if p["temperature"] == 0:
        return ids[:1], np.ones(1)
    if p["top_k"]:
        ids = ids[:p["top_k"]]
    if p["top_p"] < 1:
        cumulative = np.cumsum(softmax(z[ids]))
        assert np.abs(cumulative - p["top_p"]).min() > 1e-4 or p["top_p"] == 0, "too near to a border"
        ids = ids[:np.searchsorted(cumulative, p["top_p"]) + 1]
    if p["min_p"]:
        ratio = np.exp(z[ids] - z[ids[0]])
        assert p["min_p"] == 1 or np.abs(ratio - p["min_p"]).min() > 1e-5, "too near to a border"
        ids = ids[ratio >= p["min_p"]]
    return ids, softmax(z[ids] / p["temperature"])


def case(rng, n, history, **changes):
    p = DEFAULTS | changes
    logits = (np.round(rng.standard_normal(n) * 192) / 64).astype(np.float32)  # short in JSON
    logits[rng.integers(n, size=n // 10)] = logits[0]  # equal ones
    ids, probabilities = kept(logits, p, history)
    cumulative = np.cumsum(probabilities)
    draws = []
    for position in range(40):
        u = uniform(p["seed"], 5, position)
        if np.abs(cumulative - u).min() > 1e-5:  # f32 may round to the other side
            draws.append([position, int(ids[np.searchsorted(cumulative, u, side="right")])])
    z = logits.astype(np.float64)
    logprobs = z - z.max() - np.log(np.exp(z - z.max()).sum())
    top = np.lexsort((np.arange(n), -z))[:5]
    return {"params": p, "history": history, "logits": [float(x) for x in logits],
            "ids": [int(i) for i in ids], "probabilities": [round(float(x), 8) for x in probabilities],
            "draws": draws, "top": [[int(i), round(float(logprobs[i]), 7)] for i in top]}


def main():
    rng = np.random.default_rng(20)
    history = [3, 7, 7, 3, 9, 11, 7]
    cases = [
        case(rng, 1, []), case(rng, 7, []), case(rng, 70, [], seed=2**63 - 1),
        case(rng, 70, [], temperature=0.0), case(rng, 70, [], temperature=0.3), case(rng, 70, [], temperature=2.5),
        case(rng, 130, [], top_k=1), case(rng, 130, [], top_k=7), case(rng, 130, [], top_k=64),
        case(rng, 130, [], top_p=0.5), case(rng, 130, [], top_p=0.93, temperature=1.7), case(rng, 130, [], top_p=0.0),
        case(rng, 130, [], min_p=0.1), case(rng, 130, [], min_p=1.0),
        case(rng, 130, [], top_k=40, top_p=0.95, min_p=0.05, temperature=0.8),
        case(rng, 130, [], top_k=90, top_p=0.8, min_p=0.01),
        case(rng, 40, history, repetition_penalty=1.3), case(rng, 40, history, repetition_penalty=0.8),
        case(rng, 40, history, frequency_penalty=0.7), case(rng, 40, history, presence_penalty=1.1),
        case(rng, 40, history, repetition_penalty=1.2, frequency_penalty=0.4, presence_penalty=0.2, penalty_last_n=3),
        case(rng, 40, history, repetition_penalty=1.2, penalty_last_n=0),
        case(rng, 40, [], bias=[[5, 4.0], [6, None], [5, 1.5]]),
        case(rng, 40, history, bias=[[7, 9.0]], temperature=0.0, repetition_penalty=1.1),
    ]
    path = Path(__file__).parents[2] / "tests/golden/sampling.json"
    path.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
    print(f"{path}: {len(cases)} cases, numpy {np.__version__}")


main()
