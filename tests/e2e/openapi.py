"""The OpenAPI description against a running server: every operation that it has is asked for, and what comes must have the
status, the type and the form that it says. usage: openapi.py URL CHAT_MODEL EMBEDDING_MODEL FOLDER_OF_A_MODEL"""
import http.client
import json
import sys
import time
import urllib.parse

URL, CHAT, EMBED, FOLDER = sys.argv[1:5]
HOST = urllib.parse.urlsplit(URL).netloc
failed = 0
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "number": (int, float), "integer": int,
         "null": type(None)}


def complain(*what):
    global failed
    failed += 1
    print("openapi:", *what)


def ask(method, path, body=None, headers=None, whole=True):
    connection = http.client.HTTPConnection(HOST, timeout=300)
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
    answer = connection.getresponse()
    content = answer.read() if whole else answer.read1(64)
    connection.close()
    return answer.status, (answer.headers.get("content-type") or "").split(";")[0], content


def is_type(value, name):
    return isinstance(value, TYPES[name]) and not (isinstance(value, bool) and name in ("integer", "number"))


def wrong(schema, value, at, schemas):
    """What is wrong about a value, as a list of texts: the keywords of JSON Schema that the description uses."""
    known = {"$ref", "type", "required", "properties", "items", "enum", "const", "oneOf", "minimum", "maximum", "minItems",
             "maxItems", "description", "default", "examples", "additionalProperties"}
    if set(schema) - known:
        return [f"{at}: unknown keywords {set(schema) - known}"]
    if "$ref" in schema:
        return wrong(schemas[schema["$ref"].rsplit("/", 1)[1]], value, at, schemas)
    if "oneOf" in schema and sum(not wrong(one, value, at, schemas) for one in schema["oneOf"]) != 1:
        return [f"{at}: {value!r:.80} is not one of the forms"]
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not any(is_type(value, name) for name in names):
        return [f"{at}: {value!r:.80} is no {' or '.join(names)}"]
    if "const" in schema and value != schema["const"] or "enum" in schema and value not in schema["enum"]:
        return [f"{at}: {value!r:.80}, wanted {schema.get('const', schema.get('enum'))}"]
    if "minimum" in schema and is_type(value, "number") and value < schema["minimum"]:
        return [f"{at}: {value} is below {schema['minimum']}"]
    out = []
    if isinstance(value, dict):
        out += [f"{at}: no '{name}'" for name in schema.get("required", []) if name not in value]
        for name, one in schema.get("properties", {}).items():
            if name in value:
                out += wrong(one, value[name], f"{at}.{name}", schemas)
    if isinstance(value, list) and "items" in schema:
        for i, one in enumerate(value):
            out += wrong(schema["items"], one, f"{at}[{i}]", schemas)
    return out


status, _, content = ask("GET", "/openapi.json")
description = json.loads(content)
schemas = description["components"]["schemas"]
asked = {}


def check(method, path, pattern=None, body=None, headers=None, want=200, whole=True):
    """Asks, and holds the answer to what the description says of `pattern` (or `path`). Gives the JSON of the answer."""
    pattern = pattern or path
    operation = description["paths"].get(pattern, {}).get(method.lower())
    if operation is None:
        complain(f"{method} {pattern} is not described")
        return None
    asked.setdefault((method.lower(), pattern), 0)
    asked[method.lower(), pattern] += 1
    status, kind, content = ask(method, path, body, headers, whole)
    name = f"{method} {path} {json.dumps(body) if body else ''}"[:120]
    if status != want:
        complain(f"{name}: {status}, wanted {want}: {content[:300]}")
        return None
    if body is not None and "requestBody" in operation and want < 400:
        for text in wrong(operation["requestBody"]["content"]["application/json"]["schema"], body, "request", schemas):
            complain(f"{name}: {text}")
    said = operation["responses"].get(str(status), operation["responses"]["default"] if want >= 400 else None)
    if said is None or kind not in said["content"] and not (method == "HEAD" and not kind):
        complain(f"{name}: {status} {kind} is not described")
        return None
    if kind != "application/json":
        return content
    value = json.loads(content)
    for text in wrong(said["content"][kind].get("schema", {}), value, "answer", schemas):
        complain(f"{name}: {text}")
    return value


MESSAGES = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
SHORT = {"num_predict": 3}

# what is seen without asking for much
for path in ("/", "/health", "/ready", "/metrics", "/openapi.json", "/v1/stats", "/v1/stats?history=1", "/v1/state",
             "/v1/machine", "/v1/machine?describe=8%20cores,%2016%20GB", "/v1/models", "/v1/jobs", "/api/tags", "/api/ps",
             "/api/version"):
    check("GET", path, path.split("?")[0])
check("HEAD", "/")
check("GET", "/v1/events", whole=False)

# models
check("GET", f"/v1/models/{CHAT}", "/v1/models/{name}")
check("GET", "/v1/models/nowhere", "/v1/models/{name}", want=404)
for what in ("load", "pin", "unpin", "unload"):
    check("POST", f"/v1/models/{EMBED}/{what}", "/v1/models/{name}")
