#!/usr/bin/env python3
"""Spearman correlation of a model's cosines with people's judgement (STS benchmark CSV: sentence, sentence, score).

usage: sts.py lines PAIRS.csv >lines.txt       the sentences, two lines a pair, for any program that embeds lines
       sts.py score PAIRS.csv VECTORS.npy      from the vectors of those lines
       sts.py cabe  PAIRS.csv PROGRAM MODEL [OPTION...]     both, with `cabe embed`

Standard library only.
"""
import csv
import os
import subprocess
import sys
import tempfile

from npy import cosine, read_npy


def read_pairs(path):
    """(sentence, sentence, score); the score is the last column that is a number."""
    pairs = []
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            try:
                pairs.append((" ".join(row[0].split()), " ".join(row[1].split()), float(row[2])))
            except (IndexError, ValueError):
                if pairs:
                    raise SystemExit(f"{path}: row {len(pairs) + 1}: not two sentences and a score")
    return pairs


def ranks(values):
    """From 1; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    out = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in range(start, end + 1):
            out[order[place]] = (start + end) / 2 + 1
        start = end + 1
    return out


def pearson(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    top = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b))
    return top / (sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)) ** 0.5


def score(pairs, path):
    vectors = read_npy(path)
    if len(vectors) != 2 * len(pairs):
        raise SystemExit(f"{path}: {len(vectors)} rows for {len(pairs)} pairs")
    found = [cosine(vectors[2 * i], vectors[2 * i + 1]) for i in range(len(pairs))]
    return pearson(ranks(found), ranks([pair[2] for pair in pairs]))


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("lines", "score", "cabe"):
        sys.exit(__doc__)
    pairs = read_pairs(sys.argv[2])
    lines = "".join(f"{a}\n{b}\n" for a, b, _ in pairs)
    if sys.argv[1] == "lines":
        sys.stdout.write(lines)
        return
    if sys.argv[1] == "score":
        print(f"{score(pairs, sys.argv[3]):.4f}")
        return
    with tempfile.TemporaryDirectory() as folder:
        source, out = os.path.join(folder, "lines.txt"), os.path.join(folder, "out.npy")
        with open(source, "w", encoding="utf-8") as file:
            file.write(lines)
        program, model, options = sys.argv[3], sys.argv[4], sys.argv[5:]
        done = subprocess.run([program, "embed", model, "-i", source, "-o", out, *options], stdout=subprocess.DEVNULL)
        if done.returncode:
            sys.exit(done.returncode)
        print(f"{score(pairs, out):.4f}")


if __name__ == "__main__":
    main()
