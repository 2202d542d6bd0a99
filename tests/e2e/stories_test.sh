#!/usr/bin/env bash
# The demo's stories are what demo/README.md says: long enough, UTF-8, and with every planted repetition in place.
set -euo pipefail
cd "$(dirname "$0")/../../demo"

python3 - <<'PYTHON'
import collections
import json
import pathlib

planted = json.loads(pathlib.Path("planted.json").read_text(encoding="utf-8"))
stories = {path.name: path.read_text(encoding="utf-8") for path in pathlib.Path(".").glob("*.txt")}
kinds = collections.Counter((item["file"], item["kind"]) for item in planted)

assert len(stories) == 3, sorted(stories)
for name, text in stories.items():
    words = len(text.split())
    assert words >= 3000, f"{name}: {words} words"
    for kind, least in (("verbatim", 2), ("edited", 3), ("paraphrased", 3)):
        assert kinds[name, kind] >= least, f"{name}: {kinds[name, kind]} {kind}"
for item in planted:
    text = stories[item["file"]]
    if item["kind"] == "verbatim":
        assert item["first"] == item["second"] and text.count(item["first"]) >= 2, item
    else:
        assert item["first"] in text and item["second"] in text and item["first"] != item["second"], item
print(f"stories: {len(stories)}, planted repetitions: {len(planted)}")
PYTHON
