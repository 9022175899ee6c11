"""A repository of updates as an uplink sees it, and a site that mirrors it. The metadata is written by hand, unsigned:
a mirror has no keys.

repository = Repository()
digest = repository.blob(b"weights")
repository.publish()
case = UpdateCase(tmp_path, repository.lay(tmp_path / "repository"))
case.want(digest); case.once()
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edge_agent.errors import EdgeAgentError
from edge_agent.formats import repository_metadata
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.uplink.exchange_dirs import IncomingDir
from edge_agent.uplink.store_backends import open_examples_store, open_updates_store
from edge_agent.uplink.transfer_loop import TransferLoop, TransferTargets
from edge_agent.uplink.update_download import UpdateDownloader
from tests.support.answering_server import AnsweringServer
from tests.support.examples import NOW
from tests.support.uplink_cases import UplinkCase

CHUNK = 4096


def sha256(content: bytes) -> str:
    """Return the name of a blob."""
    return hashlib.sha256(content).hexdigest()


def rubbish(count: int, seed: int = 1) -> bytes:
    """Return incompressible bytes."""
    return random.Random(seed).randbytes(count)


class Repository:
    """Objects by key, as `edge-convert publish` lays them out."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.version = 0
        self.roots = 0
        self.plan = b""
        self.rotate()

    def rotate(self) -> None:
        """Publish another root."""
        self.roots += 1
        self._metadata(f"{self.roots}.root.json", {"_type": "root", "version": self.roots})

    def blob(self, content: bytes) -> str:
        """Publish a blob; return its name."""
        self.objects[f"blobs/{sha256(content)}"] = content
        return sha256(content)

    def publish(self, *, hashed: bool = True, targets_bytes: int = 100) -> None:
        """Publish metadata with a new plan; `hashed` = each file says the hash of the next."""
        self.version += 1
        self.plan = f'{{"version": {self.version}}}'.encode()
        blob = {"length": len(self.plan), "hashes": {"sha256": self.blob(self.plan)}}
        files = {
            "targets.json": {"_type": "targets", "targets": {}, "padding": "x" * targets_bytes},
            "plan.json": {"_type": "targets", "targets": {"plan.json": blob}},
        }
        meta = {}
        for name, signed in files.items():
            raw = self._metadata(f"{self.version}.{name}", {**signed, "version": self.version})
            meta[name] = self._entry(raw, hashed=hashed)
        snapshot = {"_type": "snapshot", "version": self.version, "meta": meta}
        raw = self._metadata(f"{self.version}.snapshot.json", snapshot)
        entry = {"snapshot.json": self._entry(raw, hashed=hashed)}
        self._metadata("timestamp.json", {"_type": "timestamp", "version": self.version, "meta": entry})

    def release(self) -> dict[str, bytes]:
        """Return the newest metadata by key, without roots, and its plan."""
        names = [f"{self.version}.{role}.json" for role in ("snapshot", "targets", "plan")]
        keys = [f"metadata/{name}" for name in (*names, "timestamp.json")]
        return {key: self.objects[key] for key in (*keys, f"blobs/{sha256(self.plan)}")}

    def lay(self, folder: Path) -> str:
        """Write all of it into a folder; return its path."""
        for key, content in self.objects.items():
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(content)
        return str(folder)

    def serve(self, objects: dict[str, bytes], prefix: str = "/fleet/") -> None:
        """Put all of it into the objects of a server."""
        objects.update({prefix + key: content for key, content in self.objects.items()})

    def _metadata(self, name: str, signed: dict[str, Any]) -> bytes:
        raw = json.dumps({"signatures": [], "signed": signed}).encode()
        self.objects[f"metadata/{name}"] = raw
        return raw

    def _entry(self, raw: bytes, *, hashed: bool) -> dict[str, Any]:
        entry: dict[str, Any] = {"version": self.version}
        return {**entry, "length": len(raw), "hashes": {"sha256": sha256(raw)}} if hashed else entry


