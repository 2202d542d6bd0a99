#!/usr/bin/env python3
"""How many of the demo's planted repetitions `cabe analyze --all --json` found.

usage: cabe analyze demo/*.txt --all --json | planted.py demo/planted.json

A repetition counts as found if one pair or one group holds both of its sentences. Standard library only.
"""
import collections
import json
import pathlib
import sys


def squeezed(text):
    return " ".join(text.split()).strip("«»“”\"'. ")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    planted = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    report = json.load(sys.stdin)
    groups = [[squeezed(member["text"]) for member in group["members"]] for group in report["groups"]]
    groups += [[squeezed(pair["a"]["text"]), squeezed(pair["b"]["text"])] for pair in report["pairs"]]
    found, wanted = collections.Counter(), collections.Counter()
    for item in planted:
        first, second = squeezed(item["first"]), squeezed(item["second"])
        kind = (item["file"], item["kind"])
        wanted[kind] += 1
        for group in groups:
            ones = [i for i, text in enumerate(group) if first in text]
            others = [i for i, text in enumerate(group) if second in text]
            if any(i != j for i in ones for j in others):
                found[kind] += 1
                break
        else:
            print(f"not found: {item['kind']}, {item['file']}: {item['first']}")
    for kind in wanted:
        print(f"{kind[0]}: {found[kind]} of {wanted[kind]} {kind[1]}")


main()
