#!/usr/bin/env bash
# A whole server under everything at once: tests/fault/load.py, here for some seconds. By hand for longer:
#   LOAD_SECONDS=600 LOAD_SEED=1 tests/fault/load_test.sh build/tsan/cabe
# usage: load_test.sh PROGRAM
set -uo pipefail
program=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
models=${CABE_GOLDEN_MODELS:-$(dirname "$program")/golden}
command -v python3 >/dev/null || { echo "skip: no python3 here"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 "$here/../../tools/golden/make_chat.py" "$work/chat" || exit 1
python3 "$here/load.py" "$program" "$models" "$work/chat" "${LOAD_SECONDS:-12}" ${LOAD_SEED:+"$LOAD_SEED"}
