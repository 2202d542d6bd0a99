#!/usr/bin/env bash
# Models that are cut, written to or replaced while a server uses them, and models whose numbers are none: see broken.py.
# usage: broken_test.sh PROGRAM
set -uo pipefail
program=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
models=${CABE_GOLDEN_MODELS:-$(dirname "$program")/golden}
command -v python3 >/dev/null || { echo "skip: no python3 here"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 "$here/../../tools/golden/make_chat.py" "$work/chat" || exit 1
python3 "$here/broken.py" "$program" "$models" "$work"
