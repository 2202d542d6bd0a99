#!/usr/bin/env python3
"""Tokens a second of cabe and its peers on the same GGUF files, interleaved, medians.

usage: llm.py --cabe CABE --peer NAME=FOLDER [--peer NAME=FOLDER] [--repeats N] [--threads N] [--tests A,B] MODEL.gguf...

FOLDER holds a peer's llama-bench, and llama-batched-bench for tests of several sequences. A peer that can repack
weights while it loads is measured with and without; the table compares cabe with the best of all peers' settings.

Tests: ppN is a prompt of N tokens, tgN the decoding of N tokens, tgN@D the same behind D tokens of context, tgNxS the
same for S sequences at once (tokens of all together). Default: pp512,tg128,tg32@4096,tg32x8. `cabe bench --json` is
asked for the same names; a test that an engine does not know is left out of its column.

Every turn runs every engine once, so that what else the machine does meets all alike. Peers warm up by themselves.
Python 3, standard library only.
"""
import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

DEFAULT_TESTS = "pp512,tg128,tg32@4096,tg32x8"
TEST = re.compile(r"(pp|tg)(\d+)(?:@(\d+))?(?:x(\d+))?$")


class Test:
    def __init__(self, name):
        parts = TEST.match(name)
        if not parts or (parts[1] == "pp" and parts[4]):
            sys.exit(f"llm.py: test '{name}': wanted ppN, tgN, tgN@D or tgNxS")
        self.name, self.kind, self.n = name, parts[1], int(parts[2])
        self.depth, self.sequences = int(parts[3] or 0), int(parts[4] or 1)


def output(command, both=False, seconds=1800):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=seconds,
                          cwd=tempfile.gettempdir())  # a peer leaves its log where it runs
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"exit code {done.returncode}")
    return done.stdout + done.stderr if both else done.stdout


class Peer:
    """llama-bench of a folder; `options` is one setting of it."""

    def __init__(self, name, folder, help_text, options):
        self.name, self.folder, self.help, self.options = name, pathlib.Path(folder).resolve(), help_text, options

    def run(self, model, test, threads):
        common = ["-m", model, "-t", threads, *self.options]
        if test.sequences > 1:
            return self.batch(model, test, threads)
        if test.depth and " -d," in self.help:
            shape = ["-p", 0, "-n", test.n, "-d", test.depth]
        elif test.depth:
            shape = ["-p", 0, "-n", 0, "-gp", f"{test.depth},{test.n}"]
        else:
            shape = ["-p", test.n if test.kind == "pp" else 0, "-n", test.n if test.kind == "tg" else 0]
        text = output([self.folder / "llama-bench", *common, *shape, "-r", 1, "-o", "json"])
        results = json.loads(text[text.index("[\n"):])
        if len(results) != 1:
            raise RuntimeError(f"{len(results)} results of {test.name}")
        return results[0]["avg_ts"]

    def batch(self, model, test, threads):
        room = test.sequences * (test.n + 16) + 64
        text = output([self.folder / "llama-batched-bench", "-m", model, "-t", threads, "-c", room, "-npp", 16, "-ntg",
                       test.n, "-npl", test.sequences, *(["-rtr"] if "-rtr" in self.options else [])],
                      both=True)
        rows = [[cell.strip() for cell in line.strip().strip("|").split("|")]
                for line in text.splitlines() if line.startswith("|")]
        header = next((row for row in rows if "S_TG t/s" in row), None)
        values = [row for row in rows if header and len(row) == len(header) and row[0] == "16"]
        if not values:
            raise RuntimeError("no row of llama-batched-bench")
        return float(values[-1][header.index("S_TG t/s")])


class Cabe:
    name = "cabe"

    def __init__(self, program):
        self.program = program

    def run(self, model, test, threads):
        text = output([self.program, "bench", model, "--threads", threads, "--tests", test.name, "--json"])
        for result in json.loads(text)["results"]:
            if result["test"] == test.name:
                return result["tokens_per_s"]
        raise RuntimeError(f"cabe bench gave no {test.name}")


def engines_of(args):
    engines = [Cabe(args.cabe)] if args.cabe else []
    for peer in args.peer:
        name, _, folder = peer.partition("=")
        bench = pathlib.Path(folder) / "llama-bench"
        if not folder or not bench.exists():
            sys.exit(f"llm.py: --peer '{peer}': no {bench}")
        done = subprocess.run([bench, "--help"], capture_output=True, text=True)
        help_text = done.stdout + done.stderr
        engines.append(Peer(name, folder, help_text, ["-fa", "1"]))
        if "-rtr" in help_text:
            engines[-1].name += " plain"
            engines.append(Peer(name + " repacked", folder, help_text, ["-fa", "1", "-rtr", "1"]))
    return engines


def measure(args, engines, tests):
    """{(model, test, engine): rates}"""
    rates, broken = {}, set()
    for model in args.models:
        for test in tests:
            for turn in range(args.repeats):
                for engine in engines:
                    key = model, test.name, engine.name
                    if key in broken:
                        continue
                    try:
                        rate = engine.run(model, test, args.threads)
                    except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
                        broken.add(key)
                        print(f"{engine.name}, {test.name}, {pathlib.Path(model).name}: {error}", file=sys.stderr)
                        continue
                    rates.setdefault(key, []).append(rate)
                    print(f"  {pathlib.Path(model).name} {test.name} {engine.name}: {rate:.2f}", file=sys.stderr,
                          flush=True)
    return rates


def table(args, engines, tests, rates):
    names = [engine.name for engine in engines]
    print("| model | test | " + " | ".join(names) + " | cabe / better peer |")
    print("|---" * (len(names) + 3) + "|")
    for model in args.models:
        for test in tests:
            medians = {name: statistics.median(rates[model, test.name, name]) for name in names
                       if (model, test.name, name) in rates}
            best = max((rate for name, rate in medians.items() if name != "cabe"), default=0)
            cells = [f"{medians[name]:.1f}" if name in medians else "–" for name in names]
            ratio = f"{medians['cabe'] / best:.2f}" if "cabe" in medians and best else "–"
            print(f"| {pathlib.Path(model).stem} | {test.name} | " + " | ".join(cells) + f" | {ratio} |")


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--cabe")
    parser.add_argument("--peer", action="append", default=[])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tests", default=DEFAULT_TESTS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    args.models = [str(pathlib.Path(model).resolve()) for model in args.models]
    args.cabe = args.cabe and pathlib.Path(args.cabe).resolve()
    tests = [Test(name) for name in args.tests.split(",")]
    engines = engines_of(args)
    rates = measure(args, engines, tests)
    if args.json:
        print(json.dumps([{"model": model, "test": test, "engine": engine, "tokens_per_s": values}
                          for (model, test, engine), values in rates.items()], indent=1))
    else:
        table(args, engines, tests, rates)


if __name__ == "__main__":
    main()
