"""Documents and requests that mean no good, to a whole server: every job comes to an end that says what it is, every
connection is answered or closed, a model is served afterwards, and nothing is left in memory or on disk.

usage: hostile.py PROGRAM MODELS_FOLDER DATA_FOLDER    standard library only
"""
import contextlib
import json
import pathlib
import re
import socket
import sys
import tarfile
import tempfile
import urllib.parse

from served import Server, complain, complaints, until

PROGRAM, MODELS, DATA = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
UPLOAD = 8 << 20


class Victim(Server):
    def __init__(self, home):
        super().__init__(PROGRAM, home, "--memory", "400M", "--threads", "2", "--upload", str(UPLOAD),
                         "--models", f"enc={MODELS}/bert-mean-f32.gguf")

    def ask(self, method, path, body=None, **headers):
        return super().ask(method, path, body, x_cabe_class="critical", **headers)

    def raw(self, data):
        """All that comes back until the other side closes; None: it does not."""
        with contextlib.closing(self.socket()) as s:
            got = b""
            with contextlib.suppress(ConnectionError):
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
            try:
                while more := s.recv(65536):
                    got += more
            except ConnectionError:
                pass
            except TimeoutError:
                return None
            return got


# ---- documents ----

def form(parts, boundary=b"xx", end=b"--\r\n"):
    out = b""
    for head, body in parts:
        out += b"--" + boundary + b"\r\n" + head + b"\r\n\r\n" + body + b"\r\n"
    return out + b"--" + boundary + end


def part(name, filename=None, more=b""):
    return (b'Content-Disposition: form-data; name="' + name + b'"' +
            (b'; filename="' + filename + b'"' if filename is not None else b"") + more)


FILE = (part(b"file", b"a.txt"), b"One two three. Four five six. One two three.")
ENC = (part(b"model"), b"enc")


