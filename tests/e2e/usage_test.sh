#!/usr/bin/env bash
# How the program answers before it does anything: help, version, wrong words, exit codes.
# usage: usage_test.sh PROGRAM
set -uo pipefail
program=$1
failed=0

# expect NAME CODE OUT_PATTERN ERR_PATTERN ARGUMENTS...: patterns are extended, "" wants an empty stream
expect() {
    local name=$1 want=$2 out_wanted=$3 err_wanted=$4 out err code
    shift 4
    out=$("$program" "$@" 2>/tmp/cabe-usage.$$)
    code=$?
    err=$(cat /tmp/cabe-usage.$$)
    rm -f /tmp/cabe-usage.$$
    [ "$code" -eq "$want" ] || { echo "$name: exit code $code, wanted $want"; failed=1; }
    for pair in "output|$out|$out_wanted" "errors|$err|$err_wanted"; do
        local stream=${pair%%|*} rest=${pair#*|}
        local text=${rest%|*} pattern=${rest##*|}
        if [ -z "$pattern" ]; then
            [ -z "$text" ] || { echo "$name: $stream should be empty, are: $text"; failed=1; }
        else
            grep -Eq "$pattern" <<<"$text" || { echo "$name: $stream lack /$pattern/: $text"; failed=1; }
        fi
    done
}

expect "no words" 2 "" "usage: cabe COMMAND"
expect "help" 0 "usage: cabe COMMAND" "" --help
expect "help as a command" 0 "usage: cabe COMMAND" "" help
expect "version" 0 "^cabe [0-9]+\.[0-9]+\.[0-9]+$" "" --version
expect "unknown command" 2 "" "no command 'fly'" fly

# Every command in the list explains itself and refuses an option that it does not have.
commands=$("$program" --help | sed -nE 's/^  ([a-z]+) +.*/\1/p')
for command in $commands; do
    expect "$command --help" 0 "cabe $command" "" "$command" --help
    expect "$command --no-such-option" 2 "" "no-such-option" "$command" --no-such-option
done


# What cannot be written is an error, not a silent success.
"$program" --help >/dev/full 2>/dev/null && { echo "help to a full disk: exit code 0"; failed=1; }

# The fastest of ten: what else runs here is not its fault.
each_us=1000000
for _ in 1 2 3 4 5 6 7 8 9 10; do
    start=$(date +%s%N)
    "$program" --version >/dev/null
    took_us=$((($(date +%s%N) - start) / 1000))
    [ "$took_us" -ge "$each_us" ] || each_us=$took_us
done
if grep -qs '^CABE_SANITIZE:.*=.' "$(dirname "$program")/CMakeCache.txt"; then
    echo "skip: the time of --version, in a sanitized build"
elif [ "$each_us" -ge 30000 ]; then
    echo "--version takes $each_us us, wanted below 30000"
    failed=1
fi
[ "$failed" -eq 0 ] && echo "usage: $(wc -w <<<"$commands") commands; --version in $each_us us"
exit "$failed"
