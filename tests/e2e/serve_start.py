"""Microseconds from the start of `cabe serve` to its first 200 at /health. usage: serve_start.py PROGRAM"""
import os
import socket
import subprocess
import sys
import tempfile
import time


def answer(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return s.recv(4096).startswith(b"HTTP/1.1 200")


def main():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        words = [sys.argv[1], "serve", "--port", str(port), "--memory", "300M"]
        begin = time.monotonic_ns()
        server = subprocess.Popen(words, env=dict(os.environ, CABE_HOME=home), stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        try:
            while time.monotonic_ns() - begin < 120e9:
                try:
                    if answer(port):
                        print((time.monotonic_ns() - begin) // 1000)
                        return 0
                except OSError:
                    time.sleep(0.0005)
            print("no answer within 120 s", file=sys.stderr)
            return 1
        finally:
            server.terminate()
            server.wait()


sys.exit(main())