class UpdateCase(UplinkCase):
    """A site that mirrors a repository; without `url` it sends nothing."""

    def __init__(self, folder: Path, updates_url: str, options: dict[str, str] | None = None, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.incoming = folder / "incoming"
        secrets = {name: value for name, value in (options or {}).items() if "key" in name}
        if secrets:
            path = folder / "updates.yaml"
            path.unlink(missing_ok=True)
            path.write_text("".join(f"{name}: '{value}'\n" for name, value in secrets.items()))
            path.chmod(0o400)
            settings["updates_credentials_file"] = str(path)
        plain = {name: value for name, value in (options or {}).items() if name not in secrets}
        small = {"chunk_bytes": CHUNK, "disk_reserve_bytes": 0, "updates_url": updates_url, "updates_options": plain}
        super().__init__(folder, settings.pop("url", ""), settings.pop("upload_options", None), **{**small, **settings})

    def places(self) -> TransferTargets:
        """Return the repository and the incoming directory as transfer targets."""
        repository = open_updates_store(self.config)
        assert repository
        incoming = IncomingDir(self.incoming)
        return TransferTargets(
            open_examples_store(self.config), UpdateDownloader(self.config, incoming, self.wants_path, repository)
        )

    @property
    def wants_path(self) -> Path:
        """The path of the daemon's download requests."""
        return self.outbox / repository_metadata.FILE_NAME

    def want(self, *blobs: bytes, **said: Any) -> None:
        """Ask for blobs, as the daemon does."""
        self.want_sizes([(sha256(blob), len(blob)) for blob in blobs], **said)

    def want_sizes(self, blobs: Iterable[tuple[str, int]], **said: Any) -> None:
        """Ask for blobs by name and size."""
        asked = tuple(repository_metadata.DownloadRequest(sha256=name, size_bytes=size) for name, size in blobs)
        self.wants_path.write_bytes(
            repository_metadata.encode(
                repository_metadata.DownloadRequests(at=format_timestamp(NOW), blobs=asked, **said)
            )
        )

    def arrived(self) -> dict[str, bytes]:
        """Return all files in incoming/ by key; partial downloads have their hidden names."""
        files = [path for path in self.incoming.rglob("*") if path.is_file()]
        return {path.relative_to(self.incoming).as_posix(): path.read_bytes() for path in files}

    def problems(self) -> dict[str, str]:
        """Return the reasons of the problems, by their subject."""
        return {each.about: each.reason for each in self.state().problems}


WEIGHTS, ADAPTER = rubbish(10 * CHUNK + 77), rubbish(500, 2)


def published() -> Repository:
    """Return a repository with two blobs."""
    made = Repository()
    made.blob(WEIGHTS)
    made.blob(ADAPTER)
    made.publish()
    return made


def site_of(server: AnsweringServer, repository: Repository, folder: Path, **settings: object) -> UpdateCase:
    """Return a site that mirrors the repository over HTTP and wants both blobs."""
    repository.serve(server.objects)
    folder.mkdir(exist_ok=True)
    options = {"allow_http": "true"}
    case = UpdateCase(folder, f"{server.address}/fleet", options, **{"request_seconds_max": 0.5, **settings})
    case.want(ADAPTER, WEIGHTS)
    return case


def failure(case: UpdateCase) -> EdgeAgentError | None:
    """Run the uplink once; return its error."""
    try:
        case.once()
    except EdgeAgentError as error:
        return error
    return None


def everything(repository: Repository) -> dict[str, bytes]:
    """Return what should be in incoming/."""
    roots = {key: raw for key, raw in repository.objects.items() if key.endswith("root.json")}
    return {**roots, **repository.release(), f"blobs/{sha256(WEIGHTS)}": WEIGHTS, f"blobs/{sha256(ADAPTER)}": ADAPTER}


async def idle(mirror: TransferLoop) -> None:
    """Run the uplink until it waits."""
    while (await mirror.step()).kind != "wait":
        pass
