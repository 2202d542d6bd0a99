"""A conversation of `cabe run` on a terminal: line editing, history, Ctrl-C while it answers and while a line is typed,
Ctrl-D. usage: converse.py PROGRAM MODEL      standard library only
"""
import os
import pty
import re
import select
import sys
import termios
import time

PROGRAM, MODEL = sys.argv[1:3]
failed = 0
pid, terminal = pty.fork()
if pid == 0:
    os.environ["TERM"] = "xterm"
    os.execv(PROGRAM, [PROGRAM, "run", MODEL, "--temp", "0", "--ctx", "512", "--shift", "4"])


def read_until(pattern, seconds=60):
    """What comes until it ends in the pattern; None: it does not."""
    out, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                out += os.read(terminal, 65536)
            except OSError:  # the program has ended
                break
        if re.search(pattern, out.decode(errors="replace"), re.S):
            return out.decode(errors="replace")
    return None


def type_(keys):
    """At the prompt: once the program looks at keys itself."""
    end = time.monotonic() + 60
    while termios.tcgetattr(terminal)[3] & termios.ISIG and time.monotonic() < end:
        time.sleep(0.01)
    os.write(terminal, keys)


def say(keys, pattern, what, answering=False):
    global failed
    os.write(terminal, keys) if answering else type_(keys)
    seen = read_until(pattern)
    if seen is None:
        failed = 1
        print("conversation:", what)
    return seen or ""


prompt = r"> $"
stopped = r"started in (\d+) ms.*\(stopped\)\s*> $"
if read_until(prompt) is None:
    sys.exit("conversation: no prompt")
time.sleep(1.5)  # which is no part of the start
say(b"Onse\x7f\x7fce upon a time\n", r"upon a time.*, there was a", "what was typed and corrected is not answered")
seen = say(b"\x03", stopped, "Ctrl-C does not stop an answer that has no end", True)
started = re.search(r"started in (\d+) ms", seen)
if started and int(started[1]) >= 1500:
    failed = 1
    print("conversation: the time of typing counts as the start:", started[0])
say(b"never asked", r"never asked$", "no echo of what is typed")
say(b"\x03", r"> \x1b\[K$", "Ctrl-C does not drop a line that is typed")
say(b"\x10", r"Once upon a time$", "no history")
say(b"\n", r", there was a", "a line of the history is not answered")
say(b"\x03", stopped, "Ctrl-C does not stop a second answer", True)
type_(b"\x04")
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
if status != 0:
    failed = 1
    print("conversation: Ctrl-D ends with", status)
sys.exit(failed)
