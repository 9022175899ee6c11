"""The console as a process next to a real daemon, with the requests of a browser and of a program.

with RunningDaemon(tmp_path, examples=…) as daemon, RunningConsole(daemon) as console:
    console.get("/").text
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import yaml

from edge_agent.client import CallFailed, ReviewClient
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.free_ports import free_port

ANSWER_SECONDS_MAX = 60.0
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 60.0


@dataclass(frozen=True)
class PageResponse:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    text: str
    cookies: tuple[str, ...]


class RunningConsole:
    """Started and answering inside the block; ended by SIGTERM after it. `settings` is the section `web`."""

    def __init__(self, daemon: RunningDaemon, **settings: Any) -> None:
        """Note what to start."""
        self.daemon = daemon
        self.port = free_port()
        folder = daemon.state_dir.parent
        self.token_file = folder / "web" / "token"
        self.log = folder / f"web-{self.port}.log"
        self.config = folder / f"web-{self.port}.yaml"
        self.address = f"127.0.0.1:{self.port}"
        self.scheme = "https" if "certificate_file" in settings else "http"
        self.context: ssl.SSLContext | None = None
        """With what a visitor comes where certificates are wanted."""
        plain = {"address": self.address, "token_file": str(self.token_file), **settings}
        access = yaml.safe_load((folder / "agent.yaml").read_text()).get("access", {})
        self.config.write_text(yaml.safe_dump({"web": plain, "access": access}))
        self.process: subprocess.Popen[bytes] | None = None
        self._cookie = ""

    def __enter__(self) -> Self:
        """Start it, and wait until it answers."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        assert self.stop() in (0, -signal.SIGTERM, -signal.SIGKILL), self.log.read_text()

    def command(self) -> list[str]:
        """Return the command line."""
        [python, *module] = self.daemon.command()[:3]
        places = ["--config", self.config, "--run-dir", self.daemon.run_dir]
        return [python, *module, *map(str, places), "serve", "web"]

    def start(self) -> None:
        """Start the process, and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, env=dict(os.environ))
        eventually_sync(self._answers, START_SECONDS_MAX)

    def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(STOP_SECONDS_MAX)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{self.scheme}://{self.address}"

    @property
    def link(self) -> str:
        """The address that lets a browser in."""
        return f"{self.url}/login?token={self.token_file.read_text().strip()}"

    def reviews(self) -> ReviewClient:
        """Return a reviewer's client of the daemon itself."""
        return ReviewClient(f"unix:{self.daemon.run_dir}/review.sock")

    def sign_in(self) -> None:
        """Sign in as a browser does, by the link."""
        got = self.get(self.link.removeprefix(self.url))
        assert got.status == 303, got
        self._cookie = got.cookies[0].partition(";")[0]

    def get(self, path: str, **headers: str) -> PageResponse:
        """Ask for a page."""
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, fields: Mapping[str, str], **headers: str) -> PageResponse:
        """Send a form as a page of the console does, with the page's key (X-Page-Key)."""
        key = re.search(r'"X-Page-Key": "(\w+)"', self.get("/").text)
        form = {"content-type": "application/x-www-form-urlencoded", "hx-request": "true"}
        ours = {"x-page-key": key[1], "origin": self.url} if key else {}
        return self.ask("POST", path, urlencode(fields), {**form, **ours, **headers})

    def ask(
        self, method: str, path: str, body: str | None = None, headers: Mapping[str, str] | None = None
    ) -> PageResponse:
        """Send one request."""
        cookie = {"cookie": self._cookie} if self._cookie else {}
        given = {name.replace("_", "-"): said for name, said in (headers or {}).items()}
        with contextlib.closing(self._connection()) as connection:
            connection.request(method, path, body, {**cookie, **given})
            answer = connection.getresponse()
            text = answer.read().decode()
            cookies = tuple(answer.headers.get_all("set-cookie") or ())
            return PageResponse(
                answer.status, {name.lower(): said for name, said in answer.getheaders()}, text, cookies
            )

    def remember(self, cookie: str) -> None:
        """Add a cookie to those that the browser sends."""
        self._cookie = "; ".join(filter(None, [self._cookie, cookie]))

    def _connection(self) -> http.client.HTTPConnection:
        if self.scheme == "https":
            return http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=ANSWER_SECONDS_MAX, context=self.context or _curious()
            )
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS_MAX)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.get("/healthz").status == 200
        except (ssl.SSLError, BrokenPipeError, ConnectionResetError):
            return self.scheme == "https"  # it wants a certificate; Python 3.13 has another error for it than 3.11
        except OSError:
            return False


def _curious() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def said_of(console: RunningConsole, prediction_id: str) -> list[tuple[str, str, str]]:
    """Return the labels that the daemon stores for an answer, with their sources."""
    with console.reviews() as client:
        return [(one.reviewer, one.verdict, one.value) for one in client.prediction(prediction_id).feedback]


def queue_of(console: RunningConsole, task: str = "") -> list[str]:
    """Return the review queue of the daemon itself, in its order."""
    with console.reviews() as client:
        return [each.prediction_id for each in client.queue(task)]


def is_kept(console: RunningConsole, prediction_id: str) -> bool:
    """Return whether an answer is in the spool."""
    try:
        return bool(said_of(console, prediction_id) is not None)
    except CallFailed:
        return False
