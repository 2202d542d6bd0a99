#!/usr/bin/env bash
# `cabe analyze` as a person meets it: groups with their places, text and --json, odd files, exit codes, a large file.
# usage: analyze_test.sh PROGRAM     CABE_GOLDEN_MODELS is the folder with the models; needs jq and python3
set -uo pipefail
cd "$(dirname "$0")/../.."
program=$(realpath "$1")
models=${CABE_GOLDEN_MODELS:-$(dirname "$program")/golden}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CABE_HOME=$work/home
static=$models/static-f32
bert=$models/bert-mean-f32.gguf
failed=0

fail() { echo "analyze: $*"; failed=1; }

expect() { # CODE PATTERN ARGUMENTS...
    local want=$1 pattern=$2 out code
    shift 2
    out=$("$program" analyze "$@" 2>&1)
    code=$?
    [ "$code" -eq "$want" ] || fail "$*: exit code $code, wanted $want: $out"
    grep -Eqa -- "$pattern" <<<"$out" || fail "$*: lacks /$pattern/: $out"
}

cat > "$work/a.txt" <<'TEXT'
The old engine hummed in the winter garden all night long.

Nobody in the market had seen a letter like this one before.
Rivers carry stones and light down to the silent harbour every spring.
TEXT
cat > "$work/b.txt" <<'TEXT'
A theory of paper and signals was written on that morning by the clerk.

The old engine hummed in the winter garden all night long.
TEXT

expect 0 '^7 sentences|^5 sentences in 2 files' "$work/a.txt" "$work/b.txt" --model "$bert"
expect 0 'b.txt:3  The old engine' "$work/a.txt" "$work/b.txt" --model "$bert" --threshold 0.99
expect 0 '^budget .*, predicted peak .*, measured peak .*: kept$' "$work/a.txt" --model "$bert"
report=$("$program" analyze "$work/a.txt" "$work/b.txt" --model "$bert" --threshold 0.999 --json 2>/dev/null)
grep -qaE '__(asan|tsan)_init' "$program" && # whose own memory is in no plan
    report=$(jq '.peak_bytes = 1 | .phases[].measured_peak_bytes = 1' <<<"$report")
jq -e '.sentences == 5 and .compared == 5 and (.files | length) == 2 and (.pairs | length) >= 1 and
       .pairs[0].kind == "verbatim" and .pairs[0].score > 0.99 and
       (.pairs[0].a.file | endswith("a.txt")) and .pairs[0].a.line == 1 and .pairs[0].a.begin == 0 and
       (.pairs[0].b.file | endswith("b.txt")) and .pairs[0].b.line == 3 and
       .groups[0].members[0].text == "The old engine hummed in the winter garden all night long." and
       ([.phases[].name] | index("embed") != null) and
       ([.phases[] | .measured_peak_bytes <= .predicted_peak_bytes] | all) and
       .plan.fits and .peak_bytes <= .plan.peak_bytes' <<<"$report" >/dev/null || fail "--json: $report"

# The same whatever the threads and the batch.
for options in "--threads 1" "--threads 2" "--batch 64"; do
    found=$("$program" analyze "$work/a.txt" "$work/b.txt" --model "$bert" --dtype f32 --json $options 2>/dev/null |
        jq -c '[.pairs, .groups]')
    [ "$found" = "${first:=$found}" ] || fail "$options gives other pairs"
done

# ---- odd files ----
: > "$work/empty.txt"
expect 0 '^0 sentences in 1 file, 0 compared' "$work/empty.txt" --model "$static"
expect 0 'No repeated ideas' "$work/empty.txt" --model "$static"
printf '\n \n\t\n***\n' > "$work/none.txt"
expect 0 ' 0 compared, 0 pairs in 0 groups' "$work/none.txt" --model "$static"
"$program" analyze "$work/none.txt" --model "$static" --json 2>/dev/null | jq -e '.groups == [] and .pairs == []' >/dev/null ||
    fail "--json of a file without sentences"
printf 'Fine here.\nNot \xc3\x28 fine.\n' > "$work/bad.txt"
expect 4 'bad.txt: byte 15 .* is not UTF-8' "$work/bad.txt" --model "$static"
name=$work/$'caf\xe9.txt'
cp "$work/a.txt" "$name"
expect 0 'sentences in 2 files' "$name" "$work/b.txt" --model "$static"
"$program" analyze "$name" "$work/b.txt" --model "$bert" --threshold 0.999 --json 2>/dev/null |
    jq -e '(.files | length) == 2 and (.pairs | length) >= 1 and (.pairs[0].a.file | contains("caf"))' >/dev/null ||
    fail "--json of a file whose name is not UTF-8"
printf 'The old engine hummed\0in the winter garden all night long. ' > "$work/nul.txt"
cat "$work/nul.txt" "$work/nul.txt" > "$work/nul2.txt"
expect 0 . "$work/nul2.txt" --model "$static"
"$program" analyze "$work/nul2.txt" --model "$static" --json 2>/dev/null | jq -e .pairs >/dev/null || fail "--json with NUL"
expect 2 'not a regular file' "$work" --model "$static"
expect 3 'missing.txt' "$work/a.txt" "$work/missing.txt" --model "$static"
expect 3 'nowhere' "$work/a.txt" --model nowhere
expect 2 'wanted at least one text file' --model "$static"
expect 2 'wanted a number above 0, at most 1' "$work/a.txt" --threshold 2
expect 2 'wanted a number from 1' "$work/a.txt" --min-words 0
expect 6 'missing' "$work/a.txt" --model "$bert" --memory 4M
"$program" analyze "$work/a.txt" --model "$static" > /dev/full 2>/dev/null
[ $? -ge 8 ] || fail "a full disk goes unnoticed"

# ---- a large file, within a budget that its text does not fit ----
python3 - "$work/large.txt" <<'PYTHON'
import random, sys
random.seed(5)
words = [f"w{random.randrange(10 ** 6)}" for _ in range(5000)]
with open(sys.argv[1], "w") as out:
    for _ in range(1400):
        line = " ".join(random.choices(words, k=14000 // 8))
        out.write(line + ".\n" + " ".join(random.choices(words, k=6)) + ".\n\n")
PYTHON
bytes=$(stat -c %s "$work/large.txt")
sanitized=0
grep -qaE '__(asan|tsan)_init' "$program" && sanitized=1 # whose own memory is not in any plan
memory=16M
[ "$sanitized" = 0 ] || memory=256M
report=$("$program" analyze "$work/large.txt" --model "$static" --memory "$memory" --threads 2 --json 2>/dev/null)
code=$?
[ "$code" -eq 0 ] || fail "a file of $bytes bytes: exit code $code: $report"
if [ "$sanitized" = 0 ]; then
    jq -e '.peak_bytes <= 16777216 and .sentences >= 1400' <<<"$report" >/dev/null ||
        fail "a file of $bytes bytes: $(jq -c '[.peak_bytes, .sentences]' <<<"$report")"
fi

# ---- Ctrl-C ----
"$program" analyze "$work/large.txt" --model "$bert" --threads 2 > "$work/out" 2>&1 &
pid=$!
sleep 0.7
kill -INT "$pid" 2>/dev/null
wait "$pid"
code=$?
[ "$code" -eq 130 ] || fail "stopped with exit code $code: $(head -c 300 "$work/out")"

[ "$failed" -eq 0 ] && echo "analyze: as it should be"
exit "$failed"
