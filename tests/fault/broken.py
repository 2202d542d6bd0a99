"""A server whose models change under it, or are broken: what runs ends with an error that names the file or the layer,
nothing wrong is served, and other models are served all the while.

usage: broken.py PROGRAM MODELS_FOLDER FOLDER_WITH_CHAT    standard library only
"""
import contextlib
import json
import math
import os
import pathlib
import random
import re
import shutil
import struct
import sys
import threading
import time

from served import PATIENCE, Server, complain, complaints, events_of, until

PROGRAM, MODELS, WORK = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
ROUNDS = int(os.environ.get("BROKEN_ROUNDS", 1))
CONTEXT = 32768  # tokens that a tiny model writes for long enough
PROMPT = "once there was a model"
DOCUMENT = "The harbour froze in the long winter of that year. Nobody remembered such a winter afterwards. " * 9


class Victim(Server):
    def ask(self, method, path, body=None, **headers):
        status, answer = super().ask(method, path, body, x_cabe_class="critical", **headers)
        return status, answer.decode()

    def complete(self, model, n=12):
        """Status and text, or status and the error's message."""
        status, body = self.ask("POST", "/v1/completions", {"model": model, "prompt": PROMPT, "max_tokens": n,
                                                            "temperature": 0, "ignore_eos": True})
        body = json.loads(body)
        return (status, body["choices"][0]["text"]) if status == 200 else (status, body["error"]["message"])

    def chat(self):
        status, body = self.ask("POST", "/v1/chat/completions", {
            "model": "moved", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 40, "temperature": 0,
            "ignore_eos": True})
        return json.loads(body)["choices"][0]["message"]["content"] if status == 200 else f"{status} {body}"

    def unload(self, model):
        until(f"{model} stays in use", lambda: self.ask("POST", f"/v1/models/{model}/unload")[0] in (200, 404))


class Others:
    """Ask the models that nothing happens to, all the while."""

    def __init__(self, server, models):
        self.server, self.stop, self.n = server, threading.Event(), 0
        self.wanted = {model: server.complete(model) for model in models}
        self.embedded = self.embed()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def embed(self):
        return self.server.ask("POST", "/v1/embeddings", {"model": "enc", "input": ["one", "two three"]})

    def run(self):
        while not self.stop.is_set():
            for model, wanted in self.wanted.items():
                got = self.server.complete(model)
                if got != wanted or got[0] != 200:
                    complain(f"{model}, which nothing happened to: {got}, before {wanted}")
            if self.embed() != self.embedded:
                complain("the embedder, which nothing happened to, answers differently")
            self.n += 1

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(PATIENCE)
        if self.thread.is_alive() or self.n == 0:
            complain("the other models were not served")


# ---- a copy that changes while it is read ----

def copies(home):
    return {path for path in pathlib.Path(home).rglob("*") if path.is_file() and "fitted" in str(path.parent)}


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def write_to(path):
    with open(path, "r+b") as f:
        half = path.stat().st_size // 2
        f.seek(half)
        f.write(b"\x3c" * half)
    os.utime(path, (1000, 1000))


