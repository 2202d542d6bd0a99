"""Everything at once at a whole server, for a while: answers streamed and whole, embeddings, analyses, jobs cancelled,
models that come, go and are pinned, readers that are slow and clients that vanish, events, WebSockets, hostile bytes.

What must hold: an answer that is given is the one that a quiet server gives; nothing but the refusals that are meant;
afterwards nothing runs, nothing is stuck, and the ledger is what it was before; SIGTERM under load ends it with 0.

usage: load.py PROGRAM MODELS_FOLDER CHAT_FOLDER SECONDS [SEED]    standard library only
"""
import base64
import collections
import contextlib
import http.client
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback

from served import PATIENCE, Server, complain, complaints, events_of, until

PROGRAM, MODELS, CHAT, SECONDS = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
SEED = int(sys.argv[5]) if len(sys.argv) > 5 else int(time.time())
ROOM = 16 << 20  # beside the process: not all of the models at a time
# Where memory is short a model is loaded with coarser weights, which write another text, rightly. Quantised files keep
# theirs; of the one that is not all texts are learnt.
WRITERS = {"llama": MODELS + "/mixed.gguf", "fives": MODELS + "/mixed-fives.gguf", "tied": MODELS + "/mixed-tied.gguf"}
ENCODERS = {"bert": MODELS + "/bert-mean-q8_0.gguf", "static": MODELS + "/static-int8"}
NAMES = {**WRITERS, **ENCODERS, "chat": CHAT}
DTYPES = ("f32", "f16", "int8", "q4_0")
PROMPTS = ["once there was a model", "a b c d e f g h", "the sea was calm that morning and nobody spoke " * 3, "q"]
TEXTS = ["one two", "three", "the captain looked at his old watch " * 4]
DOCUMENT = ("The sea was calm that morning and nobody spoke a word. The captain looked at his old watch again. "
            "Nobody said a word that morning, and the sea lay calm.\n") * 40

REFUSED = (429, 503)
counts = collections.Counter()
reasons = collections.Counter()
wanted = {}  # what a quiet server answers
stopping = threading.Event()


# ---- requests whose answers are known ----

def completion(name, i):
    return {"model": name, "prompt": PROMPTS[i], "max_tokens": 3 + 4 * i, "temperature": 0, "ignore_eos": True}


def chat(i):
    return {"model": "chat", "messages": [{"role": "user", "content": PROMPTS[i]}], "max_tokens": 3 + 4 * i,
            "temperature": 0, "ignore_eos": True}


def learn(server):
    for name in WRITERS:
        for i in range(len(PROMPTS)):
            status, body = server.ask("POST", "/v1/completions", completion(name, i))
            assert status == 200, (name, status, body)
            wanted[name, i] = [json.loads(body)["choices"][0]["text"]]
    for name in ENCODERS:
        status, body = server.ask("POST", "/v1/embeddings", {"model": name, "input": TEXTS})
        assert status == 200, (name, status, body)
        wanted[name] = [row["embedding"] for row in json.loads(body)["data"]]


