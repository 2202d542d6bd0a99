#!/usr/bin/env bash
# `cabe search` as a person meets it: hits and their places, text and --json, odd files, exit codes.
# usage: search_test.sh PROGRAM     CABE_GOLDEN_MODELS is the folder with the models; needs jq
set -uo pipefail
cd "$(dirname "$0")/../.."
program=$(realpath "$1")
models=${CABE_GOLDEN_MODELS:-$(dirname "$program")/golden}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CABE_HOME=$work/home
model=$models/e5
failed=0

fail() { echo "search: $*"; failed=1; }

expect() { # CODE PATTERN ARGUMENTS...
    local want=$1 pattern=$2 out code
    shift 2
    out=$("$program" search "$@" 2>&1)
    code=$?
    [ "$code" -eq "$want" ] || fail "$*: exit code $code, wanted $want: $out"
    grep -Eqa -- "$pattern" <<<"$out" || fail "$*: lacks /$pattern/: $out"
}

for i in $(seq 1 1200); do echo "line number $i of a file about rivers, stones and light"; done > "$work/lines.txt"
echo "an engine that hums in winter" >> "$work/lines.txt"
: > "$work/empty.txt"
printf 'one\nbad \xfe\n' > "$work/bad.txt"
printf 'a\0b\n\nthird' > "$work/odd.txt"

expect 0 'lines.txt:1201  an engine that hums in winter' "$model" "an engine that hums in winter" -i "$work/lines.txt" -k 3
report=$("$program" search "$model" "an engine that hums in winter" "rivers" -i "$work/lines.txt" -k 3 --json 2>/dev/null)
jq -e '.lines == 1201 and .peak_bytes > 0 and (.results | length) == 2 and .results[0].hits[0].line == 1201 and
       .results[0].hits[0].text == "an engine that hums in winter" and .results[1].query == "rivers" and
       ([.results[].hits | length] == [3, 3]) and
       ([.results[].hits | [.[].score] | . == (sort | reverse)] | all)' <<<"$report" >/dev/null || fail "--json: $report"

# The same whatever the threads, chunks and device.
for options in "--threads 1" "--threads 2" "--batch 64" "--device sim"; do
    found=$("$program" search "$model" "rivers" -i "$work/lines.txt" --dtype f32 --json $options 2>/dev/null | jq -c .results)
    [ "$found" = "${first:=$found}" ] || fail "$options gives other hits"
done
for rows in f16 int8; do
    expect 0 'lines.txt:1201' "$model" "an engine that hums in winter" -i "$work/lines.txt" -k 1 --rows "$rows"
done

expect 0 'odd.txt:3  third' "$model" third -i "$work/odd.txt" -k 100
hits=$("$program" search "$model" third -i "$work/odd.txt" -k 100 --json 2>/dev/null | jq '.results[0].hits | length')
[ "$hits" = 3 ] || fail "100 of 3 lines: $hits hits"
expect 0 . "$model" "" -i "$work/odd.txt"
expect 2 'no line to search' "$model" x -i "$work/empty.txt"
expect 4 'bad.txt: line 2, byte 5 is not UTF-8' "$model" x -i "$work/bad.txt"
expect 4 'UTF-8' "$model" $'q\xff' -i "$work/odd.txt"
for broken in "$work/odd.txt" "$work/"$'missing\xff.txt'; do
    out=$("$program" search "$model" $'q\xff' -i "$broken" --json 2>/dev/null)
    jq -e '.error.status and .error.message' <<<"$out" >/dev/null || fail "--json of names that are not UTF-8: $out"
done
expect 3 'missing.txt' "$model" x -i "$work/missing.txt"
expect 3 'nowhere' nowhere x -i "$work/lines.txt"
expect 8 'directory' "$model" x -i "$work"
expect 2 'wanted a model' "$model" -i "$work/lines.txt"
expect 2 'wanted a number from 1 to 10000' "$model" x -i "$work/lines.txt" -k 0
expect 6 'missing' "$model" x -i "$work/lines.txt" --memory 4M
name=$work/$'caf\xe9.txt'
cp "$work/odd.txt" "$name"
expect 0 'third' "$model" third -i "$name"
"$program" search "$model" third -i "$name" > /dev/full 2>/dev/null
[ $? -ge 8 ] || fail "a full disk goes unnoticed"

[ "$failed" -eq 0 ] && echo "search: as it should be"
exit "$failed"
