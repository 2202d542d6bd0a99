"""What the clients' scripts share: URL, models and checks that are counted."""
import sys
import traceback

URL, CHAT, EMBED = sys.argv[1:4]
counts = {"checks": 0, "failed": 0}


def check(condition, *what):
    counts["checks"] += 1
    if not condition:
        counts["failed"] += 1
        line = traceback.extract_stack(limit=2)[0].lineno
        print(f"line {line}: not so:", *what)


def fails(kind, status, words, call):
    """The call raises `kind` with this HTTP status and these words in its message."""
    try:
        result = call()
    except kind as error:
        check(error.status_code == status and words in str(error), f"{error.status_code}, wanted {status}: {error}")
        return error
    check(False, f"no {kind.__name__} but {result!r}")
    return None


def end(name):
    print(f"{name}: {counts['checks']} checks, {counts['failed']} failed")
    sys.exit(1 if counts["failed"] else 0)
