#!/usr/bin/env bash
# `cabe run` as a person meets it: golden texts, pipes, bad input, the same answer from any threads, cache and pieces.
# usage: run_test.sh PROGRAM
set -uo pipefail
program=$(realpath "$1")
data=$(cd "$(dirname "$0")/../../.." && pwd)/shared/data
model=$data/llm-stories260k/stories260K.bin
if [ ! -r "$model" ]; then
    echo "skip: no llm-stories260k beside the checkout"
    exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CABE_HOME=$work/home
failed=0
complain() { echo "run: $*"; failed=1; }

text=$("$program" run "$model" "Once upon a time" --temp 0 -n 200 2>"$work/err") || complain "exit code $?: $(cat "$work/err")"
# The text in the model's own notes stops in the middle of a sentence where its context ended; ours goes as far.
golden=$(sed -n '/^Once upon a time/,/^```/p' "$data/llm-stories260k/golden-greedy.stories260K.md" | sed '/^```/d')
case $golden in
"$text"*) ;;
*) complain "not the golden text: $text" ;;
esac
grep -Eq 'tokens/s.*peak .*predicted' "$work/err" || complain "no closing line: $(cat "$work/err")"

sanitized=false # whose own memory is in no plan
if grep -qaE '__(asan|tsan)_init' "$program"; then
    sanitized=true
fi

for options in "--threads 1" "--batch 3" "--threads 2 --batch 16" "--device sim" "--ctx 256"; do
    # shellcheck disable=SC2086
    again=$("$program" run "$model" "Once upon a time" --temp 0 -n 200 $options 2>"$work/err")
    [ "$again" = "$text" ] || complain "$options: another text: $again $(cat "$work/err")"
done
piped=$(printf 'Once upon a time' | "$program" run "$model" --temp 0 -n 200 2>/dev/null)
[ "$piped" = "$text" ] || complain "another text from standard input: $piped"
"$program" run "$model" "Once upon a time" --temp 0 -n 20 --json 2>/dev/null |
    jq -e '.new_tokens == 20 and (.tokens | length) == 20 and .finish == "length" and .plan.fits and
           .start_ms > 0 and .context_tokens >= 20 and (.predicted_peak_bytes >= .peak_bytes or $sanitized)' \
        --argjson sanitized "$sanitized" >/dev/null ||
    complain "--json lacks what it should have"
one=$("$program" run "$model" "Lily" --seed 7 -n 40 2>/dev/null)
[ "$one" = "$("$program" run "$model" "Lily" --seed 7 -n 40 --threads 1 2>/dev/null)" ] || complain "a seed drew two texts"
[ "$one" != "$("$program" run "$model" "Lily" --seed 8 -n 40 2>/dev/null)" ] || complain "two seeds drew one text"
stopped=$("$program" run "$model" "Once upon a time" --temp 0 -n 200 --stop "She loved" --no-echo 2>/dev/null)
case $stopped in
*"She loved"*) complain "a stop string was shown" ;;
*"named Lily. ") ;;
*) complain "stopped elsewhere: $stopped" ;;
esac

# expect CODE PATTERN ARGUMENTS...
expect() {
    local want=$1 pattern=$2 code
    shift 2
    "$program" run "$@" >"$work/out" 2>"$work/err" </dev/null
    code=$?
    [ "$code" -eq "$want" ] || complain "$*: exit code $code, wanted $want: $(cat "$work/err")"
    grep -Eq "$pattern" "$work/err" || complain "$*: errors lack /$pattern/: $(cat "$work/err")"
}
expect 2 "temp -1" "$model" x --temp -1
expect 2 "kv q5" "$model" x --kv q5
expect 3 "no such|No such|not found" "$work/nowhere.gguf" x
"$program" run "$model" x -n 1 --ctx 600 >/dev/null 2>"$work/err" || complain "--ctx 600: $(cat "$work/err")"
grep -q "trained on 512 tokens" "$work/err" || complain "no warning of a context past the training: $(cat "$work/err")"
long=$(head -c 40000 /dev/zero | tr '\0' 'a')
"$program" run "$model" "$long" >"$work/out" 2>"$work/err" && complain "a prompt longer than the context was taken"
grep -Eq "context" "$work/err" || complain "long prompt: $(cat "$work/err")"
[ ! -s "$work/out" ] || complain "a prompt longer than the context was repeated before it was refused"
head -c 300000 "$model" >"$work/cut.bin"
cp "$data/llm-stories260k/tok512.bin" "$work/"
"$program" run "$work/cut.bin" x >"$work/out" 2>"$work/err" && complain "half a checkpoint ran"
printf 'caf\xe9' >"$work/latin"
"$program" run "$model" <"$work/latin" >"$work/out" 2>"$work/err" && complain "ill-formed UTF-8 was taken"
"$program" run "$model" x --memory 2M >"$work/out" 2>"$work/err" && complain "2 MB were enough"
grep -Eq "missing" "$work/err" || complain "a budget too small: $(cat "$work/err")"

if command -v python3 >/dev/null; then
    timeout 300 python3 "$(dirname "$0")/converse.py" "$program" "$model" || complain "a conversation on a terminal"
fi
"$program" run "$model" x -n 1 --verbose >/dev/null 2>"$work/err"
for event in memory_usage_before_model_load memory_usage_after_model_load ready; do
    grep -q "\"event\":\"$event\"" "$work/err" || complain "--verbose: no event $event: $(cat "$work/err")"
done

"$program" bench "$model" --tests pp64,tg16,tg8@64,tg8x3 --repeats 1 --json 2>"$work/err" |
    jq -e '[.results[] | .tokens_per_s > 0] | length == 4 and all' >/dev/null || complain "bench: $(cat "$work/err")"
[ "$failed" -eq 0 ] && echo "run: golden text, and the same from any threads, pieces and device"
exit "$failed"
