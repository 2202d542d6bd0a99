#!/usr/bin/env bash
# A chat model, an embedder and an analysis at once on one budget, in a control group of it where there can be one.
# usage: serve_budget_test.sh PROGRAM
set -uo pipefail
program=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
data=$(cd "$here/../../.." && pwd)/shared/data
chat=$data/llm-stories260k/stories260K.bin
embedder=$data/emb-e5-small
if [ ! -r "$chat" ] || [ ! -d "$embedder" ]; then
    echo "skip: no llm-stories260k and emb-e5-small beside the checkout"
    exit 77
fi
if grep -qaE '__(asan|tsan)_init' "$program"; then
    echo "skip: a sanitizer's own memory is on no ledger"
    exit 77
fi
export CABE_HOME
CABE_HOME=$(mktemp -d)
trap 'rm -rf "$CABE_HOME"' EXIT
python3 "$here/serve_budget.py" "$program" "story=$chat" "e5=$embedder" "$here/../../demo/the-tide-ledger.en.txt" 256
