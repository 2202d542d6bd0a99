#!/usr/bin/env bash
# A full context takes what the plan says: for every budget, context and format of keys and values here, a prompt and an
# answer that fill the context peak at most as high as predicted, and at most 10 % (or 8 MiB) lower. In a control group
# of the budget nothing is killed, with the weights streamed too. Where the model is that is not beside every checkout.
# usage: context_test.sh PROGRAM     CABE_TEST_CHAT_MODEL: a larger model to try as well
set -euo pipefail
program=$(realpath "$1")
data=$(cd "$(dirname "$0")/../../.." && pwd)/shared/data
if [ ! -r "$data/llm-stories260k/stories260K.bin" ]; then
    echo "skip: no llm-stories260k beside the checkout"
    exit 77
fi
if grep -qaE '__(asan|tsan)_init' "$program"; then
    echo "skip: a sanitizer's own memory is not in any plan"
    exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CABE_HOME=$work/home

python3 - "$program" "$data" "$work" <<'PYTHON'
import json
import os
import pathlib
import subprocess
import sys

program, data, work = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
MIB = 1 << 20
OVERHEAD = 4 * MIB  # of a control group: page tables, stacks and file pages in flight that no process can count
failed = checked = grouped = 0
words = "Once upon a time there was a little girl who had a red ball and a dog that ran to the park ".split()


def complain(text):
    global failed
    failed += 1
    print("context:", text)


def text_of(n):
    return " ".join(words[i % len(words)] for i in range(n))


def run(model, n_words, options, group=None):
    """A prompt of so many words and an answer until the context is full."""
    command = [program, "run", str(model), "--raw", "--no-echo", "--ignore-eos", "--temp", "0", "--json", *options]
    if group:
        command = ["sh", "-c", f"echo $$ > {group}/cgroup.procs; exec \"$@\"", "sh", *command]
    done = subprocess.run(command, input=text_of(n_words), capture_output=True, text=True)
    if done.returncode:
        complain(f"{model.name} {' '.join(options)}: exit code {done.returncode}: {done.stderr.strip()}")
        return None
    return json.loads(done.stdout)


def check(model, n_words, options, group=None):
    global checked
    answer = run(model, n_words, options, group)
    if answer is None:
        return None
    label = f"{model.name} {' '.join(options)}"
    peak, predicted = answer["peak_bytes"], answer["predicted_peak_bytes"]
    if answer["finish"] != "context":
        complain(f"{label}: ended by {answer['finish']}, the context is not full")
    if peak > predicted:
        complain(f"{label}: took {peak / MIB:.2f} MiB, predicted {predicted / MIB:.2f}")
    elif predicted > max(1.1 * peak, peak + 8 * MIB):
        complain(f"{label}: took {peak / MIB:.2f} MiB, predicted as much as {predicted / MIB:.2f}")
    checked += 1
    return answer


def new_group(limit):
    root = pathlib.Path("/sys/fs/cgroup/memory")
    names = ("memory.limit_in_bytes", "memory.oom_control")
    if not (root / "cgroup.procs").exists():
        root, names = pathlib.Path("/sys/fs/cgroup"), ("memory.max", "memory.events")
    folder = root / f"cabe_context_{os.getpid()}"
    try:
        if not (root / "cgroup.procs").exists():
            return None
        folder.mkdir()
        (folder / names[0]).write_text(str(limit))
    except OSError:
        if folder.exists():
            folder.rmdir()
        return None
    return folder, folder / names[1]


def kills(counts):
    return sum(int(line.split()[1]) for line in counts.read_text().splitlines() if line.split()[0] == "oom_kill")


def in_group(model, n_words, options):
    """In a control group of the smallest budget that fits, which streams, and of one a little larger."""
    global grouped
    refused = subprocess.run([program, "plan", str(model), "--memory", "1M", "--json", *options], capture_output=True,
                             text=True)
    least = json.loads(refused.stdout)["smallest_budget_bytes"]
    for memory in (least + MIB, least + 3 * MIB):
        made = new_group(memory + OVERHEAD)
        if not made:
            print("context: control groups are not tried")
            return
        folder, counts = made
        try:
            answer = check(model, n_words, [*options, "--memory", str(memory)], folder)
            if kills(counts):
                complain(f"{model.name} in {memory / MIB:.1f} MiB: {kills(counts)} kills")
            if answer and answer["predicted_peak_bytes"] > memory:
                complain(f"{model.name} in {memory / MIB:.1f} MiB: predicted {answer['predicted_peak_bytes'] / MIB:.1f}")
            grouped += 1
        finally:
            folder.rmdir()


small = data / "llm-stories260k" / "stories260K.bin"
for options in (["--ctx", "256"], ["--ctx", "512"], ["--ctx", "512", "--kv", "q8"], ["--ctx", "512", "--kv", "f32"],
                ["--ctx", "512", "--batch", "16"], ["--ctx", "512", "--memory", "64M", "--threads", "1"]):
    check(small, 60, options)
in_group(small, 60, ["--ctx", "512"])

large = os.environ.get("CABE_TEST_CHAT_MODEL")
if large:
    for options in (["--ctx", "512"], ["--ctx", "2048"], ["--ctx", "2048", "--kv", "q8"], ["--ctx", "1024", "--batch", "64"]):
        check(pathlib.Path(large), 300, options)
    in_group(pathlib.Path(large), 60, ["--ctx", "256"])
else:
    print("context: a chat model is not tried: no CABE_TEST_CHAT_MODEL")
print(f"context: {checked} contexts filled, {grouped} in control groups, {failed} complaints")
sys.exit(1 if failed or not checked else 0)
PYTHON
