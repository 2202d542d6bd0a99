# The front door. CMake and Ninja do the work; see CMakePresets.json.
PREFIX ?= /usr/local
DESTDIR ?=
FUZZ_SECONDS ?= 60
MEMORY ?= 400M
BUILD := build/release

.PHONY: all setup check check-e2e demo models bench fuzz install clean help

all: setup ## build the release (build/release/cabe)
	@cmake --preset release >/dev/null
	@cmake --build --preset release

setup: ## install what building needs (Debian packages; asks dpkg first)
	@scripts/setup

check: ## everything that must pass: tests, sanitizers, clang, an outside consumer
	@scripts/check

models: all ## fetch two small models (182 MB) into the store, to chat and to embed
	@scripts/models $(BUILD)/cabe

check-e2e: all ## real clients against the server: openai, ollama, LangChain
	@scripts/check-e2e $(BUILD)/cabe

demo: all ## read three stories with real weights, inside a stated byte budget
	@MEMORY=$(MEMORY) scripts/demo $(BUILD)/cabe

bench: all ## measure against the machine's limits and, where set up, peers
	@bench/run $(BUILD)

fuzz: setup ## fuzz every parser, FUZZ_SECONDS each (60)
	@FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz

install: all ## install under PREFIX (/usr/local); DESTDIR is honoured
	@DESTDIR="$(DESTDIR)" cmake --install $(BUILD) --prefix "$(PREFIX)"

clean: ## remove everything that was built or fetched
	rm -rf build

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | \
		while IFS="$$(printf '\t')" read -r name text; do printf '  make %-9s %s\n' "$$name" "$$text"; done
