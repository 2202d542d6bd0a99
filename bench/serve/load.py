#!/usr/bin/env python3
"""Loads on a server that speaks OpenAI's HTTP, the same for cabe and its peers.

usage: load.py COMMAND --url URL [--url URL...] [OPTIONS]

  replay    1, 4, 16 clients (--clients), each asking again as soon as it was answered, with the lengths of a trace
            (--trace azure_conv.csv, divided by --scale); several --url are measured in turn, --repeats times.
            Prints goodput, p95 time to the first token and between tokens, and the ratio to the first URL.
            --rest seconds lie between one server and the next: cabe holds new work back while other programs press the
            machine and for some ten seconds after, and the peer's turn is such a program.
  inject    --clients that stream, then a prompt of --prompt-tokens among them: p95 between tokens before and during.
  overload  --rate requests a second for --seconds, a share --critical of them CRITICAL (the others are left out with
            --only-critical): p95 to the first token by class, goodput (tokens of answers that ended meanwhile, and began
            within --first seconds, or 10, 20, 30), by the second the server's resident memory and what its ledger holds (--pid),
            and the time of refusals: as this process sees it, busy as it is; as the server does, from the first byte to
            the answer's end (of all that is quick); and as another process does that asks --probes times a second and
            does nothing else. With --retries who is refused comes again when it was told to (a share --returning of
            them, if it is within --patience seconds): whether that held.
  embed     --clients that send one sentence each: sentences a second, and beside them those of `PROGRAM embed` (--library).
            By wrk where it is installed, else by this process, which takes a good part of the processors itself. --rest
            seconds come first, as between servers.
  switch    the models A and B (--models A,B) asked in turn: seconds to the first token.

Goodput: tokens a second of answers whose first token came within --first seconds and whose tokens came within --between
seconds of each other in the mean. Python 3, standard library only.
"""
import argparse
import asyncio
import collections
import csv
import ctypes
import gc
import json
import math
import os
import pathlib
import random
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

WORDS = ("river stone morning letter window garden summer captain silver market bridge winter forest music teacher "
         "mountain kitchen harbour candle village doctor shadow mirror season journey paper island engine table "
         "daughter ribbon orchard thunder pocket ladder button meadow lantern painter whistle").split()


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


class Answer:
    """One request: status, seconds to the headers and to each token, tokens by the server's own count."""

    def __init__(self):
        self.status, self.began, self.headers, self.times, self.tokens, self.error = 0, 0.0, 0.0, [], 0, None
        self.retry_after = None

    first = property(lambda self: self.times[0] - self.began if self.times else math.nan)
    gaps = property(lambda self: [b - a for a, b in zip(self.times, self.times[1:])])


async def lines_of(reader, chunked, length):
    """Lines of a body, as they come."""
    rest = b""
    while True:
        if chunked:
            size = int((await reader.readline()).split(b";")[0] or b"0", 16)
            data = await reader.readexactly(size)
            await reader.readline()
        elif length is not None:
            data = await reader.read(min(length, 65536)) if length else b""
            length -= len(data)
        else:
            data = await reader.read(65536)
        if not data:
            break
        rest += data
        *whole, rest = rest.split(b"\n")
        for line in whole:
            yield line
    if rest:
        yield rest