def documents():
    """(what, body, content type, query)"""
    plain = "text/plain"
    yield "one word of megabytes", b"x" * (5 << 20), plain, ""
    yield "one line of megabytes", b"sea " * (1 << 19), plain, ""
    yield "line feeds", b"\n" * (1 << 20), plain, ""
    yield "spaces", b" " * (1 << 20), plain, ""
    yield "full stops", b"." * 100000, plain, ""
    yield "many sentences", b"It was so. " * 20000, plain, ""
    yield "many that differ", "".join(f"Number {i} was so. " for i in range(5000)).encode(), plain, ""
    yield "a byte", b"a", plain, ""
    yield "marks on one letter", ("a" + "\u0301" * 200000 + ". And so on.").encode(), plain, ""
    yield "directions", ("\u202e\u2066\u200f" * 30000 + "abc. def.").encode(), plain, ""
    yield "byte order marks", b"\xef\xbb\xbf" * 50000 + b"One. Two.", plain, ""
    yield "no characters", "\ufffe\uffff\U0010ffff. ".encode() * 9999, plain, ""
    yield "families", ("\U0001f468\u200d\U0001f469\u200d\U0001f467" * 40000 + ".").encode(), plain, ""
    yield "controls", bytes(range(1, 32)) * 20000, plain, ""
    yield "carriage returns", b"One.\rTwo.\r\rThree.\r" * 5000, plain, ""
    yield "an overlong slash", b"One two. \xc0\xaf three.", plain, ""
    yield "half of a pair", b"One two. \xed\xa0\x80 three.", plain, ""
    yield "past the last character", b"One two. \xf4\x90\x80\x80 three.", plain, ""
    yield "cut in a character", "One two. Tr\u00e9s".encode()[:-2], plain, ""
    yield "a NUL at the end", b"One two.\0", plain, ""
    yield "UTF-16", "One two. Three four.".encode("utf-16"), plain, ""
    yield "larger than may be", b"One two. " * (UPLOAD // 9 + 9), plain, ""
    for name in ("../../../etc/passwd", "/etc/passwd", "a\0b", "a\nb\r\nc", "<script>alert(1)</script>", "x" * 5000, "\u202etxt.exe",
                 '"; drop table jobs; --', "\U0001f600" * 100, "."):
        yield f"a name {name[:30]!r}", FILE[1], plain, "&name=" + urllib.parse.quote(name)
    for value in ("nan", "inf", "-1", "1e999", "0x1p1", "", "1" * 400, "%00", "0,5"):
        yield f"threshold {value[:9]!r}", FILE[1], plain, "&threshold=" + value
    multipart = "multipart/form-data; boundary=xx"
    yield "a form", form([ENC, FILE]), multipart, ""
    yield "ten thousand parts", form([ENC] + [FILE] * 10000), multipart, ""
    yield "ten thousand fields", form([(part(b"field%d" % i), b"x") for i in range(10000)] + [FILE]), multipart, ""
    yield "a head without an end", b"--xx\r\n" + b"X-Long: " + b"y" * 200000, multipart, ""
    yield "a name of paths", form([ENC, (part(b"file", b"../../../../tmp/owned.txt"), FILE[1])]), multipart, ""
    yield "a name with a NUL", form([ENC, (part(b"file", b"a\0.txt"), FILE[1])]), multipart, ""
    yield "no name", form([ENC, (b"Content-Disposition: form-data", FILE[1])]), multipart, ""
    yield "a form in a form", form([ENC, (part(b"file", b"a.txt"), form([ENC, FILE]))]), multipart, ""
    yield "an encoding", form([ENC, (part(b"file", b"a.txt", b"\r\nContent-Transfer-Encoding: base64"), b"T25lLg==")]), multipart, ""
    yield "no end", form([ENC, FILE], end=b""), multipart, ""
    yield "a boundary of nothing", form([ENC, FILE]), "multipart/form-data; boundary=", ""
    yield "a boundary of 500", form([ENC, FILE]), "multipart/form-data; boundary=" + "b" * 500, ""
    yield "a form of line ends", b"\r\n--xx\r\n" * 200000, multipart, ""
    text = "application/json"
    yield "text of escapes", b'{"model": "enc", "text": "' + b"\\u0041\\n" * 100000 + b'"}', text, ""
    yield "text that is no text", b'{"model": "enc", "text": [1, 2]}', text, ""
    yield "text with a lone half", b'{"model": "enc", "text": "One \\ud800 two."}', text, ""
    yield "text twice", b'{"model": "enc", "text": "One.", "text": "Two."}', text, ""
    yield "brackets", b"[" * 500000, text, ""
    if (DATA / "hostile-unicode").is_dir():
        for path in sorted((DATA / "hostile-unicode").iterdir()):
            data = path.read_bytes()[:300000]
            yield path.name, data, plain, ""
            yield path.name + ", what of it is text", data.decode(errors="ignore").replace("\0", "").encode(), plain, ""
        for i, text in enumerate(json.load(open(DATA / "hostile-json/blns.json", encoding="utf-8"))[::25]):
            yield f"naughty string {i}", (text + ". " + text + ".").encode(errors="ignore"), plain, "&name=" + urllib.parse.quote(text)


def as_jobs(server):
    ends = {}
    for what, body, kind, query in documents():
        status, answer = server.ask("POST", "/v1/analyze?model=enc" + query, body, content_type=kind, prefer="respond-async")
        if status != 202:
            ends[status] = ends.get(status, 0) + 1
            try:
                if status not in (400, 413, 415, 507) or not json.loads(answer)["error"]["message"]:
                    complain(f"{what}: {status} {answer[:300]!r}")
            except (ValueError, KeyError):
                complain(f"{what}: {status} {answer[:300]!r}")
            continue
        place = "/v1/jobs/" + json.loads(answer)["id"]
        job = server.ended_job(place)
        ends[job["state"]] = ends.get(job["state"], 0) + 1
        if job["state"] not in ("done", "failed"):
            complain(f"{what}: still {job['state']}")
        if job["state"] == "failed" and not job["error"]["message"]:
            complain(f"{what}: it failed, and nobody knows why: {job}")
        status, result = server.ask("GET", place + "/result")
        if job["state"] == "done" and (status != 200 or "report" not in json.loads(result)["result"]):
            complain(f"{what}: its result: {status} {result[:300]!r}")
        status, answer = server.ask("DELETE", place)
        if status not in (200, 204):
            complain(f"{what}: its end: {status} {answer[:300]!r}")
    return ends


def lies(server):
    """About lengths, and clients that leave in the middle of a document."""
    head = b"POST /v1/analyze?model=enc HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    for data in (b"Content-Length: 100000\r\n\r\nOne two.", b"Content-Length: 99999999999999999999\r\n\r\nOne.",
                 b"Content-Length: -1\r\n\r\nOne.", b"Transfer-Encoding: chunked\r\n\r\n5\r\nOne t\r\nffffffffffffffff\r\n",
                 b"Transfer-Encoding: chunked\r\n\r\n5\r\nOne two\r\n0\r\n\r\n", b"Content-Length: 4\r\nContent-Length: 8\r\n\r\nOne.Two.",
                 b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", b"Expect: 200-ok\r\nContent-Length: 4\r\n\r\nOne."):
        got = server.raw(head + data)
        if got is None or b" 200 OK" in got.split(b"\r\n")[0]:
            complain(f"{data[:60]}: {got}")
    for n in (1, 100, 300000):
        with contextlib.closing(server.socket()) as s:
            s.sendall(head + b"Content-Length: 1000000\r\n\r\n" + b"a" * n)


# ---- requests of llhttp's own tests ----

def unfold(block):
    """The bytes that a block of its pages stands for."""
    text = re.sub(rb"\\\n", b"", block).replace(b"\n", b"\r\n")
    names = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"f": b"\f", b"0": b"\0"}
    return re.sub(rb"\\(x[0-9a-fA-F]{2}|.)", lambda m: bytes([int(m[1][1:], 16)]) if len(m[1]) == 3 else names.get(m[1], m[1]), text)


