"""A daemon and `edge-agent serve web` in front of it, as processes: the server side for clients of the gateway.

with gateway_site(tmp_path, echo_bundle(...), ...) as site, site.openai() as client:
    client.models.list()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, OpenAI

from tests.support.daemon import RunningDaemon
from tests.support.web_console import RunningConsole


@dataclass(frozen=True)
class GatewaySite:
    """The daemon and the console of a gateway."""

    daemon: RunningDaemon
    console: RunningConsole

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"{self.console.url}/v1"

    @property
    def token(self) -> str:
        """The API key for clients."""
        return self.console.token_file.read_text().strip()

    def openai(self, **more: Any) -> OpenAI:
        """Return the official client."""
        return OpenAI(base_url=self.url, **{"api_key": self.token, "max_retries": 0, **more})

    def openai_aio(self, **more: Any) -> AsyncOpenAI:
        """Likewise, for asyncio."""
        return AsyncOpenAI(base_url=self.url, **{"api_key": self.token, "max_retries": 0, **more})


@contextmanager
def gateway_site(folder: Path, *bundles: Path, **settings: Any) -> Iterator[GatewaySite]:
    """Start both with the bundles installed; stop both and require a clean exit."""
    with RunningDaemon(folder, **settings) as daemon:
        daemon.install(*bundles)
        with RunningConsole(daemon) as console:
            yield GatewaySite(daemon, console)
