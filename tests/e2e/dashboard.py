"""The dashboard in a real browser: three languages, light and dark, wide and narrow, by keyboard, with a key.

usage: dashboard.py PROGRAM MODELS_FOLDER [FOLDER_FOR_SCREENSHOTS]
"""
import os
import subprocess
import sys
import tempfile

from browser import Browser, find

PROGRAM, MODELS = sys.argv[1:3]
SHOTS = sys.argv[3] if len(sys.argv) > 3 else tempfile.mkdtemp()
KEY = "dashboard-key"
failed = 0
WORDS = {"en": ["Overview", "Memory by purpose"], "es": ["Resumen", "Memoria por uso"], "pt": ["Resumo", "Memória por uso"]}


def check(what, holds):
    global failed
    if not holds:
        failed = 1
        print("dashboard:", what)


def start():
    environment = dict(os.environ, CABE_HOME=tempfile.mkdtemp())
    environment.pop("ENVIRONMENT", None)
    process = subprocess.Popen([PROGRAM, "serve", "--port", "0", "--memory", "300M", "--api-keys", KEY,
                                f"--models=tiny={MODELS}/llama3-f32.gguf,enc={MODELS}/bert-mean-f32.gguf"],
                               env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return process, "http://" + process.stdout.readline().split("http://", 1)[1].strip()


def text(page, element):
    return page.run(f"document.getElementById('{element}').textContent")


def give_key(page):
    page.wait("document.getElementById('key-dialog').open")
    page.type(KEY)  # the field has the focus
    page.key("Enter", text="\r")
    page.wait("!document.getElementById('key-dialog').open && document.getElementById('version').textContent !== ''")


def shoot(page, name):
    page.screenshot(os.path.join(SHOTS, name + ".png"))
    wide = page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    check(f"{name}: {wide} pixels too wide", wide <= 0)


def views(browser, url):
    for language, dark, width in [("en", 0, 1280), ("en", 1, 400), ("es", 1, 1280), ("es", 0, 400), ("pt", 0, 1280), ("pt", 1, 400)]:
        page = browser.open(url, width=width, height=900, dark=bool(dark), language=language)
        give_key(page)
        page.wait("document.querySelectorAll('#models tr').length >= 2 && document.querySelectorAll('#svg path').length >= 2")
        seen = page.run("document.body.innerText")
        for word in WORDS[language]:
            check(f"{language}: no '{word}'", word in seen)
        check(f"{language}: lang", page.run("document.documentElement.lang") == language)
        missing = page.run("[...document.querySelectorAll('[data-t]')].filter(e => e.textContent === e.dataset.t && /_/.test(e.dataset.t)).map(e => e.dataset.t).join()")
        check(f"{language}: no words for {missing}", missing == "")
        for tab in ("overview", "chat", "documents", "activity"):
            page.run(f"document.getElementById('tab-{tab}').click()")
            shoot(page, f"{tab}-{language}-{'dark' if dark else 'light'}-{width}")
        wide = page.run("""(() => { const status = document.getElementById('status'), was = status.textContent, root = document.documentElement;
            status.textContent = 'Não está pronto'; const wide = root.scrollWidth - root.clientWidth; status.textContent = was; return wide; })()""")
        check(f"{language}-{width}: {wide} pixels too wide when it is not ready", wide <= 0)
        # Before the key was given, and while a loaded machine is not ready.
        complaints = [c for c in page.complaints if "401" not in c and not c.endswith("/ready")]
        check(f"the console says {complaints}", not complaints)
        page.close()


def labels(page):
    unnamed = page.run("""[...document.querySelectorAll('button, input, select, textarea')].filter(e =>
        !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).map(e => e.id || e.outerHTML.slice(0, 80)).join()""")
    check(f"without a name: {unnamed}", unnamed == "")
    bad = page.run("[...document.querySelectorAll('[role=tab]')].filter(e => !document.getElementById(e.getAttribute('aria-controls'))).length")
    check("tabs control panels", bad == 0)


def chat(page):
    page.run("document.getElementById('tab-overview').focus()")
    page.key("ArrowRight")
    page.wait("!document.getElementById('chat').hidden && document.activeElement.id === 'tab-chat'")
    page.wait("document.getElementById('chat-model').value === 'tiny'")
    page.run("document.getElementById('chat-max').value = 40; document.getElementById('prompt').focus()")
    page.type("Hello <b>there</b>")
    page.key("Enter", text="\r")
    page.wait("document.querySelectorAll('.msg.assistant .meta').length === 1 && !document.getElementById('send').hidden", 60)
    check("what was said is text, not markup", page.run("document.querySelector('.msg.user').textContent") == "Hello <b>there</b>")
    usage = page.run("document.querySelector('.msg.assistant .meta').textContent")
    check(f"usage is shown: {usage}", "tokens" in usage)
    page.run("document.getElementById('chat-max').value = 100000")
    page.type("And on and on")
    page.key("Enter", text="\r")
    page.wait("document.querySelectorAll('.msg').length >= 3")
    page.run("document.getElementById('stop').click()")  # where it has not ended by itself
    page.wait("!document.getElementById('send').hidden", 30)
    shoot(page, "chat-used")


def document(page):
    page.run("document.getElementById('tab-documents').click()")
    page.wait("document.getElementById('doc-model').value === 'enc'")
    page.run("document.getElementById('doc-run').click()")
    check("without a document it says so", page.run("!document.getElementById('notice').hidden"))
    page.run("document.getElementById('doc-text').focus()")
    page.type("The captain looked at his old watch again. The sea was calm that morning. The captain looked at his old watch again.")
    page.run("document.getElementById('doc-run').click()")
    page.wait("document.querySelectorAll('#steps .done').length === 5 && document.querySelectorAll('.group').length >= 1", 60)
    check("the group says how", "word for word" in text(page, "groups"))
    shoot(page, "documents-used")


def activity(page):
    page.run("document.getElementById('tab-overview').click()")
    page.run("[...document.querySelectorAll('#models button')].find(b => b.ariaLabel === 'Pin: enc').click()")
    page.wait("document.getElementById('models').textContent.includes('pinned')")
    page.run("document.getElementById('svg').focus()")
    page.key("ArrowLeft")
    page.wait("!document.getElementById('tip').hidden")
    shoot(page, "overview-used")
    page.run("document.getElementById('tab-activity').click()")
    page.wait("document.querySelectorAll('#news li').length > 0 && document.querySelectorAll('#phases tr').length > 0")
    shoot(page, "activity-used")


if not find():
    print("skip: no chromium here")
    sys.exit(77)
os.makedirs(SHOTS, exist_ok=True)
server, url = start()
try:
    with Browser() as browser:
        views(browser, url)
        page = browser.open(url)
        give_key(page)
        labels(page)
        chat(page)
        document(page)
        activity(page)
        page.run("document.getElementById('language').value = 'es'; document.getElementById('language').dispatchEvent(new Event('change'))")
        page.wait("document.getElementById('tab-activity').textContent === 'Actividad'")
        complaints = [c for c in page.complaints if "401" not in c]
        check(f"the console says {complaints}", not complaints)
finally:
    server.terminate()
    server.wait()
print(f"dashboard: {len(os.listdir(SHOTS))} screenshots in {SHOTS}" if not failed else "dashboard: failed")
sys.exit(failed)
