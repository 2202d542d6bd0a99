#!/usr/bin/env bash
# 'cabe machine': this machine, machines described, what it keeps, how it refuses, how long it takes.
# usage: machine_test.sh PROGRAM
set -uo pipefail
program=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CABE_HOME=$work/home
failed=0

fail() { echo "machine: $*" >&2; failed=1; }
# of FILTER: prints what the filter finds in the document on standard input
of() { python3 -c "import json, sys; d = json.load(sys.stdin); print(json.dumps($1))"; }
is() { [ "$2" = "$3" ] || fail "$1 is $2, wanted $3"; }

here=$("$program" machine --json) || fail "--json: exit code $?"
for key in tier origin cpu memory gpus limits recommendation; do
    of "d['$key']" <<<"$here" >/dev/null || fail "no $key"
done
is origin "$(of "d['origin']" <<<"$here")" '"probed"'
is "limits source" "$(of "d['limits']['source']" <<<"$here")" '"estimated"'
is "available within the limit" "$(of "0 < d['memory']['available_bytes'] <= d['memory']['limit_bytes'] <= d['memory']['total_bytes']" <<<"$here")" true
is "budget within available" "$(of "0 < d['recommendation']['budget_bytes'] < d['memory']['available_bytes']" <<<"$here")" true
is "reasons" "$(of "all(len(r) > 4 for r in d['recommendation']['reasons'].values()) and len(d['recommendation']['reasons'])" <<<"$here")" 11
"$program" machine | grep -Eq '^tier (low|medium|high): ' || fail "no tier in the table"

for pair in 'high|8 cores, 16 GB, gpu 6 GB' 'medium|4 cores, 8 GB' 'low|2 cores, 4 GB'; do
    is "${pair#*|}" "$("$program" machine --describe "${pair#*|}" --json | of "d['tier']")" "\"${pair%%|*}\""
    "$program" machine "--describe=${pair#*|}" | grep -q "^tier ${pair%%|*}: " || fail "${pair#*|}: table"
done
small=$("$program" machine --describe '8 cores, 16 GB, gpu 4 GB' --json)
is "the GPU's family" "$(of "[f for f, d in d['recommendation']['families'].items() if d == 'gpu0']" <<<"$small")" '["llm"]'
is "gpu_batch" "$(of "d['recommendation']['gpu_batch']" <<<"$small")" 8

"$program" machine --describe '8 bananas' >"$work/out" 2>"$work/err"
is "exit code of a wrong description" $? 2
[ -s "$work/out" ] && fail "a wrong description prints a result"
grep -q bananas "$work/err" || fail "the message does not name the part"
is "error as JSON" "$("$program" machine --json --describe '' 2>/dev/null | of "d['error']['status']")" '"argument"'
"$program" machine --describe 2>/dev/null; is "exit code without a text" $? 2
"$program" machine --measure --describe '2 cores' 2>/dev/null; is "exit code of both" $? 2
"$program" machine >/dev/full 2>/dev/null && fail "a full disk goes unnoticed"

# Measured once, known afterwards; nothing else is written.
start=$(date +%s%N)
"$program" machine --measure --json >"$work/measured" 2>/dev/null || fail "--measure: exit code $?"
measure_ms=$((($(date +%s%N) - start) / 1000000))
is "source after --measure" "$(of "d['limits']['source']" <"$work/measured")" '"measured"'
is "source of the next run" "$("$program" machine --json | of "d['limits']['source']")" '"measured"'
is "files kept" "$(find "$CABE_HOME" -type f | wc -l)" 1
mkdir -p "$work/closed" && touch "$work/closed/data"
CABE_HOME=$work/closed "$program" machine --json >/dev/null || fail "a home that cannot be used stops the probe"

# Processor time, the best of several: what the command takes, not what else runs here. A driver's library takes its own.
TIMEFORMAT='%U %S'
each_ms=1000000
for _ in 1 2 3 4 5; do
    ms=$({ time "$program" machine >/dev/null; } 2>&1 | awk '{printf "%d", ($1 + $2) * 1000}')
    each_ms=$((ms < each_ms ? ms : each_ms))
done
grep -qs '^CABE_SANITIZE:.*=.' "$(dirname "$program")/CMakeCache.txt" || [ -e /dev/nvidiactl ] ||
    [ "$each_ms" -lt 30 ] || fail "takes $each_ms ms, wanted below 30"
[ "$failed" -eq 0 ] && echo "machine: a probe in $each_ms ms, --measure in $measure_ms ms"
exit "$failed"
