#!/usr/bin/env bash
# `cabe plan`: what fits, from headers alone, as text and JSON; the ladder, refusals, machines that are not here.
# usage: plan_test.sh PROGRAM     CABE_GOLDEN_MODELS is the folder with the models; needs jq
set -uo pipefail
cd "$(dirname "$0")/../.."
program=$(realpath "$1")
models=${CABE_GOLDEN_MODELS:-$(dirname "$program")/golden}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CABE_HOME=$work/home
model=$models/bert-mean-f32.gguf
failed=0

fail() { echo "plan: $*"; failed=1; }

expect() { # CODE PATTERN ARGUMENTS...
    local want=$1 pattern=$2 out code
    shift 2
    out=$("$program" plan "$@" 2>&1)
    code=$?
    [ "$code" -eq "$want" ] || fail "$*: exit code $code, wanted $want: $out"
    grep -Eqa -- "$pattern" <<<"$out" || fail "$*: lacks /$pattern/: $out"
}

json() { # FILTER ARGUMENTS...
    local filter=$1 out
    shift
    out=$("$program" plan "$@" --json 2>/dev/null)
    jq -e "$filter" <<<"$out" >/dev/null || fail "$*: not $filter: $out"
}

expect 0 '^embed: fits; peak ' "$model"
expect 0 'f32' "$model" --memory 1G --dtype f32
expect 6 'missing: .* smallest change: ' "$model" --memory 2M
json '.fits and .peak_bytes <= .budget_bytes and .task == "embed" and (.phases | length) >= 2 and
      ([.phases[].devices[] | .peak_bytes == ([.by_purpose[]] | add)] | all) and
      .peak_bytes == ([.phases[].peak_bytes] | max) and
      (.settings | has("batch_tokens") and has("dtype") and has("precision") and has("stream"))' "$model" --memory 1G
json '(.fits | not) and .missing_bytes > 0 and (.smallest_change | length) > 0 and
      .smallest_budget_bytes == .budget_bytes + .missing_bytes and (.ladder | length) > 3' "$model" --memory 2M
json '.settings.dtype == "f16"' "$model" --memory 1G --dtype f16
json '.settings.dtype == "q4_0"' "$models/bert-mean-q4_0.gguf" --memory 1G
json '.settings.dtype == "int8"' "$model" --describe "4 cores, 4 GB"
json '.settings.dtype == "f32"' "$model" --describe "16 cores, 64 GB"
json '.settings.batch_tokens == 2048' "$model" --batch 2048 --memory 1G

# Less memory never gives a plan that takes more, and what fits stays within its budget.
last=0
least=$("$program" plan "$model" --memory 2M --json 2>/dev/null | jq '.smallest_budget_bytes / 1024 | ceil')
for more in -1000 -200 200 500 800 1200 1600 2000 3000 6000 30000; do
    kib=$((least + more))
    out=$("$program" plan "$model" --memory ${kib}K --json 2>/dev/null)
    fits=$(jq -r '.fits' <<<"$out")
    peak=$(jq '.peak_bytes' <<<"$out")
    if [ "$fits" = true ]; then
        [ "$peak" -le $((kib * 1024)) ] || fail "$kib KiB: fits with a peak of $peak"
        [ $((peak + 262144)) -ge "$last" ] || # a process is not the same to the page
            fail "$kib KiB: peak $peak, less than $last of a smaller budget"
        last=$peak
    elif [ "$last" -gt 0 ]; then
        fail "$kib KiB: does not fit, but less did"
    fi
done
[ "$last" -gt 0 ] || fail "no budget fits"

# From headers alone: nothing is made, and a model whose weights are not there is planned all the same.
[ ! -e "$work/home/cache/fitted" ] || [ -z "$(ls -A "$work/home/cache/fitted")" ] || fail "a plan made a fitted copy"

printf 'First of all, there was a river here in winter.\nThen there was light over the river here in summer.\n' > "$work/t.txt"
expect 0 '^analyze: fits' analyze "$work/t.txt" --model "$model"
json '.fits and .task == "analyze" and ([.phases[].name] | index("embed") != null and index("compare") != null)' \
    analyze "$work/t.txt" --model "$model"
expect 3 'missing.txt' analyze "$work/missing.txt" --model "$model"
expect 2 'wants files and --model' analyze --model "$model"
expect 3 'nowhere' nowhere
expect 2 'wanted a model or a task'
expect 2 'wanted one model' "$model" "$model"
expect 2 'is not a size' "$model" --memory many
expect 2 '.' "$model" --describe "a machine of dreams"
expect 4 'text.gguf' "$(echo words > "$work/text.gguf"; echo "$work/text.gguf")"

[ "$failed" -eq 0 ] && echo "plan: as it should be"
exit "$failed"
