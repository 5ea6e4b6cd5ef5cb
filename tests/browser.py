"""A real browser for tests of pages: Chromium without a window, spoken to over a pipe.

The Chrome DevTools Protocol (https://chromedevtools.github.io/devtools-protocol/), one JSON object a message with a zero byte at its end;
`--remote-debugging-pipe` reads from descriptor 3 and writes to 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 60.0  # seconds for one answer
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--no-default-browser-check",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage",
)  # fmt: skip


def found() -> str | None:
    """Path of a browser, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """A browser with one page, as a context manager.

    Attributes:
        events: what the browser told so far.
    """

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._number = 0
        self._rest = b""

    def __enter__(self) -> Page:
        program = found()
        assert program is not None
        self._home = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        theirs, self._to = os.pipe()
        self._from, ours = os.pipe()
        # The browser wants its two ends as descriptors 3 and 4; a shell puts them there without a fork hook in this process.
        line = f'exec 3<&{theirs} 4>&{ours}; exec "$@"'
        options = [*_FLAGS, f"--user-data-dir={self._home.name}", "--remote-debugging-pipe", "about:blank"]
        command = ["bash", "-c", line, "browser", program, *options]
        self._log = open(Path(self._home.name) / "log", "w+b")
        variables = {**os.environ, "HOME": self._home.name, "DBUS_SESSION_BUS_ADDRESS": "disabled:"}
        self._process = subprocess.Popen(
            command, pass_fds=(theirs, ours), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env=variables
        )
        os.close(theirs)
        os.close(ours)
        self._session: str | None = None
        targets = self.ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._log.close()
        self._home.cleanup()

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        answer = self._until(lambda told: told.get("id") == self._number)
        assert "error" not in answer, answer
        return answer.get("result", {})

    def wait_for(self, event: str) -> dict[str, Any]:
        """The next event of that name."""
        return self._until(lambda told: told.get("method") == event)

    def open(self, path: Path, *, width: int = 1100, height: int = 900, dark: bool = False, phone: bool = False) -> None:
        """Show a file, at so many CSS pixels; `phone`: as a phone does, with two dots a pixel."""
        self.events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone)
        scheme = "dark" if dark else "light"
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", url=path.absolute().as_uri())
        self.wait_for("Page.loadEventFired")

    def value(self, script: str) -> Any:
        """What an expression evaluates to in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, target: Path, *, most: int = 20_000) -> None:
        """The whole page as a PNG, or its first `most` pixels."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], most), "scale": 1}
        data = self.ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
        target.write_bytes(base64.b64decode(data))

    def print_to(self, target: Path) -> None:
        """The page as a PDF, A4."""
        data = self.ask("Page.printToPDF", printBackground=False, paperWidth=8.27, paperHeight=11.69)["data"]
        target.write_bytes(base64.b64decode(data))

    def requests(self) -> list[str]:
        """Addresses that the page asked for since it was opened."""
        return [told["params"]["request"]["url"] for told in self.events if told["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """What the browser's console said."""
        return [
            json.dumps(told["params"])
            for told in self.events
            if told["method"] in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        ]

    def _until(self, wanted: Any) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while True:
            *messages, self._rest = self._rest.split(b"\0")
            for position, message in enumerate(messages):
                told = json.loads(message)
                if "method" in told:
                    self.events.append(told)
                if wanted(told):
                    self._rest = b"\0".join([*messages[position + 1 :], self._rest])
                    return told
            self._read(deadline)

    def _read(self, deadline: float) -> None:
        ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
        data = os.read(self._from, 2**16) if ready else b""
        if not data:
            self._log.seek(0)
            raise TimeoutError(f"The browser does not answer: {self._log.read()[-2000:].decode('utf-8', 'replace')}")
        self._rest += data


def main() -> None:
    """A picture of a report down to its timeline: python tests/browser.py PAGE PICTURE."""
    page, picture = map(Path, sys.argv[1:])
    with Page() as browser:
        browser.open(page)
        after = "document.querySelector('.timeline').closest('section').nextElementSibling.getBoundingClientRect().top"
        browser.screenshot(picture, most=int(browser.value(after)))


if __name__ == "__main__":
    main()
