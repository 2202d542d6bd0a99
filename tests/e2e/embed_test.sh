#!/usr/bin/env bash
# `cabe embed` as a person meets it: outputs, prefixes, odd inputs, exit codes, and what a stopped run leaves behind.
# usage: embed_test.sh PROGRAM     CABE_GOLDEN_MODELS is the folder with the models; needs python3 and jq
set -uo pipefail
cd "$(dirname "$0")/../.."
program=$(realpath "$1")
models=${CABE_GOLDEN_MODELS:-$(dirname "$program")/golden}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CABE_HOME=$work/home
bert=$models/bert-mean-f32.gguf
static=$models/static-f32
failed=0

fail() { echo "embed: $*"; failed=1; }

# expect CODE PATTERN ARGUMENTS...: exit code of `cabe embed ...`, and a pattern that output and errors together match
expect() {
    local want=$1 pattern=$2 out code
    shift 2
    out=$("$program" embed "$@" 2>&1 < "${stdin:-/dev/null}")
    code=$?
    [ "$code" -eq "$want" ] || fail "$*: exit code $code, wanted $want: $out"
    grep -Eqa -- "$pattern" <<<"$out" || fail "$*: lacks /$pattern/: $out"
}

rows() { # FILE.npy: "N WIDTH DTYPE"
    python3 - "$1" <<'PYTHON'
import ast, struct, sys
data = open(sys.argv[1], "rb").read()
assert data[:6] == b"\x93NUMPY" and data[6] == 1
(n,) = struct.unpack("<H", data[8:10])
head = ast.literal_eval(data[10:10 + n].decode())
size = {"<f4": 4, "<f2": 2, "|i1": 1}[head["descr"]]
shape = head["shape"]
assert len(shape) == 2 and not head["fortran_order"] and (10 + n) % 64 == 0
assert len(data) == 10 + n + size * shape[0] * shape[1], (len(data), shape)
print(shape[0], shape[1], head["descr"])
PYTHON
}

is() { # WHAT FOUND WANTED
    [ "$2" = "$3" ] || fail "$1: '$2', wanted '$3'"
}

only() { # the files in the work folder that match *.npy* or *.jsonl* or are temporary
    local found
    found=$(cd "$work" && ls -A | grep -E 'npy|jsonl|cabe-' | sort | tr '\n' ' ')
    is "files left" "$found" "$1"
}

# ---- outputs ----
printf 'one text\nand another one\n\nthe last has no end' > "$work/lines.txt"
expect 0 '^4 texts, [0-9]+ tokens in .* texts/s; peak .*, predicted ' "$bert" -i "$work/lines.txt" -o "$work/a.npy"
width=$(rows "$work/a.npy" | cut -d' ' -f2)
is a.npy "$(rows "$work/a.npy")" "4 $width <f4"
expect 0 . "$bert" -i "$work/lines.txt" -o "$work/f16.npy" --rows f16
is f16.npy "$(rows "$work/f16.npy")" "4 $width <f2"
expect 0 . "$bert" -i "$work/lines.txt" -o "$work/i8.npy" --rows int8
is i8.npy "$(rows "$work/i8.npy")" "4 $width |i1"
expect 0 . "$bert" -i "$work/lines.txt" -o "$work/a.jsonl"
is "lines of a.jsonl" "$(wc -l < "$work/a.jsonl")" 4
is "texts of a.jsonl" "$(jq -c '.text' "$work/a.jsonl" | tr '\n' ' ')" '"one text" "and another one" "" "the last has no end" '
is "widths of a.jsonl" "$(jq '.embedding | length' "$work/a.jsonl" | sort -u)" "$width"
python3 - "$work" <<'PYTHON' || fail "a.npy, f16.npy, i8.npy and a.jsonl differ"
import json, pathlib, struct, sys
work = pathlib.Path(sys.argv[1])
def read(name, kind):
    data = (work / name).read_bytes()
    at = 10 + struct.unpack("<H", data[8:10])[0]
    return [x[0] for x in struct.iter_unpack("<" + kind, data[at:])]
f32 = read("a.npy", "f")
lines = [x for line in (work / "a.jsonl").open() for x in json.loads(line)["embedding"]]
assert f32 == [struct.unpack("<f", struct.pack("<f", x))[0] for x in lines]
assert all(abs(a - b) < 1e-3 for a, b in zip(f32, read("f16.npy", "e")))
i8 = read("i8.npy", "b")
width = len(f32) // 4
for i in range(4):
    a, b = f32[i * width:(i + 1) * width], i8[i * width:(i + 1) * width]
    dot, aa, bb = sum(x * y for x, y in zip(a, b)), sum(x * x for x in a), sum(x * x for x in b)
    assert aa == bb == 0 or dot / (aa * bb) ** 0.5 > 0.999