def learn_chat(server, home):
    """The program, asked on the command line, writes what the server does."""
    for i, prompt in enumerate(PROMPTS):
        command = [PROGRAM, "run", CHAT, prompt, "-n", str(chat(i)["max_tokens"]), "--temp", "0", "--ignore-eos", "--kv", "f32",
                   "--json", "--dtype"]
        wanted["chat", i] = [json.loads(subprocess.run(command + [dtype], env=dict(os.environ, CABE_HOME=home), check=True,
                                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)["text"]
                             for dtype in DTYPES]
        status, body = server.ask("POST", "/v1/chat/completions", chat(i))
        assert status == 200, (status, body)
        same(f"chat {i} at rest", json.loads(body)["choices"][0]["message"]["content"], wanted["chat", i])


def refused(what, status, body, also=()):
    counts[what, status] += 1
    if status == 200:
        return False
    if status not in REFUSED and status not in also:
        complain(f"{what}: {status} {body[:300]!r}")
    elif status in REFUSED:
        reasons[re.sub(r"\d[\d.]*", "N", str(json.loads(body)))[:110]] += 1
    return True


def same(what, got, want):
    if got not in want:
        complain(f"{what}: {got!r}, a quiet server says {want!r}")


def whole_completion(server, r):
    name, i = r.choice(list(WRITERS)), r.randrange(len(PROMPTS))
    status, body = server.ask("POST", "/v1/completions", completion(name, i),
                              x_cabe_class=r.choice(["critical", "high", "normal", "low"]))
    if not refused("completion", status, body):
        same(f"{name} {i}", json.loads(body)["choices"][0]["text"], wanted[name, i])


def streamed_chat(server, r):
    i = r.randrange(len(PROMPTS))
    body = dict(chat(i), stream=True, stream_options={"include_usage": True})
    connection, answer = server.open("POST", "/v1/chat/completions", body)
    with contextlib.closing(connection):
        if answer.status != 200:
            refused("chat", answer.status, answer.read())
            return
        counts["chat", 200] += 1
        text, last, error = "", None, None
        for data in events_of(answer):
            last = data
            if data == b"[DONE]":
                break
            event = json.loads(data)
            error = error or event.get("error")
            for choice in event.get("choices", []):
                text += choice["delta"].get("content") or ""
        if error:
            counts["chat", error.get("code")] += 1
            if error.get("code") not in ("overloaded", "busy", "rate_limit_exceeded", "server_busy"):
                complain(f"chat: a stream ends with {error}")
        elif last != b"[DONE]":
            complain(f"chat: a stream ends with {last!r}")
        else:
            same(f"chat {i}", text, wanted["chat", i])


def several(server, r):
    body = dict(completion(r.choice(list(WRITERS)), 0), n=3, temperature=1, seed=r.randrange(1000), logprobs=2)
    status, answer = server.ask("POST", "/v1/completions", body)
    if not refused("several", status, answer) and len(json.loads(answer)["choices"]) != 3:
        complain("several: not three choices")


def embedding(server, r):
    name = r.choice(list(ENCODERS))
    at = r.randrange(len(TEXTS))
    status, body = server.ask("POST", "/v1/embeddings", {"model": name, "input": TEXTS[at:]})
    if refused("embedding", status, body):
        return
    for row, want in zip(json.loads(body)["data"], wanted[name][at:]):
        if max(abs(a - b) for a, b in zip(row["embedding"], want)) > 1e-5 or len(row["embedding"]) != len(want):
            complain(f"embedding of {name}: another vector")


def ollama(server, r):
    path, body = r.choice([
        ("/api/chat", {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": 4}}),
        ("/api/generate", {"model": "llama", "prompt": "a b", "options": {"num_predict": 4}, "keep_alive": r.choice([0, "1s", -1])}),
        ("/api/embed", {"model": "bert", "input": "one two", "keep_alive": 0}),
        ("/v1/responses", {"model": "chat", "input": "hi", "max_output_tokens": 4, "stream": True}),
        ("/v1/tokenize", {"model": r.choice(list(NAMES)), "text": "one two"}),
        ("/v1/plan", {"model": r.choice(list(NAMES)), "memory": "200M"})])
    status, answer = server.ask("POST", path, body)
    refused(path, status, answer)


# ---- analyses ----

def analysis(server, r):
    connection, answer = server.open("POST", f"/v1/analyze?model=bert&threshold=0.6&name={r.random()}", DOCUMENT,
                                     content_type="text/plain")
    with contextlib.closing(connection):
        counts["analyze", answer.status] += 1
        if answer.status != 200:
            refused("analyze", answer.status, answer.read())
            return
        if r.random() < 0.3:
            for _, _ in zip(range(r.randrange(6)), events_of(answer)):
                pass
            return  # and leaves
        last = None
        for data in events_of(answer):
            last = json.loads(data)
        if not last or last.get("state") != "done":
            counts["analyze", "failed"] += 1
            if stopping.is_set() or server.process.poll() is not None:
                return
            if not last or last.get("error", {}).get("type") not in ("budget", "busy", "limit"):
                complain(f"analyze: it ends with {last}")


def job(server, r):
    status, body = server.ask("POST", "/v1/analyze", {"model": "bert", "text": DOCUMENT},
                              prefer="respond-async", x_cabe_class=r.choice(["normal", "low"]))
    counts["job", status] += 1
    if status != 202:
        refused("job", status, body)
        return
    place = "/v1/jobs/" + json.loads(body)["id"]
    if r.random() < 0.5:
        time.sleep(r.random() * 0.2)
        status, body = server.ask("POST", place + "/cancel")
        if status not in (200, 202, 409):
            complain(f"a job's cancel: {status} {body}")
    while not stopping.is_set() and "state" in (state := json.loads(server.ask("GET", place)[1])):
        if state["state"] in ("done", "failed", "cancelled"):
            counts["job", state["state"]] += 1
            break
        time.sleep(0.05)
    server.ask("GET", place + r.choice(["/result", "/events", ""]))
    status, body = server.ask("DELETE", place)
    if status not in (200, 204, 409):
        complain(f"a job's end: {status} {body}")


# ---- models that come and go ----

def change(server, r):
    """Small ones are pinned: large ones would leave no room for the others."""
    what = r.choice(["load", "unload", "unload", "pin", "unpin"])
    name = r.choice(["static", "tied"] if "pin" in what else list(NAMES))
    status, body = server.ask("POST", f"/v1/models/{name}/{what}")
    refused(what, status, body, also=(404, 409) if what == "unload" else (507,))


LOOKS = ["/metrics", "/v1/stats?history=1", "/v1/state", "/v1/models", "/api/tags", "/api/ps", "/v1/jobs", "/ready",
         "/health", "/", "/openapi.json", "/v1/machine", "/v1/models/llama"]


def look(server, r):
    path = r.choice(LOOKS)
    status, body = server.ask("GET", path)
    refused(path, status, body)


# ---- those who behave badly ----

def post(path, body):
    body = json.dumps(body).encode()
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        path.encode(), len(body), body)


def vanish(server, r):
    """In the middle of an answer, of a request, or of the wait for a model; by a reset or by an end."""
    name = r.choice(list(WRITERS))
    request = post("/v1/completions", dict(completion(name, 2), max_tokens=100, stream=r.random() < 0.7, n=r.randrange(1, 3)))
    s = server.socket()
    with contextlib.closing(s):
        s.sendall(request[: r.randrange(1, len(request))] if r.random() < 0.2 else request)
        if r.random() < 0.7:
            with contextlib.suppress(OSError):
                s.settimeout(r.random())
                s.recv(r.randrange(1, 2000))
        if r.random() < 0.5:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    counts["vanished"] += 1


def slow_reader(server, r):
    s = server.socket(receive=2048)
    with contextlib.closing(s):
        s.sendall(post("/v1/completions", dict(completion("llama", 1), max_tokens=60, stream=True, logprobs=5)))
        end = time.monotonic() + r.random() * 3
        with contextlib.suppress(OSError):
            s.settimeout(0.5)
            while time.monotonic() < end and not stopping.is_set() and s.recv(r.randrange(1, 64)):
                time.sleep(0.01)
    counts["read slowly"] += 1


def slow_writer(server, r):
    s = server.socket()
    with contextlib.closing(s), contextlib.suppress(OSError):
        for byte in post("/v1/embeddings", {"model": "bert", "input": "x"})[: r.randrange(10, 120)]:
            s.sendall(bytes([byte]))
            time.sleep(0.005)
    counts["wrote slowly"] += 1


HOSTILE = [("/v1/chat/completions", b"{"), ("/v1/chat/completions", b"[" * 3000), ("/v1/completions", b'{"model": "absent"}'),
           ("/v1/completions", b'{"model": "llama", "prompt": "' + b"a b " * 4000 + b'"}'),
           ("/v1/embeddings", b'{"model": "bert", "input": []}'), ("/v1/embeddings", b'{"model": "llama", "input": "x"}'),
           ("/v1/analyze?model=bert", b"\xff\xfe\0"), ("/v1/models/absent/load", b""), ("/v1/jobs/none/cancel", b""),
           ("/api/chat", b'{"model": "chat", "messages": 7}'), ("/api/generate", b'{"model": "bert", "prompt": "x"}')]


def hostile(server, r):
    path, body = r.choice(HOSTILE)
    status, answer = server.ask("POST", path, body, content_type="application/json")
    counts["hostile", status] += 1
    if status not in (400, 404, 415, *REFUSED):
        complain(f"hostile {path} {body[:40]}: {status} {answer[:200]!r}")
    s = server.socket()
    with contextlib.closing(s), contextlib.suppress(OSError):
        s.sendall(r.randbytes(200) if r.random() < 0.5 else b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
                  b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        s.settimeout(5)
        if b" 200 " in s.recv(100):
            complain("hostile bytes were taken")


def listen(server, r):
    connection, answer = server.open("GET", "/v1/events" + r.choice(["", "?since=0"]))
    with contextlib.closing(connection):
        for _, data in zip(range(r.randrange(1, 6)), events_of(answer)):
            json.loads(data)
            if stopping.is_set():
                break
    counts["listened"] += 1


def websocket(server, r):
    key = base64.b64encode(r.randbytes(16)).decode()
    s = server.socket()
    with contextlib.closing(s):
        s.sendall((f"GET /v1/events?since=0 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                   f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n").encode())
        with contextlib.suppress(OSError):
            s.settimeout(5)
            if not s.recv(300).startswith(b"HTTP/1.1 101"):
                complain("websocket: no upgrade")
            what = r.choice([b"\x89\x80abcd", b"\x88\x80abcd", r.randbytes(40), b""])
            if what:
                s.sendall(what)
            s.settimeout(0.5)
            for _ in range(4):
                if not s.recv(4000):
                    break
    counts["websockets"] += 1


ACTIONS = [(whole_completion, 6), (streamed_chat, 6), (several, 1), (embedding, 4), (ollama, 3), (analysis, 1), (job, 1),
           (change, 2), (look, 4), (vanish, 3), (slow_reader, 1), (slow_writer, 1), (hostile, 2), (listen, 1), (websocket, 1)]


def client(server, seed):
    r = random.Random(seed)
    while not stopping.is_set():
        action = r.choices([a for a, _ in ACTIONS], [w for _, w in ACTIONS])[0]
        try:
            action(server, r)
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            if server.process.poll() is not None:
                return
            if not stopping.is_set():
                complain(f"{action.__name__}: {traceback.format_exc()[-1500:]}")
                time.sleep(0.2)


# ---- before and afterwards ----

def busy(server):
    state = json.loads(server.ask("GET", "/v1/stats")[1])
    work = state["service"]
    jobs = [j["id"] for j in json.loads(server.ask("GET", "/v1/jobs")[1])["data"] if j["state"] in ("waiting", "running")]
    return {k: v for k, v in (("running", work["running"]), ("waiting", work["waiting"]), ("jobs", jobs)) if v}


def unloaded(server):
    left = {}
    for name in NAMES:
        server.ask("POST", f"/v1/models/{name}/unpin")
        status, body = server.ask("POST", f"/v1/models/{name}/unload")
        if status not in (200, 404):
            left[name] = status, body
    return left


def main():
    print(f"load: seed {SEED}", flush=True)
    with tempfile.TemporaryDirectory() as home:
        first = Server(PROGRAM, home, "--memory", "1G", "--threads", "2", "--kv", "f32")
        memory = first.ledger()["process"] + ROOM
        for name, path in NAMES.items():
            status, body = first.ask("POST", "/api/pull", {"model": name, "path": path, "stream": False})
            assert status == 200, (name, status, body)
        learn_chat(first, home)
        first.end()
        server = Server(PROGRAM, home, "--memory", str(memory), "--threads", "2", "--keep-alive", "3", "--kv", "f32",
                        "--context", "256", "--parallel", "2")
        try:
            run(server, home)
        finally:
            server.kill()
    shown = ", ".join(f"{k if isinstance(k, str) else ' '.join(map(str, k))} {n}" for k, n in sorted(counts.items(), key=str))
    print(f"load: {sum(counts.values())} things done in {SECONDS:g} s: {shown}")
    for reason, n in reasons.most_common(8):
        print(f"load: refused {n} times: {reason}")
    return 1 if complaints else 0


def run(server, home):
    before = server.ledger()
    learn(server)
    threads = [threading.Thread(target=client, args=(server, SEED * 1000 + k), daemon=True) for k in range(12)]
    for thread in threads:
        thread.start()
    stop = time.monotonic() + SECONDS
    while time.monotonic() < stop and server.process.poll() is None:
        time.sleep(0.2)
    if server.process.poll() is not None:
        server.end()
        complain("the server ended by itself")
        return
    stopping.set()
    for thread in threads:
        thread.join(PATIENCE)
    if any(thread.is_alive() for thread in threads):
        complain("a request is stuck")
    until("work is left:", lambda: not busy(server), lambda: busy(server))
    until("models that cannot be unloaded:", lambda: not unloaded(server), lambda: unloaded(server))
    until("the ledger:", lambda: not server.differs(before),
          lambda: (server.differs(before), json.loads(server.ask("GET", "/v1/state")[1])["memory"]["holders"]))
    before = dict(wanted)
    learn(server)
    if before != wanted:
        complain("after the load it answers differently")
    sigterm(server)
    again = Server(PROGRAM, home, "--memory", "1G")
    states = [j["state"] for j in json.loads(again.ask("GET", "/v1/jobs")[1])["data"]]
    if any(state not in ("done", "failed", "cancelled") for state in states):
        complain(f"jobs after a restart: {states}")
    again.end()


def sigterm(server):
    """While answers, jobs and listeners are on their way: what was begun comes to its end."""
    ends = []

    def answer():
        try:
            connection, reply = server.open("POST", "/v1/completions", dict(completion("llama", 1), max_tokens=40, stream=True))
            with contextlib.closing(connection):
                ends.append((reply.status, reply.read()[-14:]) if reply.status == 200 else (reply.status, b""))
        except (OSError, http.client.HTTPException) as error:  # it came too late
            ends.append((0, repr(error)))

    answers = [threading.Thread(target=answer, daemon=True) for _ in range(4)]
    for thread in answers:
        thread.start()
    server.ask("POST", "/v1/analyze", {"model": "bert", "text": DOCUMENT}, prefer="respond-async")
    events, listening = server.open("GET", "/v1/events")
    until("answers begin", lambda: ends or json.loads(server.ask("GET", "/v1/stats")[1])["service"]["running"] > 0)
    server.end()
    for thread in answers:
        thread.join(PATIENCE)
    for status, end in ends:
        if status not in (0, 408, *REFUSED) and end != b"data: [DONE]\n\n":
            complain(f"an answer while it ended: {status} {end}")
    events.close()
    listening.close()


sys.exit(main())
