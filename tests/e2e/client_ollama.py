"""The ollama package against cabe. usage: client_ollama.py URL CHAT_MODEL EMBEDDING_MODEL"""
import json
import time
import urllib.request

import ollama
from checks import CHAT, EMBED, URL, check, end, fails

client = ollama.Client(host=URL, timeout=120)
HELLO = [{"role": "user", "content": "Say hello"}]
SHORT = {"num_predict": 8, "temperature": 0}

# what there is
names = [model.model for model in client.list().models]
check(CHAT in names and EMBED in names, names)
check(all(model.size > 0 and len(model.digest) == 64 for model in client.list().models), "size, digest")
shown = client.show(CHAT)
check(shown.modelinfo["general.architecture"], shown.modelinfo)

# answers
whole = client.chat(model=CHAT, messages=HELLO, options=SHORT)
check(whole.done and whole.done_reason in ("stop", "length") and whole.message.role == "assistant", whole)
check(0 < whole.eval_count <= 8 and whole.prompt_eval_count > 0 and whole.total_duration > 0, whole)
check(whole.eval_duration > 0 and whole.prompt_eval_duration >= 0, whole)
pieces = list(client.chat(model=CHAT + ":latest", messages=HELLO, options=SHORT, stream=True))
check("".join(p.message.content for p in pieces) == whole.message.content, pieces)
check([p.done for p in pieces] == [False] * (len(pieces) - 1) + [True], "one end, at the end")
text = client.generate(model=CHAT, prompt="Say hello", system="Be brief.", options=SHORT)
check(text.done and text.response is not None, text)
pieces = list(client.generate(model=CHAT, prompt="Say hello", system="Be brief.", options=SHORT, stream=True))
check("".join(p.response for p in pieces) == text.response, pieces)
raw = client.generate(model=CHAT, prompt="Once upon a time", raw=True, options=SHORT)
check(raw.prompt_eval_count < text.prompt_eval_count, "raw has a template", raw)
check(client.generate(model=CHAT, prompt="a", options={**SHORT, "num_ctx": 64, "num_keep": 4, "mirostat": 0}).done)
check(client.chat(model=CHAT, messages=HELLO, options={"num_predict": 3, "seed": 1, "stop": ["x"]}, keep_alive="1m").done)

# embeddings
rows = client.embed(model=EMBED, input=["a cat", "a dog"])
check(len(rows.embeddings) == 2 and len(rows.embeddings[0]) == len(rows.embeddings[1]) > 0, "two rows")
check(list(client.embeddings(model=EMBED, prompt="a cat").embedding) == list(rows.embeddings[0]), "the old endpoint")

# memory
check(client.generate(model=CHAT, prompt="").done_reason == "load")
check(CHAT in [model.model for model in client.ps().models], client.ps())
until = time.time() + 10
while client.generate(model=CHAT, prompt="", keep_alive=0).done_reason == "unload" and time.time() < until:
    if CHAT not in [model.model for model in client.ps().models]:
        break
    time.sleep(0.05)
check(CHAT not in [model.model for model in client.ps().models], client.ps())
check(client.chat(model=CHAT, messages=HELLO, options=SHORT).load_duration > 0, "loaded again in no time")

# errors
E = ollama.ResponseError
fails(E, 404, "nowhere", lambda: client.generate(model="nowhere", prompt="a"))
fails(E, 400, "constrained output", lambda: client.chat(model=CHAT, messages=HELLO, format="json"))
fails(E, 400, "only text", lambda: client.chat(model=CHAT, messages=[{"role": "user", "content": "a", "images": [b"x"]}]))
fails(E, 400, "num_ctx 99999", lambda: client.generate(model=CHAT, prompt="a " * 30000, options={"num_ctx": 99999}))
fails(E, 400, "/api/chat", lambda: client.generate(model=CHAT, prompt="a", context=[1, 2]))
fails(E, 404, "no registry", lambda: client.pull("nowhere"))
fails(E, 404, "nowhere", lambda: client.delete("nowhere"))
check(client.pull(CHAT).status == "success", "a pull of what is there")
with urllib.request.urlopen(URL + "/api/version") as reply:
    check(json.load(reply)["version"].count(".") == 2, "the version")
with urllib.request.urlopen(urllib.request.Request(URL + "/", method="HEAD")) as reply:
    check(reply.status == 200, "HEAD /")
end("ollama")