async def post(url, path, body, headers=(), limit=600):
    parts, answer, text = urllib.parse.urlsplit(url), Answer(), b""
    writer = None

    async def talk():
        nonlocal writer, text
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 24)
        data = json.dumps(body).encode()
        head = [f"POST {path} HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json",
                f"Content-Length: {len(data)}", "Connection: close", *headers]
        answer.began = time.monotonic()
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + data)
        await writer.drain()
        answer.status = int((await reader.readline()).split()[1])
        answer.headers = time.monotonic() - answer.began
        chunked, length = False, None
        while (line := (await reader.readline()).strip()):
            name, _, value = line.decode("latin1").partition(":")
            chunked |= name.lower() == "transfer-encoding" and "chunked" in value.lower()
            length = int(value) if name.lower() == "content-length" else length
            if name.lower() == "retry-after-ms":
                answer.retry_after = float(value) / 1000
            elif name.lower() == "retry-after" and answer.retry_after is None:
                answer.retry_after = float(value)
        async for line in lines_of(reader, chunked, length):
            if not body.get("stream"):
                text += line
                continue
            if not line.startswith(b"data: ") or line == b"data: [DONE]":
                continue
            event = json.loads(line[6:])
            if "error" in event:
                answer.error = str(event["error"])
            if event.get("usage"):
                answer.tokens = event["usage"]["completion_tokens"]
            if any(choice.get("text") or choice.get("delta", {}).get("content") for choice in event.get("choices", [])):
                answer.times.append(time.monotonic())

    try:
        await asyncio.wait_for(talk(), limit)
    except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ValueError, IndexError) as error:
        answer.error = repr(error)
    finally:
        if writer:
            writer.close()
    if answer.status != 200 and not answer.error:
        answer.error = f"HTTP {answer.status}"
    answer.text = text
    return answer


def cpu_turns(ns):
    """Of this process, as the system's scheduler counts them (Linux 6.12 and later). Short ones: it goes as soon as it is
    woken. Long ones: others do, so that a load on the server's own machine does not make the server wait."""
    calls = {"x86_64": (315, 314), "aarch64": (275, 274)}.get(os.uname().machine)
    if not calls:
        return
    call, size = ctypes.CDLL(None).syscall, struct.calcsize("IIQiIQQQ")
    attributes = ctypes.create_string_buffer(size)
    if call(calls[0], 0, attributes, size, 0) == 0:
        values = list(struct.unpack("IIQiIQQQ", attributes.raw))
        values[5] = ns
        call(calls[1], 0, struct.pack("IIQiIQQQ", *values), 0)


RUN = time.time_ns()
SHARES = (("p50", .5), ("p99", .99), ("most", 1))


def prompt_of(n_tokens, seed):
    """Words of about so many tokens; no two alike, not even in two runs, so that no cache helps."""
    draw = random.Random(hash((RUN, seed)))
    return " ".join(draw.choice(WORDS) for _ in range(max(1, round(n_tokens / 1.15))))


def completion(model, n_prompt, n_new, seed):
    return {"model": model, "prompt": prompt_of(n_prompt, seed), "max_tokens": n_new, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, "ignore_eos": True}


def trace_of(args):
    with open(args.trace, newline="") as file:
        rows = [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in csv.DictReader(file)]
    rows = [(max(8, round(a / args.scale)), max(4, round(b / args.scale))) for a, b in rows]
    return [row for row in rows if sum(row) < args.context]


