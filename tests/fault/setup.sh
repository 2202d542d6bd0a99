# shellcheck shell=bash disable=SC2034
# Sourced by the tests beside it that drive a server from Python: `program` of argument 1, `here`, the folder `models` of
# the golden tests (CABE_GOLDEN_MODELS), and for those that chat `work`, a folder that goes, with a chat model in it.
set -uo pipefail
program=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
models=${CABE_GOLDEN_MODELS:-$(dirname "$program")/golden}
command -v python3 >/dev/null || { echo "skip: no python3 here"; exit 77; }

make_chat() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    python3 "$here/../../tools/golden/make_chat.py" "$work/chat"
}