def begin_answers(server, lines, ends):
    """Two endless answers of one model: a text and a conversation."""
    def ask(form, path, body):
        connection, answer = server.open("POST", path, {"model": "moved", "max_tokens": CONTEXT // 2, "temperature": 0,
                                                        "ignore_eos": True, "stream": True, **body}, x_cabe_class="critical")
        with contextlib.closing(connection):
            lines[form].extend(events_of(answer))
        ends.append(form)

    wishes = (("text", "/v1/completions", {"prompt": PROMPT}),
              ("chat", "/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}]}))
    threads = [threading.Thread(target=ask, args=wish, daemon=True) for wish in wishes]
    for thread in threads:
        thread.start()
    return threads


def text_of(line):
    choice = json.loads(line)["choices"][0]
    return choice["text"] if "text" in choice else choice["delta"].get("content") or ""


def under_an_answer(server, change):
    server.unload("moved")
    for path in copies(server.home) - others_copies:
        path.unlink()
    status, text = server.complete("moved", 40)
    if status != 200:
        complain(f"moved: {status} {text}")
    copy = list(copies(server.home) - others_copies)
    if len(copy) != 1:
        raise SystemExit(f"broken: the copy of the model is one of {copy}")
    wanted = {"text": text, "chat": server.chat()}
    lines, ends = {"text": [], "chat": []}, []
    threads = begin_answers(server, lines, ends)
    until("no answer begins", lambda: ends or all(len(got) > 60 for got in lines.values()))
    change(copy[0])
    for thread in threads:
        thread.join(PATIENCE)
        if thread.is_alive():
            raise SystemExit(f"broken: {change.__name__}: an answer from a file that has changed goes on")
    n_errors = 0
    for form, got in lines.items():
        whole = got[-1] == b"[DONE]" and "error" not in json.loads(got[-2])  # this process slept until it was over
        if got[-1] == b"[DONE]":
            got.pop()
        error = json.loads(got[-1]).get("error")
        n_errors += bool(error)
        if not whole and (not error or copy[0].name not in error["message"]):
            complain(f"{change.__name__}, {form}: it ends with {got[-1]}, not with the name of {copy[0]}")
        said = "".join(text_of(line) for line in got if b'"choices":[{' in line)
        if len(said) < len(wanted[form]) or not said.startswith(wanted[form]):
            complain(f"{change.__name__}, {form}: {said[:60]!r}, wanted {wanted[form]!r}")
    again = server.complete("moved", 40)
    if again[0] != 200 and copy[0].name in again[1]:  # seen only now; then it is made anew
        again = server.complete("moved", 40)
    if again != (200, text):
        complain(f"{change.__name__}: afterwards it answers {again!r}, wanted {text!r}")
    return n_errors


# ---- a source that changes ----

def replace(path, by):
    shutil.copy(by, str(path) + ".new")
    os.replace(str(path) + ".new", path)


def a_source_that_changes(server, source, answers):
    first, second = answers
    replace(source, MODELS / "llama3-f32.gguf")
    if server.complete("source") != first:
        complain(f"the source: {server.complete('source')}, wanted {first}")
    os.truncate(source, 1000)  # it is in memory: served as it was
    if server.complete("source") != first:
        complain(f"a source cut while it is in memory: {server.complete('source')}")
    server.unload("source")
    status, text = server.complete("source")
    if status == 200 or "source" not in text:
        complain(f"a source that was cut: {status} {text}")
    source.unlink()
    status, text = server.complete("source")
    if status == 200 or "source" not in text:
        complain(f"a source that is gone: {status} {text}")
    replace(source, MODELS / "qwen3-f32.gguf")
    if server.complete("source") != second:
        complain(f"a source replaced: {server.complete('source')}, wanted {second}")
    source.write_bytes(b"GGUF" + b"\xff" * 500)
    server.unload("source")
    status, text = server.complete("source")
    if status == 200 or "source" not in text:
        complain(f"a source of noise: {status} {text}")


def a_source_replaced_while_it_loads(server, source, answers):
    stop, r = threading.Event(), random.Random(1)

    def swap():
        while not stop.is_set():
            for name in ("llama3-f32.gguf", "qwen3-f32.gguf"):
                replace(source, MODELS / name)
                time.sleep(r.random() * 0.04)

    thread = threading.Thread(target=swap, daemon=True)
    thread.start()
    seen = {answer: 0 for answer in answers}
    n_errors = 0
    for _ in range(40):
        got = server.complete("source")
        if got in seen:
            seen[got] += 1
        elif got[0] == 200:
            complain(f"neither of the two models says {got[1]!r}")
        elif "source" in got[1]:
            n_errors += 1
        else:
            complain(f"an error without the file's name: {got}")
        server.unload("source")
    stop.set()
    thread.join()
    replace(source, MODELS / "llama3-f32.gguf")
    server.unload("source")
    if server.complete("source") != answers[0]:
        complain("after all that it is not what lies there")
    print(f"broken: replaced while it loads: {list(seen.values())} answers, {n_errors} errors")


# ---- numbers that are none ----

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def tensors(data):
    """{name: (offset, elements)} of a GGUF whose tensors are f32."""
    at = 8

    def take(form):
        nonlocal at
        value = struct.unpack_from("<" + form, data, at)[0]
        at += struct.calcsize("<" + form)
        return value

    def text():
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n : at].decode()

    def value(kind):
        nonlocal at
        if kind == 8:
            return text()
        if kind == 9:
            inner, n = take("I"), take("Q")
            for _ in range(n):
                value(inner)
            return None
        at += SIZES[kind]
        return struct.unpack_from("<I", data, at - 4)[0] if kind == 4 else None

    n_tensors, n_values = take("Q"), take("Q")
    alignment, found = 32, {}
    for _ in range(n_values):
        key, kind = text(), take("I")
        got = value(kind)
        alignment = got if key == "general.alignment" else alignment
    for _ in range(n_tensors):
        name, sizes = text(), [take("Q") for _ in range(take("I"))]
        if take("I") != 0:
            raise SystemExit(f"broken: {name} is not f32")
        found[name] = take("Q"), math.prod(sizes)
    base = (at + alignment - 1) // alignment * alignment
    return {name: (base + offset, n) for name, (offset, n) in found.items()}


def spoil(source, to, tensor, value):
    data = bytearray(source.read_bytes())
    at, n = tensors(data)[tensor]
    data[at : at + 4 * n] = struct.pack("<f", value) * n
    to.write_bytes(data)


def not_numbers(server):
    """Weights that are none are seen when they are read; results that are none before anything is made of them."""
    status, text = server.complete("nan")
    if status == 200 or "blk.1.ffn_down.weight" not in text:
        complain(f"nan: {status} {text!r}")
    status, text = server.ask("POST", "/v1/embeddings", {"model": "nan-enc", "input": "one"})
    if status == 200 or "blk.0.ffn_down.weight" not in text:
        complain(f"nan-enc: {status} {text!r}")
    for _ in range(6):  # past the point at which the model is taken for broken and loaded anew
        status, text = server.complete("huge")
        if status != 500 or not re.search(r"(nan|infinite|finite|not a number).*", text) or "head" not in text:
            complain(f"huge: {status} {text!r}, wanted the layer")
    body = {"model": "huge", "prompt": PROMPT, "max_tokens": 5, "n": 2}
    status, answer = server.ask("POST", "/v1/completions", dict(body, stream=True))
    if '"text":"' in answer.replace('"text":""', "") or not (status == 500 or '"error"' in answer):
        complain(f"huge, streamed: {status} {answer}")
    status, answer = server.ask("POST", "/api/generate", {"model": "huge", "prompt": PROMPT})
    if '"error"' not in answer or re.search(r'"response":"[^"]', answer):
        complain(f"huge, Ollama's way: {status} {answer}")
    status, answer = server.ask("POST", "/v1/embeddings", {"model": "huge-enc", "input": ["one", "two three"]})
    if status != 500 or '"embedding"' in answer or "finite" not in answer:
        complain(f"huge-enc: {status} {answer[:300]}")
    status, answer = server.ask("POST", "/v1/analyze", {"model": "huge-enc", "text": DOCUMENT})
    if '"state":"done"' in answer.replace(" ", "") or "finite" not in answer:
        complain(f"huge-enc, an analysis: {status} {answer}")


others_copies = set()


def main():
    home = WORK / "home"
    home.mkdir()
    config = WORK / "chat" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": CONTEXT}))
    source = WORK / "source.gguf"
    shutil.copy(MODELS / "llama3-f32.gguf", source)
    spoil(MODELS / "llama3-f32.gguf", WORK / "nan.gguf", "blk.1.ffn_down.weight", math.nan)
    spoil(MODELS / "llama3-f32.gguf", WORK / "huge.gguf", "output_norm.weight", 3e38)
    spoil(MODELS / "bert-mean-f32.gguf", WORK / "nan-enc.gguf", "blk.0.ffn_down.weight", math.nan)
    last = max(name for name in tensors((MODELS / "bert-mean-f32.gguf").read_bytes()) if name.endswith("layer_output_norm.weight"))
    spoil(MODELS / "bert-mean-f32.gguf", WORK / "huge-enc.gguf", last, 3e38)
    models = {"moved": WORK / "chat", "source": source, "one": MODELS / "llama3-f32.gguf",
              "two": MODELS / "qwen3-f32.gguf", "enc": MODELS / "bert-mean-f32.gguf", "nan": WORK / "nan.gguf",
              "huge": WORK / "huge.gguf", "nan-enc": WORK / "nan-enc.gguf",
              "huge-enc": WORK / "huge-enc.gguf"}
    server = Victim(PROGRAM, home, "--memory", "1G", "--threads", "1", "--parallel", "2", "--models",
                    ",".join(f"{name}={path}" for name, path in models.items()))
    try:
        answers = server.complete("one"), server.complete("two")
        if answers[0][0] != 200 or answers[1][0] != 200 or answers[0] == answers[1]:
            raise SystemExit(f"broken: {answers}")
        others = Others(server, ("one", "two"))
        server.unload("moved")
        for path in copies(home):  # what is left are those of the others
            if b"<|im_start|>" in path.read_bytes():
                path.unlink()
        others_copies.update(copies(home))
        with others:
            for _ in range(ROUNDS):
                for change in (cut, write_to):
                    if not any(under_an_answer(server, change) for _ in range(10)):
                        complain(f"{change.__name__}: no answer was ever hit by it")
                a_source_that_changes(server, source, answers)
                a_source_replaced_while_it_loads(server, source, answers)
                not_numbers(server)
        server.end()
        print(f"broken: others were asked {others.n} times meanwhile")
    finally:
        server.kill()
    return 1 if complaints else 0


sys.exit(main())
