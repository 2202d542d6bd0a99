#!/usr/bin/env bash
# Models that are cut, written to or replaced while a server uses them, and models whose numbers are none: see broken.py.
# usage: broken_test.sh PROGRAM
# shellcheck source=tests/fault/setup.sh
. "$(dirname "$0")/setup.sh"
make_chat || exit 1
python3 "$here/broken.py" "$program" "$models" "$work"
