#!/usr/bin/env bash
# A text to tokens and back: a vocabulary made here, files, standard input, and what goes wrong on the way.
# usage: tokenize_test.sh PROGRAM; needs python3 and jq
set -uo pipefail
program=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CABE_HOME=$work/home
failed=0

fail() { echo "tokenize: $*"; failed=1; }

# expect CODE PATTERN ARGUMENTS...: exit code, and a pattern that output and errors together match
expect() {
    local want=$1 pattern=$2 out code
    shift 2
    out=$("$program" tokenize "$@" 2>&1 </dev/null)
    code=$?
    [ "$code" -eq "$want" ] || fail "$*: exit code $code, wanted $want: $out"
    grep -Eq -- "$pattern" <<<"$out" || fail "$*: lacks /$pattern/: $out"
}

python3 - "$work" <<'PYTHON'
import json, os, struct, sys
model = f"{sys.argv[1]}/model"
os.makedirs(model)
pieces = list("Itfs.") + ["Ġ", "It", "Ġf", "Ã", "©", "Ã©", "i", "<|end|>"]
json.dump({"model": {"type": "BPE", "vocab": {piece: i for i, piece in enumerate(pieces)},
                     "merges": ["I t", "Ġ f", "Ã ©"]},
           "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
           "added_tokens": [{"id": 12, "content": "<|end|>", "special": True}]}, open(f"{model}/tokenizer.json", "w"))
json.dump({"model_type": "llama"}, open(f"{model}/config.json", "w"))
head = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
open(f"{model}/model.safetensors", "wb").write(struct.pack("<Q", len(head)) + head + bytes(4))
PYTHON
model=$work/model
printf 'It fits.\n' >"$work/text"

expect 0 '^       6        0        2  "It"$' "$model" "It fits."
expect 0 '^6 7 11 1 3 4$' "$model" "It fits." --ids
expect 0 '^6$' "$model" "It fits." --count
expect 0 '^It f.*é$' "$model" --decode "6, 7 [8] 12 10"
expect 0 'It<\|end\|>' "$model" --decode "6 12" --special
expect 0 '^10$' "$model" "é" --ids
expect 0 '^6 12$' "$model" "It<|end|>" --special --ids
expect 0 '"\\xC3"$' "$model" "Ã"
expect 0 '^6 7 11 1 3 4$' "$model" -i "$work/text" --ids
expect 2 "wanted ids from 0 to 12" "$model" --decode "6 13"
expect 2 "wanted ids" "$model" --decode "6 x"
expect 2 "wants a MODEL"
expect 2 "not both" "$model" text -i "$work/text"
expect 2 "one of --ids" "$model" text --ids --count
expect 3 "nothing-here" "$model" -i "$work/nothing-here"
expect 3 "no-such-model" no-such-model text
expect 4 "byte 1 " "$model" $'a\xff'
out=$(printf 'It fits.' | "$program" tokenize "$model" --json | jq -c '[.n_tokens, .n_bytes, .tokens[1].id, .tokens[1].begin, .tokens[1].end, .tokens[1].text]')
[ "$out" = '[6,8,7,2,4," f"]' ] || fail "JSON: $out"
[ "$failed" -eq 0 ] && echo "tokenize: text, files and ids agree"
exit "$failed"
