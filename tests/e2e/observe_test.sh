#!/usr/bin/env bash
# What the server says of itself: metrics, statistics, events, jobs and analyses over HTTP.
# usage: observe_test.sh PROGRAM
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
command -v python3 >/dev/null || { echo "skip: no python3 here"; exit 77; }
[ -d "${CABE_GOLDEN_MODELS:-}" ] || { echo "skip: no golden models here"; exit 77; }
exec python3 "$here/observe.py" "$(realpath "$1")" "$CABE_GOLDEN_MODELS"
