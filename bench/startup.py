#!/usr/bin/env python3
"""Process start to end: `cabe --version`, and one embedding with a fitted copy. Medians of 15 runs, milliseconds.

usage: startup.py PROGRAM [MODEL]
"""
import os
import statistics
import subprocess
import sys
import tempfile
import time


def milliseconds(command, runs=15):
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        times.append(1000 * (time.perf_counter() - start))
        if done.returncode:
            sys.exit(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
    times = sorted(times[1:])  # the first one reads files and makes the fitted copy
    return f"{statistics.median(times):.1f} ms ({times[0]:.1f} – {times[-1]:.1f})"


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    program = sys.argv[1]
    print(f"--version: {milliseconds([program, '--version'])}")
    model = sys.argv[2] if len(sys.argv) > 2 else ""
    if not model:
        print("one embedding: not measured, no model given")
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CABE_HOME"] = os.path.join(folder, "home")
        line = os.path.join(folder, "line.txt")
        with open(line, "w", encoding="utf-8") as file:
            file.write("It is a truth universally acknowledged.\n")
        for options in ([], ["--dtype", "int8"]):
            command = [program, "embed", model, "-i", line, "-o", os.path.join(folder, "out.npy"), *options]
            print(f"one embedding {' '.join(options) or '(default)'}: {milliseconds(command)}")


main()
