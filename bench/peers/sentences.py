#!/usr/bin/env python3
"""A plain-text book to one sentence a line, by one regular expression: the same list for every engine.

usage: sentences.py BOOK.txt COUNT >lines.txt

Sentences of fewer than 7 words are left out, and so is what Project Gutenberg puts before and after a book.
"""
import re
import sys

END = re.compile(r"(?<=[.!?])(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)[\"”’_)\]]*\s+(?=[\"“‘_(\[]*[A-ZÁÉÍÓÚÑ])")


def sentences(text):
    for paragraph in re.split(r"\n\s*\n", text.replace("\r", "")):
        line = " ".join(paragraph.split())
        start = 0
        for match in END.finditer(line):
            quotes = len(match.group().rstrip())
            yield line[start:match.start() + quotes].strip()
            start = match.end()
        yield line[start:].strip()


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    text = open(sys.argv[1], encoding="utf-8-sig").read()
    text = re.split(r"\*\*\* ?END OF TH", text)[0]
    text = re.split(r"\*\*\* ?START OF TH[^\n]*\n", text)[-1]
    found = [line for line in sentences(text) if len(line.split()) >= 7]
    for line in found[:int(sys.argv[2])]:
        print(line)


main()
