#!/usr/bin/env bash
# `cabe fit`: the copy is made once, verified, removed; a damaged one is named and made anew.
# usage: fit_test.sh PROGRAM     CABE_GOLDEN_MODELS is the folder with the models; needs jq
set -uo pipefail
cd "$(dirname "$0")/../.."
program=$(realpath "$1")
models=${CABE_GOLDEN_MODELS:-$(dirname "$program")/golden}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CABE_HOME=$work/home
failed=0

fail() { echo "fit: $*"; failed=1; }

expect() { # CODE PATTERN ARGUMENTS...
    local want=$1 pattern=$2 out code
    shift 2
    out=$("$program" fit "$@" 2>&1)
    code=$?
    [ "$code" -eq "$want" ] || fail "$*: exit code $code, wanted $want: $out"
    grep -Eqa -- "$pattern" <<<"$out" || fail "$*: lacks /$pattern/: $out"
}

copies() { find "$CABE_HOME/cache" -name '*.gguf' 2>/dev/null | wc -l; }

cp "$models/bert-mean-f32.gguf" "$work/model.gguf"
model=$work/model.gguf
expect 0 'model.gguf-.*-f32.gguf$' "$model" --dtype f32
copy=$("$program" fit "$model" --dtype f32)
[ -f "$copy" ] || fail "no copy at $copy"
before=$(stat -c %i "$copy")
expect 0 ': every checksum is right$' "$model" --dtype f32 --verify
[ "$(stat -c %i "$copy")" = "$before" ] || fail "a second fit made the copy again"
"$program" fit "$model" --dtype f32 --verify --json |
    jq -e '.verified and .dtype == "f32" and (.copy | endswith("-f32.gguf")) and .peak_bytes > 0' >/dev/null || fail "--json"
expect 0 'int8' "$model" --dtype int8
[ "$(copies)" = 2 ] || fail "$(copies) copies, wanted 2"

# A wrong byte behind the header.
size=$(stat -c %s "$copy")
printf '\x5a' | dd of="$copy" bs=1 seek=$((size - 5000)) conv=notrunc status=none
expect 11 'checksum is wrong; the damaged copy was removed' "$model" --dtype f32 --verify
expect 0 ': every checksum is right$' "$model" --dtype f32 --verify
# One that is used finds it too, and hands out nothing.
printf '\x5a' | dd of="$copy" bs=1 seek=$((size - 5000)) conv=notrunc status=none
echo text > "$work/t.txt"
"$program" embed "$model" --dtype f32 -i "$work/t.txt" -o "$work/o.npy" > "$work/out" 2>&1
[ $? -eq 11 ] || fail "a damaged copy was used: $(cat "$work/out")"
[ ! -e "$work/o.npy" ] || fail "a damaged copy gave a result"
"$program" embed "$model" --dtype f32 -i "$work/t.txt" -o "$work/o.npy" > "$work/out" 2>&1 || fail "$(cat "$work/out")"

touch "$model"
expect 0 . "$model" --dtype f32
[ "$(copies)" = 1 ] || fail "stale copies stay: $(copies)"
expect 0 'bytes of fitted copies removed' "$model" --remove
[ "$(copies)" = 0 ] || fail "$(copies) copies after --remove"
expect 0 ': 0 bytes of fitted copies removed' "$model" --remove
(export CABE_HOME=/proc/self; expect 10 'no fitted copy could be written' "$model"; exit "$failed") || failed=1
expect 3 'nowhere' nowhere
expect 2 'wanted one model'
expect 2 'wanted one of' "$model" --dtype q5_1
head -c 5000 "$model" > "$work/cut.gguf"
expect 4 'cut.gguf' "$work/cut.gguf"
[ "$(copies)" = 0 ] || fail "a damaged source left a copy"

[ "$failed" -eq 0 ] && echo "fit: as it should be"
exit "$failed"
