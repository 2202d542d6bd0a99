#!/usr/bin/env python3
"""How far a model's default precision is from f32 activations: the divergence of what comes next, on pieces of a text.

usage: kl.py CABE MODEL TEXT [--pieces N]

Kullback-Leibler divergence of the next token's distribution, --precision high to the default one, from the 20
likeliest tokens of each and the rest as one; mean and largest in nats. Python 3, standard library only.
"""
import argparse
import json
import math
import pathlib
import subprocess


def likeliest(args, piece, precision):
    command = [args.cabe, "run", args.model, piece, "--raw", "--temp", "0", "-n", "1", "--ignore-eos", "--ctx", "1024",
               "--logprobs", "20", "--precision", precision, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {token["id"]: math.exp(token["logprob"]) for token in json.loads(done.stdout)["tokens"][0]["top"]}


def divergence(p, q):
    both = [token for token in p if token in q]
    rest_p, rest_q = (max(1e-9, 1 - sum(side[token] for token in both)) for side in (p, q))
    return sum(p[t] * math.log(p[t] / q[t]) for t in both) + rest_p * math.log(rest_p / rest_q)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cabe")
    parser.add_argument("model")
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--pieces", type=int, default=40)
    args = parser.parse_args()
    text = args.text.read_text(encoding="utf-8")
    found, same = [], 0
    for i in range(args.pieces):
        at = (i + 1) * len(text) // (args.pieces + 2)
        piece = text[at:at + 400 + 20 * i].strip()
        p, q = likeliest(args, piece, "high"), likeliest(args, piece, "int8")
        found.append(divergence(p, q))
        same += max(p, key=p.get) == max(q, key=q.get)
    print(f"KL mean {sum(found) / len(found):.5f}, max {max(found):.5f}; the same likeliest token {same} of {len(found)}")


if __name__ == "__main__":
    main()
