#!/usr/bin/env bash
# A disk that fails, and a process that is killed, at every single thing it does to the store and to fitted copies:
# afterwards there is a whole one or none, the next try succeeds, and its results are the same bytes.
# (The database of jobs: tests/serve/jobs_test.c.)
# usage: disk_test.sh PROGRAM DISK_MODULE
set -uo pipefail
program=$(realpath "$1")
module=$(realpath "$2")
[ -d "${CABE_GOLDEN_MODELS:-}" ] || { echo "skip: no golden models here"; exit 77; }
models=$CABE_GOLDEN_MODELS
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
kills=0
faults=0
complain() { echo "disk: $*"; failed=1; }
WAYS="28 5 30" # ENOSPC, EIO, EROFS
printf 'the sea was calm\na storm is promised\nnobody spoke\n' >"$work/texts"

# faulty N WITH ON COMMAND...: sets code; standard error in $work/err
faulty() {
    local at=$1 with=$2 on=$3
    shift 3
    { # bash says "Killed" of each one
        (
            [ "$on" = 1 ] && export FAULT_ON=1
            FAULT_UNDER=$CABE_HOME FAULT_AT=$at FAULT_WITH=$with FAULT_COUNT=$work/count LD_PRELOAD=$module exec "$@"
        ) >"$work/out" 2>"$work/err"
        code=$?
    } 2>/dev/null
}
home() {
    export CABE_HOME=$work/home
    rm -rf "$CABE_HOME"
    mkdir -p "$CABE_HOME"
}
# Status of a fault that may also have been harmless (what fails to sync a folder may not matter to anybody).
clear_error() { # clear_error WHAT
    case $code in
    0 | 7 | 8 | 9 | 10 | 12) ;;
    *) complain "$1: exit code $code: $(cat "$work/err")" ;;
    esac
    [ "$code" -eq 0 ] || [ -s "$work/err" ] || complain "$1: exit code $code without a word"
}

# ---- the store: a model is there whole, or not ----

check_store() { # check_store WHAT MODEL
    "$program" list --json >"$work/list" 2>&1 || complain "$1: the list: $(cat "$work/list")"
    if grep -q '"name": "m"' "$work/list"; then
        cmp -s "$2" "$(find -L "$CABE_HOME/models/m" -type f -name '*.gguf' | head -n 1)" || complain "$1: a model that is not whole"
    fi
    "$program" pull "$2" --name m --force >"$work/out" 2>"$work/err" || complain "$1: the next pull: $(cat "$work/err")"
    "$program" show m >/dev/null 2>"$work/err" || complain "$1: what was pulled then: $(cat "$work/err")"
}
pulls() { # pulls MODEL
    local n total
    home
    faulty 1000000 5 0 "$program" pull "$1" --name m
    total=$(cat "$work/count")
    for n in $(seq "$total"); do
        for with in $WAYS; do
            home
            faulty "$n" kill 0 "$program" pull "$1" --name m
            [ "$code" -eq 137 ] && kills=$((kills + 1)) || complain "pull $n: was to be killed, ended with $code"
            check_store "pull killed at $n" "$1"
            home
            faulty "$n" "$with" "$((n % 2))" "$program" pull "$1" --name m
            faults=$((faults + 1))
            clear_error "pull, $with at $n"
            check_store "pull, $with at $n" "$1"
        done
    done
    echo "disk: pull $(basename "$1"): $total places"
}

# ---- fitted copies: what is used is whole ----

check_copy() { # check_copy WHAT MODEL DTYPE
    "$program" embed "$2" -i "$work/texts" -o "$work/rows.npy" --dtype "$3" --memory 200M >"$work/out" 2>"$work/err" ||
        complain "$1: embedding: $(cat "$work/err")"
    cmp -s "$work/rows.npy" "$work/want.npy" || complain "$1: other results"
    "$program" fit --verify "$2" --dtype "$3" >"$work/out" 2>"$work/err" || complain "$1: verified: $(cat "$work/err")"
}
fits() { # fits MODEL DTYPE
    local n total
    home
    faulty 1000000 5 0 "$program" fit "$1" --dtype "$2"
    total=$(cat "$work/count")
    "$program" embed "$1" -i "$work/texts" -o "$work/want.npy" --dtype "$2" --memory 200M >/dev/null 2>"$work/err" ||
        complain "embedding: $(cat "$work/err")"
    for n in $(seq "$total"); do
        for with in $WAYS; do
            home
            faulty "$n" kill 0 "$program" fit "$1" --dtype "$2"
            [ "$code" -eq 137 ] && kills=$((kills + 1)) || complain "fit $n: was to be killed, ended with $code"
            check_copy "fit killed at $n" "$1" "$2"
            home
            faulty "$n" "$with" "$((n % 2))" "$program" fit "$1" --dtype "$2"
            faults=$((faults + 1))
            clear_error "fit, $with at $n"
            check_copy "fit, $with at $n" "$1" "$2"
        done
    done
    echo "disk: fit $(basename "$1") $2: $total places"
}

LD_PRELOAD=$module "$program" --version >/dev/null 2>&1 || { echo "skip: this program takes no LD_PRELOAD"; exit 77; }
pulls "$models/bert-mean-f32.gguf"
pulls "$models/llama3-f32.gguf"
fits "$models/bert-mean-f32.gguf" f32
fits "$models/bert-mean-f32.gguf" q8_0
echo "disk: $kills kills, $faults faults"
exit "$failed"
