#!/usr/bin/env bash
# bash completion offers the commands and options that the program has, no more and no less.
# usage: completion_test.sh PROGRAM
set -uo pipefail
program=$(realpath "$1")
failed=0
complete() { :; } # the builtin wants an interactive shell's tables; only the functions are tested
. "$(dirname "$0")/../../docs/completion/cabe.bash"

same() { # same NAME FROM_COMPLETION FROM_PROGRAM
    local left right
    left=$(tr ' ' '\n' <<<"$2" | sort -u | sed '/^$/d')
    right=$(tr ' ' '\n' <<<"$3" | sort -u | sed '/^$/d')
    [ "$left" = "$right" ] || { echo "$1: completion has <, the program >:"; diff <(echo "$left") <(echo "$right"); failed=1; }
}

commands=$("$program" --help | sed -nE 's/^  ([a-z]+) +.*/\1/p' | tr '\n' ' ')
same "commands" "$_cabe_commands" "$commands"
for command in $commands; do
    options=$("$program" "$command" --help | sed -nE 's/^  (-[a-z], )?(--[a-z-]+).*/\2/p' | grep -v '^--help$' | tr '\n' ' ')
    same "$command" "$(_cabe_options "$command" | tr ' ' '\n' | grep '^--')" "$options"
done
[ "$failed" -eq 0 ] && echo "completion: $(wc -w <<<"$commands") commands agree"
exit "$failed"
