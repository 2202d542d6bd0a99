"""The openai package against cabe. usage: client_openai.py URL CHAT_MODEL EMBEDDING_MODEL"""
import concurrent.futures
import math
import time

import openai
from checks import CHAT, EMBED, URL, check, end, fails

client = openai.OpenAI(base_url=URL + "/v1", api_key="none", max_retries=0, timeout=120)
HELLO = [{"role": "user", "content": "Say hello"}]


def ask(**more):
    return client.chat.completions.create(**{"model": CHAT, "messages": HELLO, "max_tokens": 12, "temperature": 0, **more})


# models
names = [model.id for model in client.models.list()]
check(CHAT in names and EMBED in names, names)
check(client.models.retrieve(CHAT).id == CHAT)
fails(openai.NotFoundError, 404, "nowhere", lambda: client.models.retrieve("nowhere"))

# a chat, whole
whole = ask()
choice = whole.choices[0]
check(choice.message.role == "assistant" and choice.message.content is not None, whole)
check(choice.finish_reason in ("stop", "length"), choice.finish_reason)
check(whole.usage.completion_tokens <= 12 and whole.usage.prompt_tokens > 0, whole.usage)
check(whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens, whole.usage)
check(whole.id.startswith("chatcmpl-") and abs(whole.created - time.time()) < 600, whole.id)
again = ask()
check(again.choices[0].message.content == choice.message.content, "greedy, twice")
check(again.usage.prompt_tokens_details.cached_tokens > 0, "nothing was cached", again.usage)
check(ask(extra_body={"cache_salt": "mine"}).usage.prompt_tokens_details.cached_tokens == 0, "a salt shares the cache")

# the same, streamed
chunks = list(ask(stream=True, stream_options={"include_usage": True}))
check(chunks[0].choices[0].delta.role == "assistant", chunks[0])
check(all(c.choices[0].finish_reason is None for c in chunks[:-2] if c.choices), "a finish before the last")
check(chunks[-2].choices[0].finish_reason == choice.finish_reason, chunks[-2])
check(chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens, chunks[-1])
text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
check(text == choice.message.content, text, choice.message.content)

# choices, seeds, stops, log-probabilities
WILD = {"temperature": 2, "top_p": 1, "extra_body": {"top_k": 0, "min_p": 0}}
several = ask(n=3, seed=7, **WILD)
check([c.index for c in several.choices] == [0, 1, 2], several)
check(len({c.message.content for c in several.choices}) > 1, "three choices alike")
check([c.message.content for c in ask(n=3, seed=7, **WILD).choices] ==
      [c.message.content for c in several.choices], "a seed draws two answers")
check(len({ask(**WILD).choices[0].message.content for _ in range(3)}) > 1, "no seed, one answer")
if choice.message.content:
    letter = choice.message.content[-1]
    stopped = ask(stop=[letter]).choices[0]
    check(letter not in stopped.message.content and stopped.finish_reason == "stop", stopped)
logged = ask(logprobs=True, top_logprobs=3, max_tokens=5).choices[0].logprobs.content
check(0 < len(logged) <= 5, logged)
for token in logged:
    check(token.logprob <= 0 and len(token.top_logprobs) == 3, token)
    check(token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob, token)
    check(token.bytes is not None and bytes(token.bytes).decode(errors="replace") == token.token, token)
