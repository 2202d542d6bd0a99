#!/usr/bin/env bash
# A whole server under everything at once: tests/fault/load.py, here for some seconds. By hand for longer:
#   LOAD_SECONDS=600 LOAD_SEED=1 tests/fault/load_test.sh build/tsan/cabe
# usage: load_test.sh PROGRAM
# shellcheck source=tests/fault/setup.sh
. "$(dirname "$0")/setup.sh"
make_chat || exit 1
python3 "$here/load.py" "$program" "$models" "$work/chat" "${LOAD_SECONDS:-12}" ${LOAD_SEED:+"$LOAD_SEED"}
