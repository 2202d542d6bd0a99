#!/usr/bin/env bash
# Memory that a server promises: analyses that share the encoder, that can never fit, that wait; templates; a failed model.
# usage: serve_ledger_test.sh PROGRAM
set -uo pipefail
program=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
data=$(cd "$here/../../.." && pwd)/shared/data
embedder=$data/emb-e5-small
static=$data/emb-potion-base-4m-int8
if [ ! -d "$embedder" ] || [ ! -d "$static" ]; then
    echo "skip: no emb-e5-small and emb-potion-base-4m-int8 beside the checkout"
    exit 77
fi
if grep -qaE '__(asan|tsan)_init' "$program"; then
    echo "skip: a sanitizer's own memory is on no ledger"
    exit 77
fi
export CABE_HOME
CABE_HOME=$(mktemp -d)
trap 'rm -rf "$CABE_HOME"' EXIT
python3 "$here/serve_ledger.py" "$program" "e5=$embedder" "potion=$static"