def resident(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


def summary(args, answers, seconds):
    good = [a for a in answers if not a.error and a.first <= args.first
            and (not a.gaps or statistics.fmean(a.gaps) <= args.between)]
    done = [a for a in answers if not a.error]
    return {"seconds": seconds, "requests": len(answers), "failed": len(answers) - len(done),
            "tokens_per_s": sum(a.tokens for a in done) / seconds,
            "goodput_tokens_per_s": sum(a.tokens for a in good) / seconds,
            "p50_first_s": percentile([a.first for a in done], .5), "p95_first_s": percentile([a.first for a in done], .95),
            "p95_between_s": percentile([gap for a in done for gap in a.gaps], .95),
            "errors": sorted({a.error for a in answers if a.error})[:3]}


async def replay_once(args, url, clients, rows, turn):
    answers, began = [], time.monotonic()
    work = iter(enumerate(rows))

    async def client():
        for number, (n_prompt, n_new) in work:
            if time.monotonic() - began > args.seconds:
                return
            answers.append(await post(url, "/v1/completions",
                                      completion(args.model, n_prompt, n_new, hash((turn, clients, number)))))

    await asyncio.gather(*(client() for _ in range(clients)))
    return summary(args, answers, time.monotonic() - began)


async def replay(args):
    rows, results = trace_of(args), []
    for clients in map(int, args.clients.split(",")):
        for turn in range(args.repeats):
            for url in args.url:
                if results and url != results[-1]["url"]:
                    await asyncio.sleep(args.rest)
                part = rows[turn * args.requests:(turn + 1) * args.requests]
                results.append({"url": url, "clients": clients, **await replay_once(args, url, clients, part, turn)})
                print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    if args.json:
        print(json.dumps(results, indent=1))
        return
    print("| clients | server | goodput tok/s | p95 first s | p95 between s | goodput / last server |")
    print("|---|---|---|---|---|---|")
    for clients in map(int, args.clients.split(",")):
        def median(url, key):
            return statistics.median(r[key] for r in results if r["url"] == url and r["clients"] == clients)
        for url in args.url:
            ratio = median(url, "goodput_tokens_per_s") / max(median(args.url[-1], "goodput_tokens_per_s"), 1e-9)
            print(f"| {clients} | {url} | {median(url, 'goodput_tokens_per_s'):.1f} | {median(url, 'p95_first_s'):.2f} | "
                  f"{median(url, 'p95_between_s'):.3f} | {ratio:.2f} |")


async def inject(args):
    url, clients, stop = args.url[0], int(args.clients.split(",")[0]), False
    answers = []

    async def client(number):
        turn = 0
        while not stop:
            answers.append(await post(url, "/v1/completions", completion(args.model, 64, 96, number * 1000 + turn)))
            turn += 1

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    await asyncio.sleep(args.seconds)
    began = time.monotonic()
    long = await post(url, "/v1/completions", completion(args.model, args.prompt_tokens, 4, 1 << 20))
    ended = time.monotonic()
    stop = True
    await asyncio.gather(*tasks)
    gaps = [(b, b - a) for answer in answers for a, b in zip(answer.times, answer.times[1:])]
    before = percentile([gap for at, gap in gaps if at < began], .95)
    during = percentile([gap for at, gap in gaps if began <= at <= ended], .95)
    times = [gap for at, gap in gaps if began <= at <= ended]
    print(json.dumps({"clients": clients, "long_first_s": long.first, "long_error": long.error,
                      "p99_between_during_s": percentile(times, .99), "most_between_during_s": max(times, default=math.nan),
                      "mean_between_during_s": statistics.fmean(times) if times else math.nan,
                      "p95_between_before_s": before, "p95_between_during_s": during, "ratio": during / before,
                      "failed": sum(1 for a in answers if a.error)}, indent=1))


def refusals_seen(url):
    """By the server's own clock: how many completions it has answered within so many seconds."""
    counts = {}
    with urllib.request.urlopen(url + "/metrics", timeout=5) as page:
        for line in page.read().decode().splitlines():
            if "http_request_duration_seconds_bucket" in line and '"/v1/completions"' in line:
                counts[line.split('le="')[1].split('"')[0]] = float(line.split()[-1])
    return counts


def probe(args):
    """One request after the other by a process of its own, --rate a second: when who is refused hears of it, and how long
    this process waited for a CPU meanwhile, which is not the server's time. Who is let in hangs up."""
    parts, began, rows = urllib.parse.urlsplit(args.url[0]), time.monotonic(), []
    cpu_turns(100_000)
    gc.disable()

    def waited_s():
        return int(pathlib.Path("/proc/self/schedstat").read_text().split()[1]) / 1e9

    number = 0
    while (at := time.monotonic() - began) < args.seconds:
        time.sleep(max(0, number / args.rate - at))
        data = json.dumps(completion(args.model, args.prompt_tokens, args.new, -1 - number)).encode()
        number += 1
        with socket.create_connection((parts.hostname, parts.port), 1) as peer:
            peer.settimeout(1)
            waited = waited_s()
            sent = time.monotonic()
            peer.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
                         f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
            try:
                head = peer.recv(65536)
            except TimeoutError:
                continue
            took = time.monotonic() - sent
            if head.split()[1] in (b"429", b"503"):
                rows.append((took, took - (waited_s() - waited)))
    print(json.dumps({"asked": number, "refused": len(rows),
                      **{f"{name}_ms": percentile([row[0] for row in rows], share) * 1e3 for name, share in SHARES},
                      **{f"{name}_without_own_wait_ms": percentile([row[1] for row in rows], share) * 1e3
                         for name, share in SHARES}}))


def ledger(url):
    """Bytes that the server's own account holds."""
    with urllib.request.urlopen(url + "/metrics", timeout=5) as page:
        return sum(float(line.split()[-1]) for line in page.read().decode().splitlines()
                   if line.startswith("cabe_memory_reserved_bytes"))


async def watch(args, memory, stop):
    while not stop.is_set():
        try:
            memory.append((resident(args.pid), await asyncio.to_thread(ledger, args.url[0])))
        except OSError:
            pass
        try:
            await asyncio.wait_for(stop.wait(), 1)
        except asyncio.TimeoutError:
            pass


def memory_of(memory):
    """The first tenth is the rise to full load; then what the rest adds to it, by a straight line through it."""
    rest = memory[len(memory) // 10:]
    result = {}
    for at, name in enumerate(("resident", "ledger")):
        values = [sample[at] / (1 << 20) for sample in rest]
        slope = statistics.linear_regression(range(len(values)), values).slope if len(values) > 2 else 0
        result[name + "_mib"] = {"first": round(memory[0][at] / (1 << 20), 1), "least": round(min(values), 1),
                                 "most": round(max(values), 1), "last": round(values[-1], 1),
                                 "a_minute": round(slope * 60, 2)}
    return result


def by_class(args, seconds, turns):
    """turns: (class, the answers to one request: refusals, and what came in the end)."""
    result = {}
    for class_ in "critical", "high", "normal", "low":
        mine = [answers for c, answers in turns if c == class_]
        done = [answers[-1] for answers in mine if not answers[-1].error]
        result[class_] = {"asked": len(mine), "answered": len(done),
                          "refused": sum(1 for answers in mine for a in answers if is_refusal(a)),
                          "late": sum(1 for answers in mine if answers[-1].error and not is_refusal(answers[-1])),
                          "tokens_per_s": round(sum(a.tokens for a in done) / seconds, 1),
                          "p50_first_s": percentile([a.first for a in done], .5),
                          "p95_first_s": percentile([a.first for a in done], .95),
                          "most_first_s": max((a.first for a in done), default=math.nan)}
    return result


def is_refusal(answer):
    """At once, by admission; what was let in and not served in time is another matter."""
    return answer.status in (429, 503) and answer.headers < 1


def promises(turns):
    """Those that came again when they were told to: how often they were let in, and how well what they were told held."""
    again = [(before, after) for _, answers in turns for before, after in zip(answers, answers[1:])]
    told = [a.retry_after for _, answers in turns for a in answers if is_refusal(a) and a.retry_after]
    waits = [(answers[0].retry_after, answers[-1].began - answers[0].began) for _, answers in turns
             if len(answers) > 1 and not is_refusal(answers[-1])]
    broken = collections.Counter(int(before.retry_after) for before, after in again if is_refusal(after))
    return {"told_p50_s": percentile(told, .5), "told_p50_last_tenth_s": percentile(told[-len(told) // 10:], .5), "told_most_s": max(told, default=math.nan), "came_again": len(again),
            "broken_by_told_s": dict(sorted(broken.items())), "let_in_then": sum(1 for _, after in again if not is_refusal(after)),
            "let_in_within_twice": sum(1 for first, real in waits if real <= 2 * first + .1)}


async def overload(args):
    url, draw, tasks, turns = args.url[0], random.Random(1), [], []
    memory, stop, seen, number = [], asyncio.Event(), refusals_seen(url), 0
    cpu_turns(20_000_000)
    prober = subprocess.Popen([sys.executable, __file__, "probe", "--url", url, "--model", args.model, "--rate",
                               str(args.probes), "--seconds", str(args.seconds), "--prompt-tokens",
                               str(args.prompt_tokens), "--new", str(args.new)],
                              stdout=subprocess.PIPE) if args.probes else None
    began = time.monotonic()

    async def one(class_, seed):
        answers = []
        while True:
            answer = await post(url, "/v1/completions", completion(args.model, args.prompt_tokens, args.new, seed),
                                [f"x-cabe-class: {class_}"])
            answers.append(answer)
            if not is_refusal(answer) or not answer.retry_after or len(answers) > args.retries:
                break
            if answer.retry_after > args.patience or draw.random() >= args.returning:
                break
            await asyncio.sleep(answer.retry_after)
        turns.append((class_, answers))

    watcher = asyncio.create_task(watch(args, memory, stop)) if args.pid else None
    async def stream(rate, classes, weights, draws):
        """Those of CRITICAL come at the same times whether the others come or not."""
        nonlocal number
        at = began
        while rate > 0:
            at += draws.expovariate(rate)
            if at - began > args.seconds:
                return
            await asyncio.sleep(max(0, at - time.monotonic()))
            tasks.append(asyncio.create_task(one(draws.choices(classes, weights)[0], number)))
            number += 1

    streams = [stream(args.rate * args.critical, ["critical"], [1], random.Random(2))]
    if not args.only_critical:
        streams.append(stream(args.rate * (1 - args.critical), ["high", "normal", "low"], [.2, .6, .2], random.Random(3)))
    await asyncio.gather(*streams)
    loaded = time.monotonic()
    await asyncio.gather(*tasks)
    seconds = time.monotonic() - began
    stop.set()
    if watcher:
        await watcher
    done = [a for _, answers in turns for a in answers[-1:] if not a.error]
    refused = [a for _, answers in turns for a in answers if is_refusal(a)]
    within = [a for a in done if a.times and a.times[-1] <= loaded]
    result = {"requests": number, "seconds": seconds, **by_class(args, seconds, turns)}
    result["tokens_per_s"] = sum(a.tokens for a in done) / seconds
    result["goodput_tokens_per_s"] = sum(a.tokens for a in within if a.first <= args.first) / (loaded - began)
    result["goodput_by_first_s"] = {limit: round(sum(a.tokens for a in within if a.first <= limit) / (loaded - began), 1)
                                    for limit in (10, 20, 30)}
    result["refusal_p50_ms"] = percentile([a.headers for a in refused], .5) * 1e3
    result["refusal_p99_ms"] = percentile([a.headers for a in refused], .99) * 1e3
    if refused:  # by the server's clock, from the first byte to the answer's end
        result["server_within_ms"] = {f"{float(le) * 1e3:g}": round((n - seen.get(le, 0)) / len(refused), 4)
                                      for le, n in refusals_seen(url).items() if le in ("0.001", "0.0025", "0.005", "0.01")}
    if prober:
        result["probes"] = json.loads(prober.communicate()[0] or "null")
    result["promises"] = promises(turns)
    if args.dump:
        pathlib.Path(args.dump).write_text(json.dumps(
            [[class_, round(a.began - began, 3), a.status, round(a.first, 4) if a.times else None, a.retry_after]
             for class_, answers in turns for a in answers]))
    result["client_cpu_s"] = time.process_time()
    result["other_errors"] = sorted({a.error for _, answers in turns for a in answers
                                     if a.error and not is_refusal(a)})[:3]
    if memory:
        result.update(memory_of(memory))
    print(json.dumps(result, indent=1))


async def embed(args):
    clients = int(args.clients.split(",")[0])
    await asyncio.sleep(args.rest or 0)
    if shutil.which("wrk"):
        n, seconds = embed_by_wrk(args, clients), args.seconds
    else:
        n, seconds = await embed_from_here(args, clients)
    result = {"client": "wrk" if shutil.which("wrk") else "python", "sentences_per_s": n / seconds}
    if args.library:
        result["library_sentences_per_s"] = library(args, n)
        result["share"] = result["sentences_per_s"] / result["library_sentences_per_s"]
    print(json.dumps(result, indent=1))


async def embed_from_here(args, clients):
    """This process takes part of the processors that the server is measured on."""
    began, n = time.monotonic(), 0

    async def client(number):
        nonlocal n
        turn = 0
        while time.monotonic() - began < args.seconds:
            answer = await post(args.url[0], "/v1/embeddings",
                                {"model": args.model, "input": prompt_of(24, number * 100000 + turn)})
            turn += 1
            if answer.error:
                sys.exit(answer.error)
            n += 1

    await asyncio.gather(*(client(number) for number in range(clients)))
    return n, time.monotonic() - began


def embed_by_wrk(args, clients):
    """The number of sentences: sentences of the same kind, asked for by a client that takes next to nothing."""
    script = """
        local words, n = {%s}, %d
        math.randomseed(%d)
        request = function()
            local text = {}
            for i = 1, n do text[i] = words[math.random(#words)] end
            return wrk.format("POST", "/v1/embeddings", {["content-type"] = "application/json"},
                              '{"model": "%s", "input": "' .. table.concat(text, " ") .. '"}')
        end
        done = function(summary, latency, requests)
            print("n", summary.requests, "errors", summary.errors.status + summary.errors.connect + summary.errors.read
                  + summary.errors.write + summary.errors.timeout)
        end
    """ % (", ".join(f'"{word}"' for word in WORDS), len(prompt_of(24, 0).split()), random.randrange(1 << 30), args.model)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        done = subprocess.run(["wrk", "-t1", f"-c{clients}", f"-d{int(args.seconds)}s", "-s", file.name, args.url[0]],
                              capture_output=True, text=True, check=True)
    said = [line.split() for line in done.stdout.splitlines() if line.startswith("n\t")]
    if not said or said[0][3] != "0":
        sys.exit(done.stdout)
    return int(said[0][1])


def library(args, n):
    """As many sentences of the same kind through the program's own batches, without the start."""
    with tempfile.TemporaryDirectory() as folder:
        texts = pathlib.Path(folder, "texts")
        texts.write_text("".join(prompt_of(24, -1 - i) + "\n" for i in range(n)))
        done = subprocess.run([args.library, "embed", args.model, "-i", texts, "-o", texts.with_suffix(".npy"), "--json"],
                              capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["texts_per_s"]


async def switch(args):
    url, times = args.url[0], []
    for turn in range(args.requests):
        model = args.models.split(",")[turn % 2]
        answer = await post(url, "/v1/completions", completion(model, 16, 4, turn))
        if answer.error:
            sys.exit(f"{model}: {answer.error}")
        times.append(answer.first)
    print(json.dumps({"first_s": [round(value, 4) for value in times],
                      "median_after_first_pair_s": statistics.median(times[2:])}, indent=1))


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("command", choices=["replay", "inject", "overload", "embed", "switch", "probe"])
    parser.add_argument("--url", action="append", required=True)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--models", default="")
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--trace", default="../shared/data/traces/azure_conv.csv")
    parser.add_argument("--scale", type=float, default=4)
    parser.add_argument("--context", type=int, default=2000, help="longer requests of the trace are left out")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first", type=float, default=10)
    parser.add_argument("--between", type=float, default=0.5)
    parser.add_argument("--prompt-tokens", type=int, default=32000)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--critical", type=float, default=.02)
    parser.add_argument("--only-critical", action="store_true")
    parser.add_argument("--probes", type=float, default=0)
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("--returning", type=float, default=1)
    parser.add_argument("--patience", type=float, default=60)
    parser.add_argument("--rest", type=float, default=0)
    parser.add_argument("--pid", type=int, default=0)
    parser.add_argument("--dump", help="a file for every request of overload: class, when, status, first token, told")
    parser.add_argument("--library", help="cabe, for embed")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    args.url = [url.rstrip("/") for url in args.url]
    if args.command == "probe":
        probe(args)
        return
    commands = {"replay": replay, "inject": inject, "overload": overload, "embed": embed, "switch": switch}
    asyncio.run(commands[args.command](args))


if __name__ == "__main__":
    main()