check("POST", "/v1/models/nowhere/load", "/v1/models/{name}", want=404)
check("POST", "/api/show", body={"model": CHAT})
check("POST", "/api/show", body={"model": "nowhere"}, want=404)
check("POST", "/v1/plan", body={"model": CHAT, "memory": "200M"})
check("POST", "/v1/plan", body={"model": EMBED, "describe": "8 cores, 16 GB"})
tokens = check("POST", "/v1/tokenize", body={"model": CHAT, "text": "hi there"})
check("POST", "/v1/detokenize", body={"model": CHAT, "tokens": tokens["tokens"]})
check("POST", "/v1/tokenize", body={"model": CHAT}, want=400)

# answers
for stream in (False, True):
    check("POST", "/v1/chat/completions", body={"model": CHAT, "messages": MESSAGES, "max_tokens": 3, "stream": stream,
                                                "logprobs": True, "top_logprobs": 2, "tools": TOOLS, "n": 2})
    check("POST", "/v1/completions", body={"model": CHAT, "prompt": ["a", "b"], "max_tokens": 3, "stream": stream,
                                           "logprobs": 2})
    check("POST", "/v1/responses", body={"model": CHAT, "input": "hi", "max_output_tokens": 3, "stream": stream})
    check("POST", "/api/chat", body={"model": CHAT, "messages": MESSAGES, "stream": stream, "options": SHORT,
                                     "keep_alive": "5m"})
    check("POST", "/api/generate", body={"model": CHAT, "prompt": "hi", "stream": stream, "options": SHORT})
check("POST", "/api/generate", body={"model": CHAT, "options": {"num_ctx": 1024}})
check("POST", "/api/chat", body={"model": CHAT, "messages": MESSAGES, "format": "json"}, want=400)
check("POST", "/v1/chat/completions", body={"model": "nowhere", "messages": MESSAGES}, want=404)
check("POST", "/v1/chat/completions", body={"model": CHAT, "messages": MESSAGES, "temperature": 9}, want=400)
check("POST", "/v1/embeddings", body={"model": EMBED, "input": ["a", "b"]})
check("POST", "/v1/embeddings", body={"model": EMBED, "input": "a", "encoding_format": "base64"})
check("POST", "/api/embed", body={"model": EMBED, "input": ["a", "b"]})
check("POST", "/api/embeddings", body={"model": EMBED, "prompt": "a"})
check("GET", "/api/ps")
check("GET", "/v1/models")

# documents and jobs
TEXT = "The captain looked at his old watch again. A storm came. The captain looked at his old watch again."
check("POST", "/v1/analyze", body={"model": EMBED, "text": TEXT})
job = check("POST", "/v1/analyze", body={"model": EMBED, "text": TEXT}, headers={"prefer": "respond-async"}, want=202)
until = time.time() + 120
while check("GET", f"/v1/jobs/{job['id']}", "/v1/jobs/{name}")["state"] in ("waiting", "running") and time.time() < until:
    time.sleep(0.05)
check("GET", f"/v1/jobs/{job['id']}/result", "/v1/jobs/{name}")
check("GET", f"/v1/jobs/{job['id']}/events", "/v1/jobs/{name}")
check("GET", "/v1/jobs")
check("POST", f"/v1/jobs/{job['id']}/cancel", "/v1/jobs/{name}", want=409)
check("DELETE", f"/v1/jobs/{job['id']}", "/v1/jobs/{name}")
check("GET", f"/v1/jobs/{job['id']}", "/v1/jobs/{name}", want=404)
long_text = " ".join(f"Sentence number {i} is about {i * 7 % 1000} ships." for i in range(60000))
job = check("POST", "/v1/analyze", body={"model": EMBED, "text": long_text}, headers={"prefer": "respond-async"}, want=202)
check("POST", f"/v1/jobs/{job['id']}/cancel", "/v1/jobs/{name}", want=202)

# the store
check("POST", "/api/pull", body={"model": "copy", "path": FOLDER, "stream": False})
check("POST", "/api/pull", body={"model": "copy"})
check("DELETE", "/api/delete", body={"model": "copy"})
check("DELETE", "/api/delete", body={"model": "copy"}, want=404)

# what is there only to say no
for path in ("/api/create", "/api/copy", "/api/push"):
    check("POST", path, body={"model": "a"}, want=501)
for method in ("GET", "DELETE"):
    check(method, "/v1/responses/resp_1", "/v1/responses/{name}", want=404)

# every operation was asked for, and each has its histogram
_, _, metrics = ask("GET", "/metrics")
for path, item in description["paths"].items():
    for method in item:
        line = f'cabe_http_request_duration_seconds_count{{handler="{path.replace("{name}", "*")}",method="{method.upper()}"}} '
        if (method, path) not in asked:
            complain(f"{method} {path} was not asked for")
        if line not in metrics.decode():
            complain(f"no line {line}")
for name in ("turns_total", "turn_seconds_total"):
    line = next((l for l in metrics.decode().splitlines() if l.startswith(f'cabe_{name}{{class="normal"}} ')), "0")
    if float(line.split()[-1]) <= 0:
        complain(f"no {name} of class normal: {line}")
print(f"openapi: {sum(asked.values())} answers of {len(asked)} operations, {failed} wrong")
sys.exit(1 if failed else 0)
