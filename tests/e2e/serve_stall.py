"""Freezes the thread that computes an answer: /ready says so within 5 s while /health stays 200; let go, the answer
comes to its end and /ready is 200 again. usage: serve_stall.py PROGRAM NAME=MODEL

Exit code 77 where the system does not let one thread be stopped.
"""
import ctypes
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, tid):
    if libc.ptrace(request, tid, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def ticks(pid):
    """CPU time of every thread."""
    out = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
        out[int(task.name)] = int(fields[11]) + int(fields[12])
    return out


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def until(url, path, wanted, seconds, also=None):
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        got, body = status(url + path)
        if got == wanted:
            return time.monotonic() - begin, body
        if also:
            assert status(url + also)[0] == 200, also
        time.sleep(0.05)
    raise AssertionError(f"{path} is not {wanted} within {seconds} s: {got} {body}")


def freeze(url, tid):
    """In the middle of an answer, not between two."""
    for _ in range(50):
        ptrace(PTRACE_SEIZE, tid)
        ptrace(PTRACE_INTERRUPT, tid)
        os.waitpid(tid, 0x40000000)  # __WALL
        if json.loads(status(url + "/v1/stats")[1])["service"]["running"] == 1:
            return tid
        ptrace(PTRACE_DETACH, tid)
        time.sleep(0.02)
    raise AssertionError("the thread never had work when it was stopped")


def main():
    program, model = sys.argv[1:3]
    name = model.split("=")[0]
    with tempfile.TemporaryDirectory() as home:
        server = subprocess.Popen([program, "serve", model, "--port", "0", "--memory", "300M", "--threads", "1",
                                   "--generation-timeout", "600"],
                                  env=dict(os.environ, CABE_HOME=home), stdout=subprocess.PIPE, text=True,
                                  stderr=subprocess.DEVNULL)
        frozen = None
        try:
            url = server.stdout.readline().split()[-1]
            until(url, "/ready", 200, 120)
            answers = []
            stop = threading.Event()

            def ask():
                body = {"model": name, "prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True}
                while not stop.is_set():
                    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode())
                    with urllib.request.urlopen(request, timeout=600) as answer:
                        answers.append(json.loads(answer.read())["usage"]["completion_tokens"])

            asking = threading.Thread(target=ask)
            asking.start()
            before = ticks(server.pid)
            time.sleep(1)
            after = ticks(server.pid)
            busiest = max(after, key=lambda tid: after[tid] - before.get(tid, 0))
            for _ in range(5):  # a machine that stands still itself delays what is measured
                try:
                    frozen = freeze(url, busiest)
                except OSError as error:
                    print(f"skip: one thread cannot be stopped here: {error}")
                    stop.set()
                    asking.join()
                    return 77
                took, why = until(url, "/ready", 503, 120, also="/health")
                assert "stalled" in why or "answered" in why, why
                assert status(url + "/health")[0] == 200
                ptrace(PTRACE_DETACH, busiest)
                frozen = None
                back, _ = until(url, "/ready", 200, 120)
                if took <= 5:
                    break
            assert took <= 5, f"/ready went 503 after {took:.2f} s"
            stop.set()
            asking.join()
            assert answers and all(n == answers[0] for n in answers), answers
            print(f"serve: a frozen engine is seen after {took:.2f} s ({json.loads(why)['reason']}), ready again "
                  f"after {back:.2f} s")
        finally:
            if frozen:
                ptrace(PTRACE_DETACH, frozen)
            server.kill() if sys.exc_info()[0] else server.terminate()
            server.wait()
    return 0


sys.exit(main())
