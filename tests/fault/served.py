"""What the drivers of this folder share: a server of their own, complaints, and waiting with patience. Standard library only."""
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

# Seconds until something counts as stuck: a program with a sanitizer, on a machine that does other things or stands still.
PATIENCE = float(os.environ.get("PATIENCE_S", 600))
TIMES = ("--generation-timeout", "600", "--slot-wait", "600", "--worker-wait", "600", "--drain", "300")
HTTP_KEEPS = 1 << 20  # of what it had, for those who come next
SANITIZERS = r"(?:WARNING: ThreadSanitizer|ERROR: AddressSanitizer|ERROR: LeakSanitizer|runtime error:)[^\n]*"

complaints = []
_lock = threading.Lock()


def complain(text):
    with _lock:
        complaints.append(text)
        if len(complaints) <= 20:
            print(os.path.basename(sys.argv[0]) + ":", text[:3000], flush=True)


def until(what, holds, why=lambda: ""):
    """Whether it came to hold; it is looked at once more when time is up, for all may have stood still."""
    end = time.monotonic() + PATIENCE
    while True:
        late = time.monotonic() > end
        if holds():
            return True
        if late:
            complain(f"{what} {why()}")
            return False
        time.sleep(0.02)


class Server:
    def __init__(self, program, home, *arguments):
        self.home = str(home)
        environment = dict(os.environ, CABE_HOME=self.home)
        environment.pop("ENVIRONMENT", None)
        with open(self.home + "/stderr", "ab") as errors:
            self.process = subprocess.Popen([program, "serve", "--port", "0", *TIMES, *arguments], env=environment,
                                            stdout=subprocess.PIPE, stderr=errors, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("it did not start: " + self.said()[-2000:])
        self.port = int(line.rsplit(":", 1)[1])
        if not until("never ready:", self.is_up, lambda: self.ask("GET", "/ready")):
            self.kill()
            raise SystemExit(1)

    def is_up(self):
        """Models of the start are there, or will never be."""
        status, body = self.ask("GET", "/ready")
        return status == 200 or not json.loads(body)["reason"].startswith(("starting", "loading"))

    def open(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, (dict, list)):
            body, headers["content-type"] = json.dumps(body), "application/json"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent: the answer is there
            connection.request(method, path, body, headers)
        return connection, connection.getresponse()

    def ask(self, method, path, body=None, **headers):
        while True:
            connection, answer = self.open(method, path, body, **headers)
            with contextlib.closing(connection):
                text = answer.read()
            if answer.status != 408:  # all stood still between our bytes: again
                return answer.status, text

    def ended_job(self, place):
        seen = {}

        def has_ended():
            seen.update(json.loads(self.ask("GET", place)[1]))
            return seen["state"] in ("done", "failed", "cancelled")

        until(place + ": no end:", has_ended, lambda: seen)
        return seen

    def socket(self, receive=0):
        s = socket.socket()
        if receive:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        s.settimeout(PATIENCE)
        s.connect(("127.0.0.1", self.port))
        return s

    def ledger(self):
        text = self.ask("GET", "/metrics")[1].decode()
        return {purpose: int(float(n)) for purpose, n in
                re.findall(r'cabe_memory_purpose_bytes\{device="host",purpose="(\w+)"\} (\S+)', text)}

    def differs(self, before):
        """What the ledger holds otherwise than it did."""
        after = self.ledger()
        return {k: (n, after[k]) for k, n in before.items()
                if after[k] != n and not (k == "network" and n <= after[k] <= n + HTTP_KEEPS)}

    def said(self):
        with open(self.home + "/stderr", errors="replace") as errors:
            return errors.read()

    def end(self):
        """It ends by itself when it is asked to, with 0, and no sanitizer has found anything."""
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(PATIENCE)
        text = self.said()
        if found := re.search(SANITIZERS, text):
            complain(text[found.start():][:8000])
        if code != 0:
            complain(f"exit code {code}: {text[-3000:]}")

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def events_of(answer):
    for line in answer:
        if line.startswith(b"data:"):
            yield line[5:].strip()
