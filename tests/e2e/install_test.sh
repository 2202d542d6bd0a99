#!/usr/bin/env bash
# Installs into an empty prefix and builds a program outside the tree against it, by pkg-config and by CMake,
# shared and static.
# usage: install_test.sh BUILD/cabe
set -euo pipefail
program=$(realpath "$1")
build=$(dirname "$program")
source=$(realpath "$(dirname "$0")/consumer")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if grep -q '^CABE_SANITIZE:.*=.' "$build/CMakeCache.txt"; then
    echo "skip: a sanitized build is not for installing"
    exit 77
fi

fail() { echo "install: $*" >&2; exit 1; }

cmake --install "$build" --prefix "$work/prefix" >"$work/install.log" || fail "$(tail -n 5 "$work/install.log")"
lib=$(dirname "$(find "$work/prefix" -name libcabe.a)")

# 1. What a person looks for is there, and nothing points back into the tree.
"$work/prefix/bin/cabe" --version | grep -q '^cabe [0-9]' || fail "the installed program does not run"
for file in include/cabe/embed.h include/cabe/status.h share/man/man1/cabe.1 share/bash-completion/completions/cabe; do
    [ -f "$work/prefix/$file" ] || fail "$file was not installed"
done
tree=$(realpath "$(dirname "$0")/../..")
if grep -rlF "$tree" "$lib/cmake" "$lib/pkgconfig"; then
    fail "the files above name the source tree"
fi

# 2. pkg-config. The prefix is moved first: it must not be baked in.
mv "$work/prefix" "$work/moved"
lib=${lib/"$work/prefix"/"$work/moved"}
export PKG_CONFIG_PATH=$lib/pkgconfig
read -ra flags < <(pkg-config --cflags --libs cabe)
cc -std=c17 -Wall -Wextra -Werror "$source/main.c" -o "$work/shared" "${flags[@]}" -lm
export CABE_HOME=$work/home
LD_LIBRARY_PATH=$lib "$work/shared" "$build/golden/bert-mean" >"$work/out" ||
    fail "pkg-config, shared: $(cat "$work/out")"
read -ra flags < <(pkg-config --static --cflags --libs cabe | sed 's/-lcabe/-l:libcabe.a/')
cc -std=c17 "$source/main.c" -o "$work/static" "${flags[@]}" -lm
"$work/static" "$build/golden/bert-mean" >/dev/null || fail "pkg-config, static: wrong answer"
! ldd "$work/static" | grep -q libcabe || fail "the static program needs libcabe.so"

# 3. CMake.
cmake -S "$source" -B "$work/build" -G Ninja -DCMAKE_PREFIX_PATH="$work/moved" >"$work/cmake.log" 2>&1 &&
    cmake --build "$work/build" >>"$work/cmake.log" 2>&1 || fail "$(tail -n 20 "$work/cmake.log")"
"$work/build/shared" >/dev/null || fail "CMake, shared: wrong answer"
"$work/build/static" >/dev/null || fail "CMake, static: wrong answer"

# 4. The shared library offers the public interface and nothing else.
leaked=$(nm -D --defined-only "$lib/libcabe.so" | awk '$2 ~ /[TDBR]/ && $3 !~ /^cabe_/ {print $3}')
[ -z "$leaked" ] || fail "libcabe.so exports $leaked"
echo "install: pkg-config and CMake, shared and static"
