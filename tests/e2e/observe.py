"""What the server says of itself agrees with what a client counted: /metrics, /v1/stats, /v1/events, jobs, analyses.

usage: observe.py PROGRAM MODELS_FOLDER
"""
import base64
import collections
import http.client
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

PROGRAM, MODELS = sys.argv[1:3]
KEY = "observe-key"
failed = 0


def check(what, holds):
    global failed
    if not holds:
        failed = 1
        print("observe:", what)


class Server:
    def __init__(self, *arguments, home=None):
        self.home = home or tempfile.mkdtemp()
        environment = dict(os.environ, CABE_HOME=self.home)
        environment.pop("ENVIRONMENT", None)
        self.process = subprocess.Popen([PROGRAM, "serve", "--port", "0", "--memory", "300M", "--api-keys", KEY, *arguments],
                                        env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])
        self.counted = collections.Counter()  # answers that this client saw, by route, method and status
        for _ in range(400):
            if self.ask("GET", "/ready")[0] == 200:
                return
            time.sleep(0.02)
        raise SystemExit("observe: never ready")

    def open(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers.setdefault("authorization", "Bearer " + KEY)
        headers = {name.replace("_", "-"): value for name, value in headers.items() if value}
        if isinstance(body, dict):
            body, headers["content-type"] = json.dumps(body), "application/json"
        connection.request(method, path, body, headers)
        return connection, connection.getresponse()

    def ask(self, method, path, body=None, **headers):
        connection, answer = self.open(method, path, body, **headers)
        data = answer.read()
        connection.close()
        handler = re.sub(r"^/v1/jobs/.*", "/v1/jobs/*", path.split("?")[0])
        self.counted[handler, method, str(answer.status)] += 1
        return answer.status, data, answer

    def json(self, method, path, body=None, **headers):
        return json.loads(self.ask(method, path, body, **headers)[1])

    def metrics(self):
        return parse(self.ask("GET", "/metrics")[1].decode())

    def end(self):
        self.process.terminate()
        check("exit code after SIGTERM", self.process.wait(60) == 0)


NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = re.compile(r'(%s)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|$)' % NAME.replace(":", ""))


def parse(text):
    """Prometheus' text, as strictly as its own parser: {(name, labels): value}. Says what is wrong."""
    values, types, done = {}, {}, set()
    current = None
    check("metrics: the last line does not end", text.endswith("\n"))
    for line in text.splitlines():
        if line.startswith("#"):
            _, word, name, rest = line.split(" ", 3)
            check(f"metrics: {line}", word in ("HELP", "TYPE"))
            if word == "TYPE":
                check(f"metrics: {name} has two types", name not in types)
                check(f"metrics: {line}", rest in ("counter", "gauge", "histogram"))
                types[name] = rest
                current = name
            elif name != current:
                check(f"metrics: {name} comes twice", name not in done)
                done.add(name)
            continue
        found = re.fullmatch(r"(%s)(?:\{(.*)\})? (\S+)" % NAME, line)
        if not found:
            check(f"metrics: not a sample: {line}", False)
            continue
        name, labels, value = found.groups()
        family = name if name in types else re.sub(r"_(bucket|sum|count)$", "", name)
        check(f"metrics: {name} is not of {current}", family == current)
        check(f"metrics: counter {name} has no _total", types[family] != "counter" or name.endswith("_total"))
        at, pairs = 0, []
        while labels and at < len(labels):
            label = LABEL.match(labels, at)
            if not label:
                check(f"metrics: labels of {line}", False)
                break
            pairs.append((label[1], label[2]))
            at = label.end()
        key = name, tuple(sorted(pairs))
        check(f"metrics: {key} comes twice", key not in values)
        values[key] = float(value)
    for (name, labels), value in values.items():  # buckets rise, and the last is the count
        if name.endswith("_bucket") and dict(labels)["le"] == "+Inf":
            rest = tuple(pair for pair in labels if pair[0] != "le")
            rows = sorted((float(dict(l)["le"].replace("+Inf", "inf")), v) for (n, l), v in values.items()
                          if n == name and tuple(p for p in l if p[0] != "le") == rest)
            check(f"metrics: {name} {rest} falls", all(a[1] <= b[1] for a, b in zip(rows, rows[1:])))
            check(f"metrics: {name} {rest} count", values[name[:-7] + "_count", rest] == value)
    return values


def of(values, name, **labels):
    return sum(v for (n, l), v in values.items() if n == name and set(labels.items()) <= set(l))


def stream(answer):
    """[name, data, id] of server-sent events."""
    name, data, number = "", "", 0
    for line in answer:
        line = line.decode().rstrip("\n").rstrip("\r")
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("id:"):
            number = int(line[3:])
        elif line.startswith("data:"):
            data = line[5:].strip()
        elif not line and data:
            yield name, json.loads(data), number
            name, data, number = "", "", 0


TEXT = ("The sea was calm that morning and nobody spoke a word. The captain looked at his old watch again. "
        "Nobody said a word that morning, and the sea lay calm. The captain looked at his old watch again.\n")


def counters_reconcile():
    server = Server(f"--models=tiny={MODELS}/llama3-f32.gguf,enc={MODELS}/bert-mean-f32.gguf")
    tokens = collections.Counter()
    heard = []
    connection, listening = server.open("GET", "/v1/events")
    thread = threading.Thread(target=lambda: heard.extend(event for event in quietly(stream(listening))), daemon=True)
    thread.start()
    for i in range(12):
        body = {"model": "tiny", "prompt": f"a b c {i}", "max_tokens": 4 + i % 3, "temperature": 0, "ignore_eos": True}
        usage = server.json("POST", "/v1/completions", body)["usage"]
        tokens["prompt"] += usage["prompt_tokens"]
        tokens["new"] += usage["completion_tokens"]
        tokens["cached"] += (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    for i in range(5):
        server.json("POST", "/v1/embeddings", {"model": "enc", "input": ["one two", "three"]})
    server.ask("GET", "/no/such/path")
    server.ask("POST", "/v1/completions", {"model": "absent", "prompt": "x"})
    check("a key is asked for", server.ask("GET", "/metrics", authorization="Bearer wrong")[0] == 401)
    time.sleep(0.3)  # what is counted when an answer has been sent
    values = server.metrics()
    for (handler, method, status), n in server.counted.items():
        if handler in ("/metrics", "/ready"):
            continue  # the one that is being answered is not counted yet; /ready was asked until it was
        label = handler if handler != "/no/such/path" else "none"
        got = of(values, "cabe_http_requests_total", handler=label, method=method, status=status)
        check(f"{method} {handler} {status}: counted {n}, the server {got}", got == n)
    for name, want in (("cabe_prompt_tokens_total", tokens["prompt"]), ("cabe_generation_tokens_total", tokens["new"]),
                       ("cabe_prefix_cache_hits_total", tokens["cached"])):
        got = of(values, name, model_name="tiny")
        check(f"{name}: counted {want}, the server {got}", got == want)
    check("answers", of(values, "cabe_request_success_total", model_name="tiny") == 12)
    check("first tokens", of(values, "cabe_time_to_first_token_seconds_count", model_name="tiny") == 12)
    check("embedded texts", of(values, "cabe_embedded_texts_total") == 10)
    reserved = of(values, "cabe_memory_reserved_bytes", device="host")
    check("purposes sum up", reserved == of(values, "cabe_memory_purpose_bytes", device="host"))
    touched = of(values, "cabe_memory_touched_bytes", device="host")
    check("touched sums up", touched == of(values, "cabe_memory_purpose_touched_bytes", device="host"))
    check(f"touched {touched} of {reserved}", 0 < touched <= reserved)
    check("touched by purpose", all(of(values, "cabe_memory_purpose_touched_bytes", purpose=p) <=
                                    of(values, "cabe_memory_purpose_bytes", purpose=p) for p in ("weights", "kv", "caches")))
    check("within the budget", 0 < reserved <= of(values, "cabe_memory_budget_bytes") == 300 << 20)
    check("resident", 0 < of(values, "process_resident_memory_bytes") < 400 << 20)

    stats = server.json("GET", "/v1/stats?history=1")
    answers = next(a for a in stats["answers"] if a["model"] == "tiny")
    check("stats: answers", answers["answers"] == 12 and answers["new_tokens"] == tokens["new"])
    check("stats: p50 <= p95", 0 < answers["first_token_s"]["p50"] <= answers["first_token_s"]["p95"])
    check("stats: history", len(stats["history"]) >= 1)
    time.sleep(1.5)
    check("events: samples come", sum(name == "sample" for name, _, _ in heard) >= 1)
    sample = next((data for name, data, _ in heard if name == "sample"), {"memory": {"devices": []}})
    check("events: memory by purpose", "weights" in sample["memory"]["devices"][0]["purposes"])
    check("events: memory touched", 0 < sample["memory"]["devices"][0]["touched_bytes"] <=
          sample["memory"]["devices"][0]["reserved_bytes"])

    top = subprocess.run([PROGRAM, "top", "--once", "--url", f"127.0.0.1:{server.port}"], text=True, capture_output=True,
                         env=dict(os.environ, CABE_API_KEY=KEY))
    check(f"cabe top: {top}", top.returncode == 0 and "tiny" in top.stdout and "weights" in top.stdout and
          " touched" in top.stdout)
    top = subprocess.run([PROGRAM, "top", "--once", "--url", f"127.0.0.1:{server.port}"], text=True, capture_output=True)
    check(f"cabe top without a key: {top}", top.returncode == 10)
    websocket(server)
    connection.close()
    server.end()


def quietly(events):
    try:
        yield from events
    except (OSError, ValueError, http.client.HTTPException, AttributeError):
        pass


def websocket(server):
    connection = socket.create_connection(("127.0.0.1", server.port), 20)
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall((f"GET /v1/events?since=0 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: Upgrade\r\n"
                        f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
                        f"Authorization: Bearer {KEY}\r\n\r\n").encode())
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(4096)
    head, got = got.split(b"\r\n\r\n", 1)
    check(f"websocket: {head}", head.startswith(b"HTTP/1.1 101"))

    def take(n):
        nonlocal got
        while len(got) < n:
            more = connection.recv(65536)
            if not more:
                raise SystemExit("observe: the websocket ended")
            got += more
        taken, got = got[:n], got[n:]
        return taken

    names = set()
    while head.startswith(b"HTTP/1.1 101") and "sample" not in names:
        first, length = take(2)
        length = {126: lambda: struct.unpack(">H", take(2))[0], 127: lambda: struct.unpack(">Q", take(8))[0]}.get(
            length, lambda: length)()
        text = take(length)
        if first & 15 == 1:
            names.add(json.loads(text)["event"])
    check(f"websocket: {names}", "model_loaded" in names)
    connection.close()


def analyses():
    server = Server(f"--models=enc={MODELS}/bert-mean-f32.gguf")
    connection, answer = server.open("POST", "/v1/analyze?model=enc&threshold=0.6&name=sea.txt", TEXT,
                                     content_type="text/plain")
    check(f"analyze: {answer.status}", answer.status == 200)
    events = list(stream(answer))
    connection.close()
    names = [name for name, _, _ in events]
    phases = [data["name"] for name, data, _ in events if name == "phase"]
    check(f"analyze: phases {phases}", phases == ["read", "model_load", "embed", "compare", "report"])
    order = [names.index(name) for name in ("documents", "plan", "phase", "pairs", "groups", "report")]
    check(f"analyze: order {names}", order == sorted(order) and names[-1] == "end")
    check("analyze: the end", events[-1][1]["state"] == "done")
    pair = next(data for name, data, _ in events if name == "pairs")[0]
    check(f"analyze: {pair}", pair["kind"] == "verbatim" and pair["a"]["document"] == "sea.txt" and
          pair["a"]["text"] == "The captain looked at his old watch again.")
    listed = server.json("GET", "/v1/jobs")["data"]
    check(f"analyze: a stream is listed: {listed}", [job["id"] for job in listed] == [events[0][1]["id"]] and
          listed[0]["streamed"] and listed[0]["state"] == "done")
    status, body, _ = server.ask("GET", f"/v1/jobs/{listed[0]['id']}/result")
    check(f"analyze: the result of a stream is not kept: {status}", status == 410)
    check("analyze: forgotten", server.ask("DELETE", f"/v1/jobs/{listed[0]['id']}")[0] == 200 and
          server.json("GET", "/v1/jobs")["data"] == [])

    status, body, head = server.ask("POST", "/v1/analyze", {"model": "enc", "text": TEXT, "threshold": 0.6},
                                    prefer="respond-async")
    place = head.getheader("location")
    check(f"a job: {status} {body}", status == 202 and place == "/v1/jobs/" + json.loads(body)["id"])
    for _ in range(500):
        job = server.json("GET", place)
        if job["state"] in ("done", "failed"):
            break
        time.sleep(0.02)
    result = server.json("GET", place + "/result")
    check(f"a job: {job}", job["state"] == "done" and result["result"]["pairs"][0]["kind"] == "verbatim")
    connection, answer = server.open("GET", place + "/events", accept="application/x-ndjson")
    lines = [json.loads(line) for line in answer if line.strip()]
    check("a job's events are told again", [line["event"] for line in lines][-2:] == ["report", "end"])
    connection.close()

    form = (b'--xx\r\nContent-Disposition: form-data; name="model"\r\n\r\nenc\r\n'
            b'--xx\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n' + TEXT.encode() +
            b'\r\n--xx\r\nContent-Disposition: form-data; name="file"; filename="b.txt"\r\n\r\n' + TEXT.encode() +
            b"\r\n--xx--\r\n")
    connection, answer = server.open("POST", "/v1/analyze", form, content_type="multipart/form-data; boundary=xx")
    groups = next(data for name, data, _ in stream(answer) if name == "groups")
    check(f"two files: {groups[:1]}", {m["document"] for m in groups[0]["members"]} == {"a.txt", "b.txt"})
    connection.close()

    for what, wanted, body, kind in (
            ("empty", 400, b"", "text/plain"), ("binary", 400, b"ab\0cd", "text/plain"),
            ("not UTF-8", 400, b"abc\xff\xfe", "text/markdown"), ("a PDF", 415, b"%PDF-1.4", "application/pdf"),
            ("a cut form", 400, form[:-20], "multipart/form-data; boundary=xx"), ("no boundary", 400, form, "multipart/form-data"),
            ("JSON without a text", 400, b'{"model": "enc"}', "application/json"),
            ("a path", 400, b'{"model": "enc", "path": "/etc/passwd"}', "application/json"),
            ("no such model", 404, b'{"model": "absent", "text": "x"}', "application/json"),
            ("a threshold of 7", 400, b'{"model": "enc", "text": "x", "threshold": 7}', "application/json")):
        status, answer, _ = server.ask("POST", "/v1/analyze?model=enc", body, content_type=kind)
        check(f"{what}: {status} {answer}", status == wanted and json.loads(answer)["error"]["message"])
    before = server.metrics()
    connection, answer = server.open("POST", "/v1/analyze?model=enc", TEXT * 30000, content_type="text/plain")
    next(stream(answer))
    connection.sock.close()
    answer.close()
    for _ in range(500):
        if of(server.metrics(), "cabe_jobs") == 0:
            break
        time.sleep(0.02)
    after = server.metrics()
    check("who leaves ends his analysis", of(after, "cabe_jobs") == 0 and of(after, "cabe_heavy_slots_held") == 0)
    used = [of(values, "cabe_memory_purpose_bytes", purpose=p) for values in (before, after) for p in ("documents", "index")]
    check(f"and its memory is given back: {used}", used[:2] == used[2:])

    connection, answer = server.open("POST", "/v1/analyze?model=enc", TEXT * 30000, content_type="text/plain",
                                     prefer="respond-async")
    job = json.loads(answer.read())["id"]
    for _ in range(500):
        if server.json("GET", "/v1/jobs/" + job)["state"] == "running":
            break
        time.sleep(0.01)
    server.process.kill()
    server.process.wait()
    again = Server(home=server.home)
    lost = again.json("GET", "/v1/jobs/" + job)
    check(f"after a kill: {lost}", lost["state"] == "failed" and lost["error"]["message"] == "the server stopped")
    left = [name for name in os.listdir(server.home + "/state") if name.startswith("upload")]
    check(f"uploads are left: {left}", left == [])
    again.end()


counters_reconcile()
analyses()
print("observe: done" if not failed else "observe: failed")
sys.exit(failed)
