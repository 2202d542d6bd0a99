"""Every file of the JSON suites, and naughty strings in the places of texts, to every route that reads a body.

usage: hostile_json.py URL CHAT_MODEL EMBEDDING_MODEL DATA_FOLDER    standard library only
"""
import http.client
import json
import sys
import tarfile
import urllib.parse

URL, CHAT, EMBED, DATA = sys.argv[1:5]
host = urllib.parse.urlparse(URL).netloc
connection = http.client.HTTPConnection(host, timeout=150)
counts = {}
failed = 0

SKIPPED = ("/v1/analyze", "/v1/jobs", "/api/delete", "/api/pull")  # long work and changes; see below


def send(method, path, body):
    global connection
    for _ in range(2):
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", "x-cabe-class": "critical"})
            reply = connection.getresponse()
            return reply.status, reply.read()
        except (http.client.HTTPException, ConnectionError):
            connection = http.client.HTTPConnection(host, timeout=150)
    return 0, b""


def expect(ok, method, path, body, what):
    global failed
    status, answer = send(method, path, body)
    counts[status] = counts.get(status, 0) + 1
    if status not in ok:
        failed += 1
        if failed < 20:
            print(f"{method} {path}: {status} for {what}: {answer[:200]!r}")


description = json.loads(send("GET", "/openapi.json", None)[1])
posts = [path.replace("{name}", "some") for path, item in description["paths"].items() if "post" in item]
posts = [path for path in posts if not path.startswith(SKIPPED)]
no = (400, 404, 411, 413, 415, 501, 503)
with tarfile.open(f"{DATA}/hostile-json/JSONTestSuite.tar.gz") as suite:
    for member in suite.getmembers():
        if not member.isfile() or not member.name.endswith(".json"):
            continue
        body = suite.extractfile(member).read()
        if len(body) > 1 << 20:
            continue
        for path in posts:
            expect(no, "POST", path, body, member.name)
        expect(no, "DELETE", "/api/delete", body, member.name)
        expect((200,) + no, "POST", "/api/pull", body, member.name)

strings = json.load(open(f"{DATA}/hostile-json/blns.json", encoding="utf-8"))
for i, text in enumerate(strings):
    chat = {"model": CHAT, "max_tokens": 2, "temperature": 0, "messages": [{"role": "user", "content": text}]}
    expect((200,), "POST", "/v1/chat/completions", json.dumps(chat), text)
    expect((200, 400), "POST", "/v1/completions", json.dumps({"model": CHAT, "max_tokens": 1, "prompt": text}), text)
    expect((200,), "POST", "/v1/embeddings", json.dumps({"model": EMBED, "input": text}), text)
    expect((200,), "POST", "/v1/tokenize", json.dumps({"model": CHAT, "text": text}), text)
    for field in ("model", "stop", "user", "seed", "tools", "stream", "response_format", "logit_bias"):
        expect((200,) + no, "POST", "/v1/chat/completions", json.dumps({**chat, field: text}), (field, text))
    expect(no, "POST", "/api/chat", json.dumps({"model": text, "messages": chat["messages"]}), text)
deep = '{"model":"m","messages":' + "[" * 100000 + "]" * 100000 + "}"
expect((400,), "POST", "/v1/chat/completions", deep, "a hundred thousand brackets")
wide = '{"model":"m","prompt":[' + "1," * 3000000 + "1]}"
expect((400, 413), "POST", "/v1/completions", wide, "three million numbers")
status, _ = send("GET", "/health", None)
if status != 200:
    failed += 1
    print(f"health: {status}")
print(f"hostile json: {sum(counts.values())} requests, {failed} not as wanted:",
      ", ".join(f"{n} of {status}" for status, n in sorted(counts.items())))
sys.exit(1 if failed else 0)
