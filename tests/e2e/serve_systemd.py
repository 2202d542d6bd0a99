"""What systemd does with `cabe serve`: hands over sockets, reads its news. usage: serve_systemd.py PROGRAM"""
import os
import socket
import subprocess
import sys
import tempfile
import time


def get(path, family, address):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(120)
        s.connect(address)
        s.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path.encode())
        return s.recv(4096)


def news_until(notify, wanted, seconds):
    seen = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        notify.settimeout(max(0.01, end - time.monotonic()))
        try:
            seen.append(notify.recv(4096).decode())
        except TimeoutError:
            break
        if any(wanted in text for text in seen):
            return seen
    sys.exit(f"no {wanted} within {seconds} s, only {seen}")


def hand_over(fds):
    """In the child: the descriptors from 3 on, and whose they are."""
    for i, fd in enumerate(fds):
        if fd != 3 + i:
            os.dup2(fd, 3 + i)
        os.set_inheritable(3 + i, True)
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = str(len(fds))


def main():
    with tempfile.TemporaryDirectory() as home:
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(home + "/notify")
        tcp = socket.create_server(("127.0.0.1", 0))
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unix.bind(home + "/cabe.sock")
        unix.listen()
        # Who connects before the server runs is answered all the same.
        early = socket.create_connection(tcp.getsockname(), timeout=120)
        early.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        high = [os.dup(tcp.fileno()), os.dup(unix.fileno())]
        for i, fd in enumerate(high):
            high[i] = os.dup2(fd, 100 + i)
        pid = os.fork()
        if pid == 0:
            hand_over(high)
            os.environ.update(CABE_HOME=home, NOTIFY_SOCKET=home + "/notify", WATCHDOG_USEC="400000")
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 1)
            os.execv(sys.argv[1], [sys.argv[1], "serve", "--memory", "300M"])
        try:
            assert early.recv(4096).startswith(b"HTTP/1.1 200"), "the early client"
            news_until(notify, "READY=1", 120)
            news_until(notify, "STATUS=ready", 120)
            assert get("/health", socket.AF_INET, tcp.getsockname()).startswith(b"HTTP/1.1 200"), "tcp"
            assert get("/health", socket.AF_UNIX, home + "/cabe.sock").startswith(b"HTTP/1.1 200"), "unix"
            news_until(notify, "WATCHDOG=1", 120)
            os.kill(pid, 15)
            news_until(notify, "STOPPING=1", 120)
        except BaseException:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            raise
        _, code = os.waitpid(pid, 0)
        assert code == 0, f"wait status {code}"
        # The sockets are still there for the next one.
        late = socket.create_connection(tcp.getsockname(), timeout=120)
        late.close()
        # A descriptor that is no listening socket is an error that says so.
        words = ["sh", "-c", 'exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" serve', sys.argv[1]]
        wrong = subprocess.run(words, env=dict(os.environ, CABE_HOME=home), capture_output=True, text=True, timeout=120)
        assert wrong.returncode == 2 and "descriptor 3 is not a listening stream socket" in wrong.stderr, wrong
    print("serve: sockets handed over, READY, WATCHDOG, STOPPING")


main()
