"""An uplink for tests: an outbox with sealed segments, an upstream, and what arrived there.

case = UplinkCase(tmp_path, url)
case.seal(3); case.once()
assert case.outbox_files() == case.uploaded()
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import obstore

from edge_agent.config import UplinkConfig
from edge_agent.formats import segment, status_object, uplink_state
from edge_agent.formats.signed_document import format_timestamp, sign
from edge_agent.uplink.exchange_dirs import ExchangeDirs
from edge_agent.uplink.store_backends import BucketStore, open_examples_store
from edge_agent.uplink.transfer_loop import TransferLoop, TransferTargets
from edge_agent.uplink.transfer_schedule import Clocks
from edge_agent.uplink.upload import UploadLog
from tests.support.examples import CENTRAL_KEY, EPOCH, NOW, RECIPIENT, SITE_KEY, segment_manifest

SITE = "site-1"
PREFIX = f"site={SITE}/"
PATIENT = {"request_seconds_max": 5, "retry_seconds_first": 0.01, "retry_seconds_max": 0.05}


class Clock:
    """Two clocks that a test advances; jitter in the middle."""

    def __init__(self) -> None:
        self.wall, self.running = NOW, 1000.0

    def clocks(self) -> Clocks:
        """Return them as the uplink takes them."""
        return Clocks(lambda: self.wall, lambda: self.running, lambda: 0.5)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.running += seconds


class UplinkCase:
    """One site's exchange directories and its uplink. `settings` are keys of the section `uplink`."""

    def __init__(self, folder: Path, url: str, options: dict[str, str] | None = None, **settings: Any) -> None:
        self.folder = folder
        self.outbox, self.receipts, self.notes = (folder / name for name in ("outbox", "receipts", "uplink"))
        (self.outbox / "segments").mkdir(parents=True, exist_ok=True)
        self.receipts.mkdir(exist_ok=True)
        self.config = self.configured(url, options or {}, **settings)
        self.clock: Clock | None = None
        self.sealed = 0
        self._previous = ""

    def configured(self, url: str, options: dict[str, str], **settings: Any) -> UplinkConfig:
        """Write the credential file, and return the section."""
        secrets = {name: value for name, value in options.items() if "key" in name or name == "authorization"}
        plain = {name: value for name, value in options.items() if name not in secrets}
        if secrets:
            path = self.folder / "credentials.yaml"
            path.write_text("".join(f"{name}: '{value}'\n" for name, value in secrets.items()))
            path.chmod(0o400)
            settings["credentials_file"] = str(path)
        return UplinkConfig(url=url, options=plain, **{**PATIENT, **settings})

    def seal(self, count: int = 1, bytes_each: int = 3000) -> list[str]:
        """Lay sealed segments into the outbox as the daemon does, and a new status object; return their names."""
        stems = [self._seal_one(bytes_each) for _ in range(count)]
        self.say()
        return stems

    def say(self, at: float = NOW, site: str = SITE) -> None:
        """Write the status object."""
        plain = {
            "site": site,
            "at": format_timestamp(at),
            "agent_version": "0",
            "epoch": EPOCH,
            "highest": {EPOCH: self.sealed},
        }
        (self.outbox / "status.json").write_bytes(sign(status_object.SiteStatus.model_validate(plain), SITE_KEY))

    def opened(self) -> tuple[TransferLoop, UploadLog]:
        """Return an uplink and its notes, which the caller closes."""
        places = self.places()
        notes = UploadLog(self.notes, places.name)
        clocks = self.clock.clocks() if self.clock else None
        return TransferLoop(self.config, ExchangeDirs(SITE, self.outbox, self.receipts), places, notes, clocks), notes

    def places(self) -> TransferTargets:
        """Return where its uplink goes."""
        return TransferTargets(open_examples_store(self.config))

    def once(self) -> None:
        """Do what is due, as `uplink --once` does."""
        mirror, notes = self.opened()
        with notes:
            asyncio.run(mirror.once())

    def outbox_files(self) -> dict[str, bytes]:
        """Return what should arrive: every file in the outbox, by key."""
        names = [path for path in self.outbox.rglob("*") if path.is_file()]
        return {PREFIX + path.relative_to(self.outbox).as_posix(): path.read_bytes() for path in names}

    def uploaded(self) -> dict[str, bytes]:
        """Return what has arrived, receipts aside, asked of the store itself."""
        return {key: content for key, content in self._everything().items() if not key.endswith("receipts.json")}

    def put(self, key: str, content: bytes) -> None:
        """Put an object into the store, as another writer would."""
        if "://" in self.config.url:
            obstore.put(self._bucket(), key, content, use_multipart=False)
            return
        path = Path(self.config.url, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def remove(self, key: str) -> None:
        """Remove an object from the store."""
        if "://" in self.config.url:
            obstore.delete(self._bucket(), key)
        else:
            Path(self.config.url, key).unlink()

    def state(self) -> uplink_state.UplinkState:
        """Read the state that the uplink reports."""
        return uplink_state.parse((self.notes / uplink_state.FILE_NAME).read_bytes())

    def noted(self) -> int:
        """Return how many segments are noted as uploaded."""
        return (self.notes / "uploaded.jsonl").read_bytes().count(b'"segment"')

    def noted_keys(self) -> set[str]:
        """Return the keys of the objects that are noted as uploaded."""
        stems = [json.loads(line)["segment"] for line in (self.notes / "uploaded.jsonl").read_text().splitlines()[1:]]
        return {f"{PREFIX}segments/{stem}.{suffix}" for stem in stems for suffix in ("age", "json")}

    def _bucket(self) -> Any:
        """Return the library's store, beneath the uplink's own."""
        opened = open_examples_store(self.config)
        assert isinstance(opened, BucketStore)
        return opened._store

    def _everything(self) -> dict[str, bytes]:
        if "://" not in self.config.url:
            root, found = Path(self.config.url), {}
            for path in (each for each in root.rglob("*") if each.is_file()):
                # Files are laid down under another name and renamed, maybe between the listing and the reading.
                with contextlib.suppress(FileNotFoundError):
                    found[path.relative_to(root).as_posix()] = path.read_bytes()
            return found
        store = self._bucket()
        keys = [each["path"] for page in obstore.list(store) for each in page]
        return {key: bytes(obstore.get(store, key).bytes()) for key in keys}

    def _seal_one(self, bytes_each: int) -> str:
        self.sealed += 1
        stem = segment.name_of(EPOCH, self.sealed)
        sealed = random.Random(self.sealed).randbytes(bytes_each)
        changes = {"sha256": hashlib.sha256(sealed).hexdigest(), "size_bytes": bytes_each, "recipients": [RECIPIENT]}
        raw = sign(segment_manifest(self.sealed, previous=self._previous, site=SITE, **changes), SITE_KEY)
        self._previous = hashlib.sha256(raw).hexdigest()
        (self.outbox / "segments" / f"{stem}.age").write_bytes(sealed)
        (self.outbox / "segments" / f"{stem}.json").write_bytes(raw)
        return stem


def signed_receipts(site: str = SITE, at: float = NOW) -> bytes:
    """Return receipts of the central team."""
    return sign(segment.Receipts.model_validate({"site": site, "at": format_timestamp(at)}), CENTRAL_KEY)
