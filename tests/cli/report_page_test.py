"""report.html of an evaluation in a headless Chromium: no console message, nothing fetched, light and dark, no wider
than a phone, sorted and unfolded by the keyboard. QLORA_CHROMIUM names the browser (default: one in PATH); skips (77)
without one. Standard library only."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(os.environ["QLORA_SOURCE"])
QLORA = pathlib.Path(os.environ["QLORA_BUILD"]) / "qlora"
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


class Page:
    """A file in the browser, driven over two pipes: JSON messages with a NUL behind each."""

    def __init__(self, browser, profile, path):
        to_browser, self.commands = os.pipe()
        self.answers, from_browser = os.pipe()

        def three_and_four():
            os.dup2(to_browser, 10)  # either may be 3 or 4 already
            os.dup2(from_browser, 11)
            os.dup2(10, 3)
            os.dup2(11, 4)

        self.process = subprocess.Popen([browser, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
                                         f"--user-data-dir={profile}", "about:blank"], preexec_fn=three_and_four,
                                        pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.number, self.buffer, self.session, self.events = 0, b"", None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.receive()

    def receive(self):
        while b"\0" not in self.buffer:
            more = os.read(self.answers, 1 << 16)
            if not more:
                raise RuntimeError("the browser is gone")
            self.buffer += more
        line, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def value(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, (expression, result)
        return result["result"].get("value")

    def press(self, key, code, text=""):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                      **({"text": text} if text and kind == "keyDown" else {}))

    def tab_to(self, tag):
        for _ in range(200):
            self.press("Tab", 9)
            if self.value("document.activeElement.tagName") == tag:
                return
        raise AssertionError(f"no {tag} is reached by the Tab key")

    def close(self):
        self.process.kill()
        self.process.wait()


def find_browser():
    named = os.environ.get("QLORA_CHROMIUM")
    return named or next(filter(None, map(shutil.which, BROWSERS)), None)


def make_report(folder):
    rows = json.loads((SOURCE / "data/demo/dev.json").read_text())[:40]
    gold, base, tuned = (folder / name for name in ("gold.sql", "base.sql", "tuned.sql"))
    gold.write_text("".join(f"{row['query']}\t{row['db_id']}\n" for row in rows))
    tuned.write_text("".join(row["query"] + "\n" for row in rows))
    base.write_text("".join((row["query"] if i % 3 else "SELECT '<b>1 & \"2\"</b>'") + "\n" for i, row in enumerate(rows)))
    subprocess.run([QLORA, "eval", "--tasks", "spider", "--predictions", base, "--predictions", tuned, "--gold", gold,
                    "--tables", SOURCE / "data/demo/tables.json", "--db_dir", SOURCE / "data/demo/database",
                    "--output_dir", folder / "out", "--quiet", "true"], check=True, capture_output=True, timeout=120)
    return folder / "out/report.html"


def check_looks(page):
    colours = {}
    for scheme in ("light", "dark"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        colours[scheme] = page.value("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    assert colours["light"][0] != colours["dark"][0] and colours["light"][1] != colours["dark"][1], colours
    for width in (360, 1280):
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        assert page.value("document.documentElement.scrollWidth") <= width, width
    # Letters in the chart are no smaller than 9 pixels on a phone.
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=800, deviceScaleFactor=1, mobile=True)
    assert page.value("document.querySelector('svg text').getBoundingClientRect().height") >= 9
    cut = page.value("Array.from(document.querySelectorAll('svg text')).filter(text => { const box = text.getBBox(); return "
                     "box.x < 0 || box.x + box.width > text.ownerSVGElement.viewBox.baseVal.width; }).map(text => text.textContent)")
    assert cut == [], cut


def check_keyboard(page):
    column = "Array.from(document.querySelector('table.sort').tBodies[0].rows).map(row => row.cells[0].textContent)"
    before = page.value(column)
    page.tab_to("BUTTON")
    assert page.value("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus is seen"
    for order, expected in (("ascending", sorted(before)), ("descending", sorted(before, reverse=True))):
        page.press("Enter", 13, "\r")
        assert page.value("document.activeElement.parentElement.getAttribute('aria-sort')") == order
        assert page.value(column) == expected, (order, page.value(column))
    page.tab_to("SUMMARY")
    assert not page.value("document.activeElement.parentElement.open")
    page.press("Enter", 13, "\r")
    assert page.value("document.activeElement.parentElement.open")
    shown = page.value("document.activeElement.parentElement.textContent")
    assert "<b>1 & \"2\"</b>" in shown and "its rows" in shown, shown


def main():
    browser = find_browser()
    if not browser:
        print(f"SKIPPED: no browser; name one in QLORA_CHROMIUM, or install one of {', '.join(BROWSERS)}")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        page = Page(browser, folder + "/profile", make_report(pathlib.Path(folder)))
        try:
            check_looks(page)
            check_keyboard(page)
            bad = [event for event in page.events if event["method"] in ("Runtime.consoleAPICalled", "Log.entryAdded",
                                                                         "Runtime.exceptionThrown")]
            assert not bad, bad
            urls = [event["params"]["request"]["url"] for event in page.events
                    if event["method"] == "Network.requestWillBeSent"]
            assert urls and all(url.startswith(("file:", "data:")) for url in urls), urls
        finally:
            page.close()
    return 0


sys.exit(main())
