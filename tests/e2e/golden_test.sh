#!/usr/bin/env bash
# `cabe embed` over the tiny models of tests/golden, file by file, against their reference vectors; and the same bytes
# from any threads, batch and device.
# usage: golden_test.sh PROGRAM     CABE_GOLDEN_MODELS is the folder with the models
set -euo pipefail
cd "$(dirname "$0")/../.."
program=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CABE_HOME=$work/home

python3 - "$program" "${CABE_GOLDEN_MODELS:-$(dirname "$program")/golden}" "$work" <<'PYTHON'
import json
import pathlib
import subprocess
import sys

sys.path.insert(0, "tools")
from npy import cosine, read_npy

program, models, work = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
failed = 0


def complain(text):
    global failed
    failed += 1
    print(text)


def embed(model, lines, *options):
    source, out = work / "lines.txt", work / "out.npy"
    source.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    command = [program, "embed", str(models / model), "-i", str(source), "-o", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        complain(f"{model} {' '.join(options)}: exit code {done.returncode}: {done.stderr.strip()}")
        return None
    return out


checked = 0
for path in sorted(pathlib.Path("tests/golden").glob("*.json")):
    golden = json.loads(path.read_text(encoding="utf-8"))
    if "embeddings" not in golden:
        continue
    prefix = golden["prefix"].strip(": ") or "none"
    for model in golden["models"]:
        out = embed(model, golden["texts"], "--precision", "high", "--prefix", prefix)
        if not out:
            continue
        rows = read_npy(out)
        if len(rows) != len(golden["texts"]):
            complain(f"{model}: {len(rows)} rows for {len(golden['texts'])} texts")
            continue
        for text, found, wanted in zip(golden["texts"], rows, golden["embeddings"]):
            scale = max(abs(x) for x in wanted) or 1.0
            error = max(abs(x - y) for x, y in zip(found, wanted)) / scale
            if error > (2e-3 if "f16" in model and "static" in model else 3e-5):
                complain(f"{model}: {text[:40]!r}: off by {error:.2g}, cosine {cosine(found, wanted):.7f}")
        checked += 1

def texts_of(name):
    return json.loads(pathlib.Path(f"tests/golden/{name}.json").read_text(encoding="utf-8"))["texts"]


# The dtype is fixed, because a budget or a small device may choose another plan.
for model, dtype, texts in (("bert-mean-q4_0.gguf", "q4_0", texts_of("bert-mean")), ("e5", "f32", texts_of("e5"))):
    wanted = None
    for options in (["--threads", "1"], ["--threads", "2"], ["--batch", "64"], ["--device", "sim"],
                    ["--device", "sim:8M", "--threads", "2"]):
        out = embed(model, texts, "--dtype", dtype, *options)
        if out:
            found = out.read_bytes()
            if wanted is not None and found != wanted:
                complain(f"{model}: other bytes with {' '.join(options)}")
            wanted = wanted or found
    rows = read_npy(embed(model, texts, "--dtype", dtype))
    for i in (0, 4, 11):
        if list(read_npy(embed(model, [texts[i]], "--dtype", dtype))[0]) != list(rows[i]):
            complain(f"{model}: text {i} alone has other bytes")

print(f"golden: {checked} models, {failed} complaints")
sys.exit(1 if failed or not checked else 0)
PYTHON