def smuggle(server):
    """Never more answers than llhttp sees requests, and each of a form that a client can read."""
    n = 0
    with tarfile.open(DATA / "hostile-http/llhttp-md-cases.tar.gz") as pages:
        for page in pages.getmembers():
            if not page.isfile() or not page.name.endswith(".md"):
                continue
            text = pages.extractfile(page).read()
            for block, log in re.findall(rb"```http\n(.*?)\n```\s*(?:```log\n(.*?)\n```)?", text, re.S):
                data = unfold(block)
                got = server.raw(data)
                n += 1
                if got is None:
                    complain(f"{page.name}: it hangs: {data}")
                    continue
                if got and not re.match(rb"HTTP/1\.1 [1-5]\d\d [ -~]*\r\n", got):
                    complain(f"{page.name}: {data} is answered with {got[:200]}")
                served = len(re.findall(rb"^HTTP/1\.1 (?!400|403|405|408|411|413|414|417|431|501|505|100)", got, re.M))
                seen = log.count(b"message complete")
                if log and served > max(seen, 1 if b"pause" in log or b"upgrade" in log.lower() else 0):
                    complain(f"{page.name}: {served} answers, llhttp sees {seen} requests: {data}\n{got[:600]}")
    print(f"hostile: {n} cases of llhttp")
    if n < 150:
        complain("that is not all of them")


def answers(server):
    return (server.ask("POST", "/v1/embeddings", '{"model": "enc", "input": ["one", "two three"]}'),
            server.ask("POST", "/v1/analyze?model=enc", FILE[1], content_type="text/plain")[0])


def main():
    with tempfile.TemporaryDirectory() as home:
        server = Victim(home)
        try:
            wanted = answers(server)
            before = server.ledger()
            ends = as_jobs(server)
            print("hostile: documents:", ", ".join(f"{n} {end}" for end, n in sorted(ends.items(), key=str)))
            lies(server)
            if (DATA / "hostile-http/llhttp-md-cases.tar.gz").is_file():
                smuggle(server)
            else:
                print("hostile: no llhttp cases beside the checkout")
            until("the ledger:", lambda: not server.differs(before), lambda: server.differs(before))
            if answers(server) != wanted:
                complain("it does not answer as before")
            left = [str(path) for path in pathlib.Path(home).rglob("*") if "upload" in path.name or "owned" in path.name]
            if left or pathlib.Path("/tmp/owned.txt").exists():
                complain(f"left on disk: {left}")
            server.end()
        finally:
            server.kill()
    return 1 if complaints else 0


sys.exit(main())
