"""The system's Chromium without a window, spoken to over its pipe (--remote-debugging-pipe): no driver, no library.

with Chromium(tmp_path) as browser:
    tab = browser.tab()
    tab.go("http://127.0.0.1:8390/")
    tab.press("Enter")
    tab.until("document.querySelector('#count').textContent.startsWith('1 ')")
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.eventually import eventually_sync

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ANSWER_SECONDS_MAX = 60.0
LOAD_SECONDS_MAX = 60.0
UNTIL_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 60.0
# A machine's own container has no user namespaces to give; nothing but pages of ours is opened.
_OPTIONS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--mute-audio",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
]
# What a key is to the page: its code, its number, and the text that it types.
_NAMED = {
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    "Backspace": ("Backspace", 8, ""),
    "Tab": ("Tab", 9, ""),
}
CONTROL = 2
# The browser reads its descriptor 3 and writes 4.
_BECOME = """
import os, sys
there, here = (os.dup2(int(given), to) for given, to in zip(sys.argv[1:3], (100, 101)))
os.dup2(there, 3), os.dup2(here, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Chromium:
    """One browser with a profile of its own, ended after the block."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Note where its profile goes; `options` are added to its command line."""
        self._folder = folder / "chromium"
        self._options = options
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        """Start it."""
        assert PROGRAM, "no Chromium is installed"
        there, mine = os.pipe()
        answers, here = os.pipe()
        arguments = [PROGRAM, *_OPTIONS, f"--user-data-dir={self._folder}", *self._options, "about:blank"]
        command = [sys.executable, "-c", _BECOME, str(there), str(here), *arguments]
        environment = {**os.environ, "HOME": str(self._folder)}
        self._process = subprocess.Popen(
            command, pass_fds=(there, here), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        os.close(there)
        os.close(here)
        self._to, self._from = os.fdopen(mine, "wb", buffering=0), os.fdopen(answers, "rb")
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._to.close()
        self._listener.join()
        self._from.close()

    def tab(self) -> Tab:
        """Open a tab."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Tab(self, session)

    def ask(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command to the browser; return its answer."""
        number = next(self._numbers)
        waiting: queue.Queue[dict[str, Any]] = queue.Queue()
        self._answers[number] = waiting
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        self._to.write(json.dumps(message).encode() + b"\0")
        answer = waiting.get(timeout=ANSWER_SECONDS_MAX)
        del self._answers[number]
        assert "error" not in answer, f"{method}: {answer['error']}"
        found: dict[str, Any] = answer["result"]
        return found

    def _listen(self) -> None:
        rest = b""
        while chunk := os.read(self._from.fileno(), 2**20):
            *whole, rest = (rest + chunk).split(b"\0")
            for text in whole:
                message = json.loads(text)
                if "id" in message:
                    self._answers[message["id"]].put(message)
                else:
                    self.events.append(message)


class Tab:
    """One page."""

    def __init__(self, browser: Chromium, session: str) -> None:
        """Read the browser's messages."""
        self._browser, self._session = browser, session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to the page; return its answer."""
        return self._browser.ask(method, self._session, **parameters)

    def go(self, url: str) -> None:
        """Open an address, and wait until it is loaded."""
        self.ask("Page.bringToFront")
        loaded = self._count("Page.loadEventFired")
        failed = self.ask("Page.navigate", url=url).get("errorText", "")
        assert failed in ("", "net::ERR_HTTP_RESPONSE_CODE_FAILURE"), failed
        eventually_sync(lambda: self._count("Page.loadEventFired") > loaded, LOAD_SECONDS_MAX)

    def value(self, script: str) -> Any:
        """Return the value of an expression in the page; a promise is awaited."""
        said = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def until(self, script: str, seconds: float = UNTIL_SECONDS_MAX) -> None:
        """Wait until an expression holds."""
        eventually_sync(lambda: bool(self.value(script)), seconds)

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press and release a key: a letter, or Enter, Escape, Backspace, Tab."""
        code, number, typed = _NAMED.get(key, (f"Key{key.upper()}", ord(key.upper()[0]), key))
        typed = "" if modifiers else typed
        what = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers}
        self.ask("Input.dispatchKeyEvent", type="keyDown" if typed else "rawKeyDown", text=typed, **what)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **what)

    def type(self, text: str) -> None:
        """Type a text, key by key."""
        for key in text:
            self.press(key)

    def look(self, *, width: int, height: int, dark: bool = False) -> None:
        """Give the page a size and a colour scheme."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> None:
        """Write a screenshot as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[str]:
        """Return the errors of the page's scripts and its content security policy."""
        found = []
        for event in self._mine():
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(event["params"]["exceptionDetails"]))
            if event["method"] == "Log.entryAdded" and event["params"]["entry"]["source"] != "network":
                found.append(event["params"]["entry"]["text"])
        return found

    def addresses(self) -> list[str]:
        """Return all requested addresses."""
        wanted = "Network.requestWillBeSent"
        return [each["params"]["request"]["url"] for each in self._mine() if each["method"] == wanted]

    def _mine(self) -> list[dict[str, Any]]:
        return [event for event in list(self._browser.events) if event.get("sessionId") == self._session]

    def _count(self, method: str) -> int:
        return sum(event["method"] == method for event in self._mine())