banned = ask(logit_bias={str(i): -100 for i in range(200)}, max_tokens=3)
check(banned.choices[0].finish_reason in ("stop", "length"), banned)
check(ask(messages=[{"role": "system", "content": "Be brief."},
                    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                    {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye"}]).choices, "a long talk")

# texts
texts = client.completions.create(model=CHAT, prompt=["One", "Two"], max_tokens=6, temperature=0, logprobs=2, n=1)
check(len(texts.choices) == 2 and texts.choices[1].index == 1, texts)
check(len(texts.choices[0].logprobs.tokens) == len(texts.choices[0].logprobs.text_offset), texts.choices[0].logprobs)
stream = list(client.completions.create(model=CHAT, prompt="One", max_tokens=6, temperature=0, stream=True))
check("".join(c.choices[0].text for c in stream) == texts.choices[0].text, stream)
check(client.completions.create(model=CHAT, prompt="One", max_tokens=2, echo=True).choices[0].text.startswith("One"))

# a text is scored, as evaluation harnesses do it: what the model wrote is as likely as when it was written
written = client.completions.create(model=CHAT, prompt="One", max_tokens=6, temperature=0, logprobs=1, echo=True)
scored = client.completions.create(model=CHAT, prompt=written.choices[0].text, max_tokens=0, logprobs=1, echo=True).choices[0]
check(scored.text == written.choices[0].text and scored.finish_reason == "length", scored)
check(scored.logprobs.token_logprobs[0] is None and scored.logprobs.top_logprobs[0] is None, scored.logprobs)
if scored.logprobs.tokens == written.choices[0].logprobs.tokens:  # cut as it was written, and every byte of it was text
    check(scored.logprobs.token_logprobs == written.choices[0].logprobs.token_logprobs, scored.logprobs)
    check(scored.logprobs.text_offset == written.choices[0].logprobs.text_offset, scored.logprobs)
check(all(token in top for token, top in zip(scored.logprobs.tokens[1:], scored.logprobs.top_logprobs[1:])), scored.logprobs)

# embeddings
rows = client.embeddings.create(model=EMBED, input=["The sea is calm.", "The ocean is quiet.", "A tax form."])
vectors = [row.embedding for row in rows.data]
check(all(abs(math.fsum(x * x for x in v) - 1) < 1e-3 for v in vectors), "not normalised")
check(rows.usage.prompt_tokens > 0, rows.usage)
floats = client.embeddings.create(model=EMBED, input="The sea is calm.", encoding_format="float").data[0].embedding
check(max(abs(a - b) for a, b in zip(floats, vectors[0])) < 1e-6, "base64 and float differ")
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    many = list(pool.map(lambda i: client.embeddings.create(model=EMBED, input=f"sentence {i}").data[0].embedding,
                         range(24)))
check(len({tuple(v[:4]) for v in many}) > 20, "texts are mixed up")
fails(openai.BadRequestError, 400, "dimensions", lambda: client.embeddings.create(model=EMBED, input="a", dimensions=3))
fails(openai.BadRequestError, 400, "token ids", lambda: client.embeddings.create(model=EMBED, input=[[1, 2]]))

# responses
answer = client.responses.create(model=CHAT, input="Say hello", max_output_tokens=8, temperature=0)
check(answer.status in ("completed", "incomplete") and answer.output[0].content[0].type == "output_text", answer)
check(answer.usage.output_tokens <= 8, answer.usage)
events = list(client.responses.create(model=CHAT, input=[{"role": "user", "content": "Say hello"}], max_output_tokens=8,
                                      temperature=0, stream=True))
check(events[0].type == "response.created" and events[-1].type in ("response.completed", "response.incomplete"), events)
check([e.sequence_number for e in events] == list(range(len(events))), "the numbers of events")
check("".join(e.delta for e in events if e.type == "response.output_text.delta") == answer.output_text, events)
check(events[-1].response.output_text == answer.output_text, events[-1])
fails(openai.BadRequestError, 400, "not stored",
      lambda: client.responses.create(model=CHAT, input="a", previous_response_id="resp_1"))

# errors, with the parameter at fault
for wrong, param in (({"temperature": 9}, "temperature"), ({"n": 0}, "n"), ({"messages": []}, "messages"),
                     ({"messages": [{"role": "king", "content": ""}]}, "messages[0].role"),
                     ({"response_format": {"type": "json_object"}}, "response_format"),
                     ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
                      "messages[0].content[0]")):
    error = fails(openai.BadRequestError, 400, "", lambda w=wrong: ask(**w))
    check(error is not None and error.param == param, error)
fails(openai.NotFoundError, 404, "nowhere", lambda: ask(model="nowhere"))
fails(openai.BadRequestError, 400, "context", lambda: ask(messages=[{"role": "user", "content": "word " * 30000}]))
fails(openai.BadRequestError, 400, "embeds", lambda: ask(model=EMBED))
fails(openai.BadRequestError, 400, "writes", lambda: client.embeddings.create(model=CHAT, input="a"))

# a client that leaves: its place is free again
for _ in range(6):
    with client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=2000, stream=True,
                                        extra_body={"ignore_eos": True}) as left:
        next(iter(left))
until = time.time() + 10
while time.time() < until:
    state = client.get("/state", cast_to=object)
    if state["work"]["running"] == 0 and state["work"]["waiting"] == 0:
        break
    time.sleep(0.05)
check(state["work"]["running"] == 0, state["work"])

# several at a time
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    answers = list(pool.map(lambda i: ask(messages=[{"role": "user", "content": f"Count to {i % 4}"}]), range(16)))
check(all(answers[i].choices[0].message.content == answers[i % 4].choices[0].message.content for i in range(16)),
      "the same question, another answer beside others")
end("openai " + openai.__version__)
