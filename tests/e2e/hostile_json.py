"""Every file of the JSON suites, and naughty strings in the places of texts, to every route that reads a body.

As any client, so at the class of any client: where the machine is under pressure each answer is held back for seconds.
So strings that must be answered go several in a request, and connections ask side by side.

usage: hostile_json.py URL CHAT_MODEL EMBEDDING_MODEL DATA_FOLDER    standard library only
"""
import concurrent.futures
import http.client
import json
import sys
import tarfile
import threading
import time
import urllib.parse

URL, CHAT, EMBED, DATA = sys.argv[1:5]
host = urllib.parse.urlparse(URL).netloc
mine = threading.local()
lock = threading.Lock()
counts = {}
failed = 0

SKIPPED = ("/v1/analyze", "/v1/jobs", "/api/delete", "/api/pull")  # long work and changes; see below
CONNECTIONS = 8
TOGETHER = 8  # strings in a request: the longest of them within the context


def send(method, path, body):
    for _ in range(2):
        if not hasattr(mine, "connection"):
            mine.connection = http.client.HTTPConnection(host, timeout=150)
        try:
            mine.connection.request(method, path, body, {"Content-Type": "application/json"})
            reply = mine.connection.getresponse()
            return reply.status, reply.read(), reply.getheader("Retry-After")
        except (http.client.HTTPException, ConnectionError):
            del mine.connection
    return 0, b"", None


def expect(ok, method, path, body, what):
    global failed
    for _ in range(60):
        status, answer, later = send(method, path, body)
        if status in ok or not later:
            break
        time.sleep(min(float(later), 10))  # told to come back, as any client does
    with lock:
        counts[status] = counts.get(status, 0) + 1
        if status not in ok:
            failed += 1
            if failed < 20:
                print(f"{method} {path}: {status} for {what}: {answer[:200]!r}")


def suite(path):
    """Bodies and names of its files."""
    with tarfile.open(path) as files:
        for member in files.getmembers():
            if member.isfile() and member.name.endswith(".json"):
                body = files.extractfile(member).read()
                if len(body) <= 1 << 20:
                    yield body, member.name


def no_request(body, name):
    for path in posts:
        expect(no, "POST", path, body, name)
    expect(no, "DELETE", "/api/delete", body, name)
    expect((200,) + no, "POST", "/api/pull", body, name)


def texts(some):
    """Strings that are answered."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(some)]
    chat = {"model": CHAT, "max_tokens": 2, "temperature": 0, "messages": turns}
    expect((200,), "POST", "/v1/chat/completions", json.dumps(chat), some)
    stops = [text for text in some if 0 < len(text.encode("utf-8", "surrogatepass")) <= 256]
    expect((200,), "POST", "/v1/chat/completions", json.dumps({**chat, "messages": turns[:1], "stop": stops}), some)
    prompts = [text for text in some if text]
    if prompts:
        expect((200,), "POST", "/v1/completions", json.dumps({"model": CHAT, "max_tokens": 1, "prompt": prompts}), some)
    expect((200,), "POST", "/v1/embeddings", json.dumps({"model": EMBED, "input": some}), some)


def fields(text):
    """Where a string is no value, or names something."""
    messages = [{"role": "user", "content": "x"}]
    expect((200,), "POST", "/v1/tokenize", json.dumps({"model": CHAT, "text": text}), text)
    for field in ("model", "seed", "tools", "stream", "response_format", "logit_bias", "messages", "temperature"):
        body = {"model": CHAT, "max_tokens": 1, "messages": messages, field: text}
        expect(no, "POST", "/v1/chat/completions", json.dumps(body), (field, text))
    expect(no, "POST", "/api/chat", json.dumps({"model": text, "messages": messages}), text)


description = json.loads(send("GET", "/openapi.json", None)[1])
posts = [path.replace("{name}", "some") for path, item in description["paths"].items() if "post" in item]
posts = [path for path in posts if not path.startswith(SKIPPED)]
no = (400, 404, 411, 413, 415, 501, 503)
strings = json.load(open(f"{DATA}/hostile-json/blns.json", encoding="utf-8"))
with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as pool:
    work = [pool.submit(no_request, body, name) for body, name in suite(f"{DATA}/hostile-json/JSONTestSuite.tar.gz")]
    work += [pool.submit(texts, strings[i:i + TOGETHER]) for i in range(0, len(strings), TOGETHER)]
    work += [pool.submit(fields, text) for text in strings]
    for one in work:
        one.result()
deep = '{"model":"m","messages":' + "[" * 100000 + "]" * 100000 + "}"
expect((400,), "POST", "/v1/chat/completions", deep, "a hundred thousand brackets")
wide = '{"model":"m","prompt":[' + "1," * 3000000 + "1]}"
expect((400, 413), "POST", "/v1/completions", wide, "three million numbers")
status = send("GET", "/health", None)[0]
if status != 200:
    failed += 1
    print(f"health: {status}")
print(f"hostile json: {sum(counts.values())} requests, {failed} not as wanted:",
      ", ".join(f"{n} of {status}" for status, n in sorted(counts.items())))
sys.exit(1 if failed else 0)
