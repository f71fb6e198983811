"""Headless Chromium, driven through its DevTools pipe: no packages, no ports."""

import itertools
import json
import os
import shutil
import subprocess
from contextlib import contextmanager

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Page:
    """A page, which runs JavaScript."""

    def __init__(self, reading, writing):
        self._reading, self._writing = reading, writing
        self._numbers, self._rest = itertools.count(1), b""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}

    def open(self, url):
        self._call("Page.navigate", url=url)
        self.run("new Promise(done => document.readyState === 'complete' ? done() : onload = done)")

    def run(self, script):
        """Return what a script evaluates to, once its promise is fulfilled."""
        done = self._call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def download_to(self, folder):
        self._call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def press(self, *keys):
        for key in keys:
            text = "\r" if key == "Enter" else key
            self._call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
            self._call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def show_as_phone(self):
        size = {"width": 390, "height": 844, "deviceScaleFactor": 1}
        self._call("Emulation.setDeviceMetricsOverride", mobile=True, **size)

    def _call(self, method, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        message |= getattr(self, "_session", {})
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            one, end, self._rest = self._rest.partition(b"\0")
            if not end:
                part = os.read(self._reading, 2**16)
                assert part, "Chromium has ended"
                self._rest = one + part
                continue
            answer = json.loads(one)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]


@contextmanager
def page(folder):
    """Start Chromium with its profile in a folder; yield a page."""
    to_read, writing = os.pipe()
    reading, to_write = os.pipe()
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
        f"--user-data-dir={folder}", "about:blank",
    ]  # fmt: skip
    script = f'exec "$@" 3<&{to_read} 4>&{to_write}'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *command],
        pass_fds=(to_read, to_write), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for descriptor in (to_read, to_write):
        os.close(descriptor)
    try:
        yield Page(reading, writing)
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)
