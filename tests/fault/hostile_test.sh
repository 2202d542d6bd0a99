#!/usr/bin/env bash
# Documents and bytes that mean no good, to a whole server: see hostile.py. (JSON: tests/e2e/hostile_json.py.)
# usage: hostile_test.sh PROGRAM
# shellcheck source=tests/fault/setup.sh
. "$(dirname "$0")/setup.sh"
data=$(cd "$here/../../.." && pwd)/shared/data
python3 "$here/hostile.py" "$program" "$models" "$data"