PYTHON
"$program" embed "$bert" < "$work/lines.txt" > "$work/out" 2>/dev/null || fail "from standard input to standard output"
cmp -s "$work/out" "$work/a.jsonl" || fail "standard output has other lines than a file"
report=$("$program" embed "$bert" -i "$work/lines.txt" -o "$work/a.npy" --json 2>/dev/null)
# A sanitizer's own memory is in no plan.
grep -qaE '__(asan|tsan)_init' "$program" && report=$(jq '.peak_bytes = 1' <<<"$report")
jq -e '.texts == 4 and .tokens > 8 and .width > 0 and .seconds >= 0 and .first_seconds >= 0 and .peak_bytes > 0 and
       .predicted_peak_bytes >= .peak_bytes and .plan.fits and (.output | endswith("a.npy"))' <<<"$report" >/dev/null ||
    fail "--json: $report"
rm "$work"/*.npy "$work"/*.jsonl

# ---- prefixes ----
expect 0 . "$models/e5" -i "$work/lines.txt" -o "$work/none.npy" --prefix none
expect 0 . "$models/e5" -i "$work/lines.txt" -o "$work/query.npy" --prefix query
sed 's/^/query: /' "$work/lines.txt" > "$work/prefixed.txt"
expect 0 . "$models/e5" -i "$work/prefixed.txt" -o "$work/by-hand.npy"
cmp -s "$work/query.npy" "$work/by-hand.npy" || fail "--prefix query is not 'query: ' by hand"
cmp -s "$work/query.npy" "$work/none.npy" && fail "--prefix query changes nothing"
expect 2 "'question': wanted query, passage or none" "$models/e5" --prefix question
rm "$work"/*.npy

# ---- odd texts ----
: > "$work/empty.txt"
expect 0 '^0 texts' "$bert" -i "$work/empty.txt" -o "$work/o.npy"
is "no texts" "$(rows "$work/o.npy")" "0 $width <f4"
expect 0 '^0 texts' "$bert" -i "$work/empty.txt" -o "$work/o.jsonl"
is "bytes of no texts" "$(wc -c < "$work/o.jsonl")" 0
printf '\n\n\n' > "$work/blank.txt"
expect 0 '^3 texts' "$bert" -i "$work/blank.txt" -o "$work/o.npy"
printf 'one text\r\nand another one\r\n\r\nthe last has no end\r\n' > "$work/crlf.txt"
expect 0 '^4 texts' "$bert" -i "$work/crlf.txt" -o "$work/crlf.npy"
expect 0 '^4 texts' "$bert" -i "$work/lines.txt" -o "$work/lf.npy"
cmp -s "$work/crlf.npy" "$work/lf.npy" || fail "CRLF gives other rows"
printf 'a\0b\nplain\n' > "$work/nul.txt"
expect 0 '^2 texts' "$bert" -i "$work/nul.txt" -o "$work/o.npy"
expect 0 'u0000b' "$bert" -i "$work/nul.txt"
python3 -c 'print("word " * 2000000)' > "$work/long.txt"
echo after >> "$work/long.txt"
expect 0 '^2 texts' "$bert" -i "$work/long.txt" -o "$work/o.npy"
printf 'fine\nalso fine\nbad \xff byte\n' > "$work/bad.txt"
rm "$work"/*.npy "$work"/*.jsonl
expect 4 'bad.txt: line 3, byte 5 is not UTF-8' "$bert" -i "$work/bad.txt" -o "$work/o.npy"
printf 'cut \xe2\x82' > "$work/cut.txt"
expect 4 'line 1, byte 5 is not UTF-8' "$bert" -i "$work/cut.txt" -o "$work/o.npy"
only ""

# ---- what goes wrong ----
expect 3 'nowhere' nowhere -i "$work/lines.txt"
expect 3 'missing.txt' "$bert" -i "$work/missing.txt"
expect 2 'wanted a name that ends in .npy or .jsonl' "$bert" -i "$work/lines.txt" -o "$work/o.csv"
expect 2 "'f33': wanted one of f32" "$bert" --dtype f33
expect 2 "'0': wanted a number from 1" "$bert" --threads 0
expect 2 "is not a size" "$bert" --memory lots
expect 2 'wanted one model' "$bert" "$static"
expect 6 'bytes are missing' "$bert" -i "$work/lines.txt" -o "$work/o.npy" --memory 5M
least=$("$program" plan "$bert" --memory 2M --json 2>/dev/null | jq .smallest_budget_bytes)
expect 6 'the budget is .* are missing; smallest change: ' "$bert" -i "$work/lines.txt" -o "$work/o.npy" \
    --memory $((least - 500000))
missing=$("$program" embed "$bert" -i "$work/lines.txt" -o "$work/o.npy" --memory 5M --json 2>/dev/null |
    jq '.error.missing_bytes')
[ "${missing:-0}" -gt 0 ] || fail "--json of a refusal has missing_bytes '$missing'"
head -c 2000 "$bert" > "$work/damaged.gguf"
expect 4 'damaged.gguf' "$work/damaged.gguf" -i "$work/lines.txt" -o "$work/o.npy"
echo not a model > "$work/text.gguf"
expect 4 'text.gguf' "$work/text.gguf" -i "$work/lines.txt" -o "$work/o.npy"
expect 8 'directory' "$bert" -i "$work" -o "$work/o.npy"
expect 3 'no-folder' "$bert" -i "$work/lines.txt" -o "$work/no-folder/o.npy"
only ""
"$program" embed "$bert" -i "$work/lines.txt" > /dev/full 2> "$work/errors"
is "exit code with a full disk" $? 9
ln -s /dev/full "$work/full.jsonl"
expect 9 'full.jsonl|No space' "$bert" -i "$work/lines.txt" -o "$work/full.jsonl"
rm "$work/full.jsonl"
"$program" embed "$bert" -i "$work/lines.txt" -o "$work/o.npy" <&- > "$work/out" 2>&1 || fail "standard input closed"
rm "$work/o.npy"
"$program" embed "$bert" -i "$work/lines.txt" >&- 2> "$work/errors"
is "exit code with standard output closed" $? 8
yes 'a text for a reader that leaves' | head -3000 | "$program" embed "$static" 2> "$work/errors" | head -1 > "$work/out"
codes=("${PIPESTATUS[@]}")
is "exit code when the reader leaves" "${codes[2]}" 8

# ---- a result stays as it was until the new one is whole ----
echo old > "$work/o.npy"
expect 4 'not UTF-8' "$bert" -i "$work/bad.txt" -o "$work/o.npy"
is "the old result" "$(cat "$work/o.npy")" old

# ---- Ctrl-C ----
mkfifo "$work/fifo"
for signal in INT TERM; do
    python3 - "$program" "$bert" "$work" "$signal" <<'PYTHON' || fail "stopped by SIG$signal"
import os, signal, subprocess, sys, time
program, model, work, name = sys.argv[1:]
run = subprocess.Popen([program, "embed", model, "-o", f"{work}/stopped.npy"], stdin=subprocess.PIPE,
                       stderr=subprocess.PIPE)
run.stdin.write(b"a text\n" * 1500)
run.stdin.flush()
for _ in range(200):  # the first chunk is at work or done: the output is open
    if any(entry.startswith(".cabe-") for entry in os.listdir(work)):
        break
    time.sleep(0.05)
time.sleep(0.2)
run.send_signal(getattr(signal, "SIG" + name))
try:
    code = run.wait(timeout=30)
except subprocess.TimeoutExpired:
    run.kill()
    sys.exit("does not stop")
errors = run.stderr.read().decode()
if code != 130:
    sys.exit(f"exit code {code}: {errors}")
PYTHON
done
only "o.npy "

# ---- no home, no cache ----
(unset CABE_HOME XDG_CACHE_HOME XDG_DATA_HOME XDG_STATE_HOME HOME
 cd "$work" && "$program" embed "$static" -i lines.txt -o homeless.npy) > "$work/out" 2>&1 || fail "without a home: $(cat "$work/out")"
rm -f "$work/homeless.npy"
echo file > "$work/home-file"
(export CABE_HOME=$work/home-file
 "$program" embed "$static" -i "$work/lines.txt" -o "$work/f.npy") > "$work/out" 2>&1 || fail "a home that is a file: $(cat "$work/out")"
(export CABE_HOME=/proc/self
 "$program" embed "$static" -i "$work/lines.txt" -o "$work/g.npy") > "$work/out" 2>&1 || fail "a home that cannot be written: $(cat "$work/out")"
cmp -s "$work/f.npy" "$work/g.npy" || fail "rows differ without a cache"

[ "$failed" -eq 0 ] && echo "embed: as it should be"
exit "$failed"
