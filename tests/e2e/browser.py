"""A headless Chromium spoken to over its debugging pipe; standard library only.

    with Browser() as browser:
        page = browser.open("http://127.0.0.1:1234/", width=1280, dark=True, language="es")
        page.wait("document.title === 'cabe'")
        page.screenshot("page.png")
"""
import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]


def find():
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Page:
    def __init__(self, browser, session):
        self.browser, self.session = browser, session
        self.complaints = []

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def run(self, script):
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, script, seconds=20):
        end = time.monotonic() + seconds
        while not self.run(script):
            if time.monotonic() > end:
                raise AssertionError(f"never true: {script}")
            time.sleep(0.05)

    def key(self, key, code=None, text=None):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code or key,
                      **({"text": text} if text and kind == "keyDown" else {}))

    def type(self, text):
        self.call("Input.insertText", text=text)

    def screenshot(self, path, whole=True):
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)


class Browser:
    def __enter__(self):
        self.folder = tempfile.mkdtemp()
        read_ours, write_theirs = os.pipe()
        read_theirs, write_ours = os.pipe()

        def pipes():  # the browser reads commands from 3 and writes answers to 4
            os.dup2(read_theirs, 13)
            os.dup2(write_theirs, 14)
            os.dup2(13, 3)
            os.dup2(14, 4)

        self.process = subprocess.Popen(
            [find(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe",
             f"--user-data-dir={self.folder}", "about:blank"],
            preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(read_theirs)
        os.close(write_theirs)
        self.reader, self.writer, self.rest, self.n, self.pages = read_ours, write_ours, b"", 0, {}
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def message(self, seconds=60):
        while b"\0" not in self.rest:
            if not select.select([self.reader], [], [], seconds)[0]:
                raise AssertionError("the browser does not answer")
            data = os.read(self.reader, 1 << 20)
            if not data:
                raise AssertionError("the browser is gone")
            self.rest += data
        line, self.rest = self.rest.split(b"\0", 1)
        return json.loads(line)

    def call(self, method, session=None, **params):
        self.n += 1
        number = self.n
        text = {"id": number, "method": method, "params": params}
        if session:
            text["sessionId"] = session
        os.write(self.writer, json.dumps(text).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]
            page = self.pages.get(answer.get("sessionId"))
            if page and answer.get("method") == "Runtime.exceptionThrown":
                page.complaints.append(str(answer["params"]["exceptionDetails"])[:600])
            if page and answer.get("method") == "Log.entryAdded" and answer["params"]["entry"]["level"] == "error":
                page.complaints.append(answer["params"]["entry"]["text"] + " " + answer["params"]["entry"].get("url", ""))

    def open(self, url, width=1280, height=900, dark=False, language="en"):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session)
        page.target = target
        for domain in ("Page", "Runtime", "Log"):
            page.call(domain + ".enable")
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        agent = self.call("Browser.getVersion")["userAgent"]
        page.call("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)
        page.call("Page.navigate", url=url)
        page.wait("document.readyState === 'complete'")
        return page
