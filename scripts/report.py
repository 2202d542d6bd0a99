#!/usr/bin/env python3
"""Sums the reports of scripts/check: prints what failed, what was skipped and why, then the counts.

usage: report.py FOLDER   (*.xml as ctest --output-junit writes them, steps.tsv)
Exit code 0 only if something passed and nothing failed.
"""
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def skip_reasons(text):
    return [line[5:].strip() for line in (text or "").splitlines() if line.startswith("skip:")]


def main():
    folder = pathlib.Path(sys.argv[1])
    passed, failed, skipped = 0, [], 0
    reasons = {}  # (test, reason) -> modes, so that a reason that is the same in three modes is one line

    for report in sorted(folder.glob("*.xml")):
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            name, status = case.get("name"), case.get("status")
            said = skip_reasons(case.findtext("system-out"))
            if case.find("skipped") is not None or status in ("notrun", "disabled"):
                skipped += 1
                said = said or ["it gave no reason"]
            elif case.find("failure") is not None or status == "fail":
                failed.append(f"{report.stem}: {name}")
            else:
                passed += 1
            for reason in dict.fromkeys(said):
                reasons.setdefault((name, reason), []).append(report.stem)

    steps = folder / "steps.tsv"
    if steps.exists():
        for line in steps.read_text().splitlines():
            name, status, log = line.split("\t")
            if status == "0":
                passed += 1
            else:
                failed.append(f"{name} ({log})")

    for (name, reason), modes in reasons.items():
        print(f"skipped: {name} ({', '.join(modes)}): {reason}")
    for name in failed:
        print(f"FAILED: {name}")
    tail = f", {skipped} skipped" if skipped else ""
    print(f"{passed} passed, {len(failed)} failed{tail}")
    return 0 if passed and not failed else 1


sys.exit(main())
