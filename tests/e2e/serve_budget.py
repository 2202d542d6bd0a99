"""A chat model, an embedder and an analysis at once on one budget: nothing is killed, and what the ledger says is what
the system measures. usage: serve_budget.py PROGRAM CHAT EMBEDDER DOCUMENT MEMORY_MIB

CHAT and EMBEDDER are NAME or NAME=PATH. As root with a memory control group (v1) the server lives in one of the budget.
"""
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

PROGRAM, CHAT, EMBEDDER, DOCUMENT, MIB = *sys.argv[1:5], int(sys.argv[5])
MEMORY = MIB << 20
CONTEXT, PARALLEL = 256, 4
GROUP = pathlib.Path("/sys/fs/cgroup/memory/cabe_serve_%d" % os.getpid())
OVERHEAD = 4 << 20  # of the group: page tables, stacks and file pages in flight that no process can count


def group():
    try:
        GROUP.mkdir()
        (GROUP / "memory.limit_in_bytes").write_text(str(MEMORY + (OVERHEAD if MIB < 1024 else 0)))
        return True
    except OSError:
        return False


class Server:
    def __init__(self, home):
        self.in_group = group()
        self.errors = []
        self.process = subprocess.Popen(
            [PROGRAM, "serve", CHAT, EMBEDDER, "--port", "0", "--memory", str(MEMORY), "--context", str(CONTEXT),
             "--parallel", str(PARALLEL), "--generation-timeout", "300"],
            env=dict(os.environ, CABE_HOME=os.environ.get("CABE_HOME", home)), stdout=subprocess.PIPE,
            stderr=open(home + "/err", "w"), text=True,
            preexec_fn=(lambda: (GROUP / "cgroup.procs").write_text(str(os.getpid()))) if self.in_group else None)
        self.url = self.process.stdout.readline().split()[-1]

    def ask(self, path, body=None, data=None, headers=None):
        data = json.dumps(body).encode() if body is not None else data
        request = urllib.request.Request(self.url + path, data=data, headers=headers or {})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.read()

    def until_ready(self):
        for _ in range(600):
            with contextlib.suppress(OSError):
                self.ask("/ready")
                return
            time.sleep(0.1)
        sys.exit("never ready")

    def memory(self):
        """Reserved, and resident by the page tables."""
        metrics = self.ask("/metrics").decode().splitlines()
        rollup = pathlib.Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        resident = next(int(line.split()[1]) << 10 for line in rollup if line.startswith("Rss:"))
        reserved = next(float(line.split()[1]) for line in metrics if line.startswith("cabe_memory_reserved_bytes{"))
        purposes = {line.split('"')[3]: float(line.split()[1]) for line in metrics
                    if line.startswith("cabe_memory_purpose_bytes{")}
        return reserved, resident, purposes

    def kills(self):
        if not self.in_group:
            return 0
        control = (GROUP / "memory.oom_control").read_text().split()
        return int(control[control.index("oom_kill") + 1])

    def close(self):
        self.process.terminate()
        code = self.process.wait(60)
        if self.in_group:
            for _ in range(50):
                with contextlib.suppress(OSError):
                    GROUP.rmdir()
                    break
                time.sleep(0.1)
        return code


def chat(server, name, rounds):
    for i in range(rounds):
        text = f"Tale {i} of the sea and the lamp. " * 12
        body = {"model": name, "prompt": text[: 4 * CONTEXT // 2], "max_tokens": CONTEXT, "ignore_eos": True, "seed": i}
        try:
            server.ask("/v1/completions", body)
        except OSError as error:
            server.errors.append(f"chat: {error}: {getattr(error, 'read', bytes)()[:300]}")


def embed(server, name, rounds):
    for i in range(rounds):
        texts = [f"{i} {k} the harbour froze in a winter that nobody remembered " * (1 + k % 6) for k in range(32)]
        try:
            server.ask("/v1/embeddings", {"model": name, "input": texts})
        except OSError as error:
            server.errors.append(f"embed: {error}: {getattr(error, 'read', bytes)()[:300]}")


def analyze(server, name, rounds):
    text = pathlib.Path(DOCUMENT).read_bytes()
    for _ in range(rounds):
        try:
            server.ask(f"/v1/analyze?model={name}&stream=true", data=text, headers={"Content-Type": "text/plain"})
        except OSError as error:
            server.errors.append(f"analyze: {error}: {getattr(error, 'read', bytes)()[:300]}")


def main():
    home = tempfile.mkdtemp(prefix="cabe-serve-budget-")
    server = Server(home)
    samples = []
    try:
        server.until_ready()
        chat_name, embed_name = CHAT.split("=")[0], EMBEDDER.split("=")[0]
        works = [(chat, chat_name, 3)] * PARALLEL + [(embed, embed_name, 6)] * 2 + [(analyze, embed_name, 2)]
        threads = [threading.Thread(target=work, args=(server, name, rounds)) for work, name, rounds in works]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            samples.append(server.memory())
            time.sleep(0.25)
        reserved, resident, purposes = server.memory()
        kills = server.kills()
    finally:
        code = server.close()
    worst = max(s[1] / s[0] for s in samples)
    top = max(s[0] for s in samples)
    print(f"serve_budget: {len(samples)} samples; most reserved {top / 1e6:.1f} MB of {MEMORY / 1e6:.1f}, most resident "
          f"{max(s[1] for s in samples) / 1e6:.1f}; resident / reserved at most {worst:.3f}, at the end "
          f"{resident / reserved:.3f} ({resident / 1e6:.1f} of {reserved / 1e6:.1f} MB); control group: "
          f"{'yes' if server.in_group else 'none here'}, {kills} kills")
    print("serve_budget: at the end,", ", ".join(f"{k} {v / 1e6:.1f}" for k, v in purposes.items() if v))
    for error in server.errors[:5]:
        print("serve_budget:", error)
    good = not server.errors and kills == 0 and code == 0 and worst <= 1.05 and abs(resident / reserved - 1) <= 0.05
    if top > MEMORY:
        print("serve_budget: more than the budget is reserved")
        good = False
    if not good:
        print(pathlib.Path(home + "/err").read_text()[-2000:])
    subprocess.run(["rm", "-rf", home], check=False)
    return 0 if good else 1


sys.exit(main())
