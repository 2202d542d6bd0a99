#!/usr/bin/env bash
# The dashboard in headless Chromium, with screenshots (CABE_SCREENSHOTS: where they stay).
# usage: dashboard_test.sh PROGRAM
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
command -v python3 >/dev/null || { echo "skip: no python3 here"; exit 77; }
[ -d "${CABE_GOLDEN_MODELS:-}" ] || { echo "skip: no golden models here"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 "$here/dashboard.py" "$(realpath "$1")" "$CABE_GOLDEN_MODELS" "${CABE_SCREENSHOTS:-$work}"
