#!/usr/bin/env bash
# Documents and bytes that mean no good, to a whole server: see hostile.py. (JSON: tests/e2e/hostile_json.py.)
# usage: hostile_test.sh PROGRAM
set -uo pipefail
program=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
models=${CABE_GOLDEN_MODELS:-$(dirname "$program")/golden}
data=$(cd "$here/../../.." && pwd)/shared/data
command -v python3 >/dev/null || { echo "skip: no python3 here"; exit 77; }
python3 "$here/hostile.py" "$program" "$models" "$data"
