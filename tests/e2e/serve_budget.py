"""A chat model, an embedder and an analysis at once on one budget: nothing is killed, and what the ledger says is what
the system measures: never more resident than reserved, and what of it is touched within 5 % of what is resident.
usage: serve_budget.py PROGRAM CHAT EMBEDDER DOCUMENT MEMORY_MIB

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
CONTEXT, PARALLEL, PLACES = 256, 4, 192  # of a chat; that talk at once; for which keys and values are reserved
GROUP = pathlib.Path("/sys/fs/cgroup/memory/cabe_serve_%d" % os.getpid())
OVERHEAD = 4 << 20  # of the group: page tables, stacks and file pages in flight that no process can count


def group():
    try:
        GROUP.mkdir()
        (GROUP / "memory.limit_in_bytes").write_text(str(MEMORY + (OVERHEAD if MIB < 1024 else 0)))
        return True
    except OSError:
        return False


class Look:
    def __init__(self, reserved, touched, resident, purposes, touched_purposes):
        self.reserved, self.touched, self.resident = reserved, touched, resident
        self.purposes, self.touched_purposes = purposes, touched_purposes

    def over(self):
        """By how much of it more is resident than is said to be touched; 0: it is not."""
        return max(0, self.resident[0] / self.touched - 1)

    def under(self):
        """By how much more is said to be touched than is resident. Staging is heap for the moment, of which little is used."""
        return max(0, (self.touched - self.touched_purposes["staging"]) / self.resident[1] - 1)


class Server:
    def __init__(self, home):
        self.in_group = group()
        self.errors = []
        self.process = subprocess.Popen(
            [PROGRAM, "serve", CHAT, EMBEDDER, "--port", "0", "--memory", str(MEMORY), "--context", str(CONTEXT),
             "--parallel", str(PLACES), "--generation-timeout", "300"],
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

    def resident(self):
        """By the page tables."""
        rollup = pathlib.Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in rollup if line.startswith("Rss:"))

    def memory(self):
        """What the ledger says, between two looks at what is resident: it may change while one looks."""
        before = self.resident()
        host = json.loads(self.ask("/v1/state"))["memory"]["devices"][0]
        return Look(host["used_bytes"], host["touched_bytes"], sorted((before, self.resident())), host["purposes"],
                    host["touched"])

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
        end = server.memory()
        kills = server.kills()
    finally:
        code = server.close()
    top = max(s.reserved for s in samples)
    worst = max(s.resident[0] / s.reserved for s in samples)
    over, under = max(s.over() for s in samples + [end]), max(s.under() for s in samples + [end])
    print(f"serve_budget: {len(samples)} samples; most reserved {top / 1e6:.1f} MB of {MEMORY / 1e6:.1f}, most resident "
          f"{max(s.resident[1] for s in samples) / 1e6:.1f}, at most {worst:.3f} of what is reserved; beside what is touched "
          f"at most {100 * over:.1f} % more and {100 * under:.1f} % less; at the end resident {end.resident[1] / 1e6:.1f}, "
          f"touched {end.touched / 1e6:.1f} of {end.reserved / 1e6:.1f} MB; control group: "
          f"{'yes' if server.in_group else 'none here'}, {kills} kills")
    print("serve_budget: at the end, touched of reserved:",
          ", ".join(f"{k} {end.touched_purposes[k] / 1e6:.1f}/{v / 1e6:.1f}" for k, v in end.purposes.items() if v))
    for error in server.errors[:5]:
        print("serve_budget:", error)
    good = not server.errors and kills == 0 and code == 0 and worst <= 1.05 and over <= 0.05 and under <= 0.05
    if top > MEMORY:
        print("serve_budget: more than the budget is reserved")
        good = False
    for look in samples + [end]:
        if any(look.touched_purposes[k] > v for k, v in look.purposes.items()) or \
                sum(look.touched_purposes.values()) != look.touched:
            print("serve_budget: purposes touched", look.touched_purposes, "of", look.purposes, "in sum", look.touched)
            good = False
            break
    if end.touched_purposes["kv"] >= end.purposes["kv"] - (16 << 20):
        print("serve_budget: nothing is reserved that was never written: this test shows nothing")
        good = False
    if not good:
        print(pathlib.Path(home + "/err").read_text()[-2000:])
    subprocess.run(["rm", "-rf", home], check=False)
    return 0 if good else 1


sys.exit(main())
