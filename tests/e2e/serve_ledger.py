"""What a server promises: memory, jobs at its end, readiness. usage: serve_ledger.py PROGRAM EMBEDDER STATIC (both NAME=PATH)"""
import contextlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

PROGRAM, EMBEDDER, STATIC = sys.argv[1:4]
NAME, STATIC_NAME = EMBEDDER.split("=")[0], STATIC.split("=")[0]
MIB = 1 << 20
PATIENCE = "--generation-timeout", "600", "--worker-wait", "600"  # a machine that stands still is no fault of ours
failures = []


def check(what, good):
    if not good:
        failures.append(what)
        print("serve_ledger:", what)


class Server:
    def __init__(self, *arguments, home=None):
        self.home = home or tempfile.mkdtemp(prefix="cabe-serve-ledger-")
        self.process = subprocess.Popen([PROGRAM, "serve", *arguments, "--port", "0", *PATIENCE], env=dict(os.environ),
                                        stdout=subprocess.PIPE, stderr=open(self.home + "/err", "w"), text=True)
        self.url = self.process.stdout.readline().split()[-1]

    def ask(self, path, body=None, data=None, headers=None):
        data = json.dumps(body).encode() if body is not None else data
        request = urllib.request.Request(self.url + path, data=data, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def until_ready(self):
        for _ in range(600):
            with contextlib.suppress(OSError):
                if self.ask("/ready")[0] == 200:
                    return
            time.sleep(0.1)
        sys.exit("never ready: " + pathlib.Path(self.home + "/err").read_text()[-2000:])

    def analyze(self, text, **wishes):
        """All events of an analysis, in order, with the time at which each came."""
        query = "&".join(f"{k}={v}" for k, v in {"model": NAME, "stream": "true", **wishes}.items())
        request = urllib.request.Request(f"{self.url}/v1/analyze?{query}", data=text.encode(),
                                         headers={"Content-Type": "text/plain"})
        events, event = [], None
        with urllib.request.urlopen(request, timeout=600) as answer:
            for line in answer:
                line = line.decode().rstrip("\n")
                if line.startswith("event: "):
                    event = line[7:]
                elif line.startswith("data: ") and event:
                    events.append((event, json.loads(line[6:]), time.time()))
        return events

    def purposes(self):
        """Of the host, as of now."""
        device = json.loads(self.ask("/v1/state")[1])["memory"]["devices"][0]
        check(f"touched: {device}", all(device["touched"][p] <= n for p, n in device["purposes"].items()) and
              device["touched"]["promised"] == 0 and sum(device["touched"].values()) == device["touched_bytes"])
        return dict(device["purposes"], reserved=device["used_bytes"])

    def close(self):
        self.process.terminate()
        return self.process.wait(600)


def words(n_sentences, seed):
    random.seed(seed)
    some = "harbour lamp winter letter engine garden market river captain window silver night story bread".split()
    return "\n".join(" ".join(random.choice(some) for _ in range(8)).capitalize() + "." for _ in range(n_sentences))


def shared_encoder():
    """One load for requests and analyses; each phase within what was predicted; the ledger as before afterwards."""
    server = Server(EMBEDDER, "--memory", "256M")
    server.until_ready()
    server.ask("/v1/embeddings", {"model": NAME, "input": ["one"]})
    server.analyze(words(50, 1))  # warm
    time.sleep(1.2)
    before = server.purposes()
    stop, refused = threading.Event(), []

    def embed():
        while not stop.is_set():
            status, body = server.ask("/v1/embeddings", {"model": NAME, "input": [words(1, k) for k in range(8)]})
            if status != 200:
                refused.append(body)

    thread = threading.Thread(target=embed)
    thread.start()
    peaks = []

    def watch():
        while not stop.is_set():
            peaks.append(server.purposes())
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    events = server.analyze(words(900, 2))
    stop.set()
    thread.join()
    watcher.join()
    check(f"requests beside an analysis were refused: {refused[:1]}", not refused)
    end = events[-1]
    check(f"the analysis ended {end}", end[0] == "end" and end[1]["state"] == "done")
    phases = [data for name, data, _ in events if name == "phase"]
    check(f"phases {[p['name'] for p in phases]}",
          [p["name"] for p in phases] == ["read", "model_load", "embed", "compare", "report"])
    for phase in phases:
        over = phase["predicted_peak_bytes"] - phase["measured_peak_bytes"]
        print(f"serve_ledger: {phase['name']}: predicted {phase['predicted_peak_bytes'] / MIB:.1f} MiB, measured "
              f"{phase['measured_peak_bytes'] / MIB:.1f}")
        check(f"{phase['name']}: measured {-over} bytes over what was predicted", over >= 0)
    loads = next(int(float(line.split()[1])) for line in server.ask("/metrics")[1].splitlines()
                 if line.startswith("cabe_pool_loads_total"))
    check(f"the encoder was loaded {loads} times", loads == 1)
    weights = max(p["weights"] for p in peaks)
    check(f"weights {weights} while it ran, {before['weights']} before", weights == before["weights"])
    time.sleep(1.2)
    after = server.purposes()
    check(f"promised {after.get('promised')} at the end", after.get("promised", 0) == 0)
    for purpose in ("documents", "index", "activations", "weights"):
        check(f"{purpose}: {before.get(purpose)} before, {after.get(purpose)} after",
              before.get(purpose) == after.get(purpose))
    check("the server's end", server.close() == 0)


def never_fits():
    """Refused before anything begins, with figures, and the server lives on."""
    server = Server(EMBEDDER, "--memory", "128M", "--slot-wait", "20")
    server.until_ready()
    begun = time.time()
    events = server.analyze(words(60000, 3))
    end = events[-1][1]
    text = (end.get("error") or {}).get("message", "")
    check(f"an analysis that can never fit: {end}", end["state"] == "failed")
    check(f"no figures in '{text}'", "bytes" in text and any(c.isdigit() for c in text))
    check("it waited first", not [e for e in events if e[0] == "progress" and e[1]["what"] == "waiting for memory"])
    check(f"phases were begun: {[e[0] for e in events]}", not [e for e in events if e[0] in ("phase", "plan")])
    print(f"serve_ledger: refused after {time.time() - begun:.2f} s: {text[:160]}")
    check("the server lives", server.ask("/health")[0] == 200)
    before = server.purposes()["network"]
    status, body = server.ask("/v1/embeddings", data=b'{"input":[' + b"1," * 260000 + b"1]}")  # as JSON, 40 MiB
    check(f"a body of more values than there is memory for: {status} {body[:200]}", status == 503 and "no memory" in body)
    status, body = server.ask("/v1/embeddings", data=b'{"input":[' + b"1," * 1000 + b"1]}")
    check(f"a small one: {status} {body[:200]}", status in (400, 404))
    check("the body is on the ledger no more", server.purposes()["network"] < before + 4 * MIB)
    check("the server's end", server.close() == 0)


def waits():
    """Two of which one fits at a time: the second says what it waits for, and both are done."""
    server = Server(STATIC, "--memory", "1G")
    server.until_ready()
    wishes = {"model": STATIC_NAME, "rows": "int8", "threshold": "0.99"}
    text = words(12000, 4)
    own = max(data["own_bytes"] for name, data, _ in server.analyze(text, **wishes) if name == "phase")
    used = server.purposes()["reserved"]
    server.close()
    server = Server(STATIC, "--memory", str(int(used + 1.5 * own + MIB)), "--heavy-slots", "2", "--slot-wait", "100")
    server.until_ready()
    results = [None, None]

    def analyze(i):
        results[i] = server.analyze(text, **wishes)

    threads = [threading.Thread(target=analyze, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(f"both are done: {[r[-1][1].get('error') for r in results]}", all(r[-1][1]["state"] == "done" for r in results))
    waited = [[e for e in r if e[0] == "progress" and e[1]["what"] == "waiting for memory"] for r in results]
    print(f"serve_ledger: of {own / MIB:.1f} MiB each, {len(waited[0])} and {len(waited[1])} times waiting for memory was told")
    check("none waited, or both", (not waited[0]) != (not waited[1]))
    check("what is missing is told", all(e[1]["total"] > 0 for w in waited for e in w))
    check("promised at the end", server.purposes()["promised"] == 0)
    check("the server's end", server.close() == 0)


def begin_job(server, text, name):
    """A stored job; returns its id when it runs."""
    status, body = server.ask(f"/v1/analyze?model={name}&threshold=0.99", data=text.encode(),
                              headers={"Content-Type": "text/plain", "Prefer": "respond-async"})
    check(f"a job: {status} {body[:200]}", status == 202)
    job = json.loads(body)["id"]
    for _ in range(2000):
        if json.loads(server.ask("/v1/jobs/" + job)[1])["state"] != "waiting":
            break
        time.sleep(0.01)
    return job


def drains():
    """What runs at SIGTERM ends, within the drain; what does not is failed with the reason, and nobody forgets it."""
    for drain, wanted in (("100", "done"), ("0.3", "failed")):
        server = Server(EMBEDDER, "--memory", "256M", "--drain", drain)
        server.until_ready()
        text = words(60 if wanted == "done" else 4000, 5)
        job = begin_job(server, text, NAME)
        behind = None
        if wanted == "failed":  # it waits for the slot
            behind = json.loads(server.ask(f"/v1/analyze?model={NAME}", data=text.encode(),
                                           headers={"Content-Type": "text/plain", "Prefer": "respond-async"})[1])["id"]
        begun = time.time()
        check(f"the end of a server that drains for {drain} s", server.close() == 0)
        took = time.time() - begun
        server = Server("--memory", "64M")
        server.until_ready()
        found = json.loads(server.ask("/v1/jobs/" + job)[1])
        check(f"a job in a drain of {drain} s: {found}", found.get("state") == wanted)
        print(f"serve_ledger: a drain of {drain} s took {took:.1f} s, its job is {found.get('state')}")
        if wanted == "done":
            status, result = server.ask(f"/v1/jobs/{job}/result")
            check(f"the result after a restart: {status} {result[:100]}", status == 200 and '"report"' in result)
        else:
            check(f"the reason: {found.get('error')}", "the server stopped" in found["error"]["message"])
            found = json.loads(server.ask("/v1/jobs/" + behind)[1])
            check(f"a job that waited: {found}", found["state"] == "failed" and
                  "the server stopped" in found["error"]["message"])
        server.close()


def failed_starts():
    """A start model that does not load is named by /ready, until it loads after all or is unloaded."""
    path = STATIC.split("=")[1]
    for way in ("load", "unload"):
        folder = tempfile.mkdtemp(prefix="cabe-serve-bad-")
        bad = folder + "/bad.gguf"
        pathlib.Path(bad).write_bytes(b"GGUF is not what this is")
        others = ["gone=/nowhere/gone.gguf", "nowhere"] if way == "load" else [f"{STATIC_NAME}2={path}"]
        server = Server(STATIC, f"bad={bad}", *others, "--memory", "256M")
        for _ in range(600):
            status, body = server.ask("/ready")
            if status == 503 and json.loads(body).get("failed") and "loading" not in json.loads(body)["reason"]:
                break
            time.sleep(0.1)
        failed = {f["model"].split("=")[0]: f["reason"] for f in json.loads(body)["failed"]}
        check(f"/ready: {body}", set(failed) == ({"bad", "gone", "nowhere"} if way == "load" else {"bad"}))
        check("the others are served", server.ask("/v1/embeddings", {"model": STATIC_NAME, "input": ["one"]})[0] == 200)
        if way == "load":
            shutil.copytree(path, folder + "/good")
            os.unlink(bad)
            os.symlink(folder + "/good", bad)
            server.ask("/v1/embeddings", {"model": "bad", "input": ["one"]})
            for _ in range(100):
                failed = [f["model"] for f in json.loads(server.ask("/ready")[1]).get("failed", [])]
                if "bad" not in failed:
                    break
                time.sleep(0.1)
            check(f"after it loaded: {failed}", sorted(f.split("=")[0] for f in failed) == ["gone", "nowhere"])
        for name in ["gone", "nowhere"] if way == "load" else ["bad"]:  # an operator takes notice
            check(f"unloading {name}", server.ask(f"/v1/models/{name}/unload", {})[0] == 200)
        for _ in range(600):
            status, body = server.ask("/ready")
            if status == 200:
                break
            time.sleep(0.1)
        check(f"after it was unloaded: {body}", status == 200)
        check("what never failed", server.ask("/v1/models/never/unload", {})[0] == 404)
        check("the server's end", server.close() == 0)
        shutil.rmtree(folder)


def main():
    failed_starts()
    drains()
    shared_encoder()
    waits()
    never_fits()
    return 1 if failures else 0


sys.exit(main())
