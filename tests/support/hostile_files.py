"""The files that serve reads, each with hostile variants and with serve's reader.

for each in formats(tmp_path):
    fuzz_file(each, cases=100, begin=0, found)

A reader may raise an EdgeAgentError: those have a reason, a sentence and a remedy. Anything else is a defect.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from edge_agent import config
from edge_agent.capture.outbox import load_site_key
from edge_agent.config import Config
from edge_agent.engine.runtimes.llama import gguf_header
from edge_agent.errors import EdgeAgentError
from edge_agent.errors.base import CONTROL_CHARACTERS
from edge_agent.formats import golden_cases, manifest, plan, segment
from edge_agent.formats.repository_metadata import DownloadRequest, DownloadRequests, encode
from edge_agent.formats.signed_document import format_timestamp, public_key_hex, sign
from edge_agent.server.uplink_client import uplink_message
from edge_agent.store import bundle_archive
from edge_agent.update.ingest import BundleIngest
from tests.support.bundles import RECORD_SCHEMA
from tests.support.examples import CENTRAL_KEY, DIGEST, EPOCH, NOW, SITE_KEY, segment_manifest
from tests.support.fuzz.mutations import checksummed
from tests.support.fuzzed_daemon import FuzzResults
from tests.support.fuzzing import each_of
from tests.support.gguf_head import gguf
from tests.support.hostile_bytes import documents, edits, torn
from tests.support.store_cases import GOLDEN, LIMITS, bundle, tar_of

READ_SECONDS_MAX = 20.0
TIMERS = {False: (signal.ITIMER_REAL, signal.SIGALRM), True: (signal.ITIMER_PROF, signal.SIGPROF)}
KEYS = {public_key_hex(CENTRAL_KEY), public_key_hex(SITE_KEY)}


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    name: str
    cases: st.SearchStrategy[Any]
    read: Callable[[Any], object]
    share: int = 4
    """Of the cases; a format that takes longer gets fewer."""


class ReaderHung(BaseException):
    """A reader that does not end in time."""


def fuzz_file(kind: Format, cases: int, begin: int, found: FuzzResults) -> None:
    """Read that many hostile files of a kind with serve's own code."""

    def one(case: Any) -> None:
        how, defect = outcome(kind.read, case)
        found.add(kind.name, how, defect, case if isinstance(case, bytes) else repr(case).encode("utf-8", "replace"))

    each_of(kind.cases, cases, begin, one)


def outcome(
    read: Callable[[Any], object], case: Any, seconds_max: float = READ_SECONDS_MAX, *, processor: bool = False
) -> tuple[str, str]:
    """Return how reading ended, and its defect; `processor` limits processor time instead of elapsed time."""
    timer, signum = TIMERS[processor]
    before = signal.signal(signum, _hung)
    signal.setitimer(timer, seconds_max)
    try:
        read(case)
    except EdgeAgentError as error:
        sound = error.message and not CONTROL_CHARACTERS.search(error.message)
        return error.reason, "" if sound else f"the sentence of {error.reason} is none: {ascii(error.message)[:200]}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - Rust's panics are no Exceptions
        return type(error).__name__, f"{type(error).__name__}: {ascii(str(error))[:300]}"
    finally:
        signal.setitimer(timer, 0)
        signal.signal(signum, before)
    return "read", ""


def _hung(*_: object) -> None:
    raise ReaderHung("not read within the time that there is")


def formats(folder: Path) -> Iterator[Format]:
    """Yield the formats; `folder` is where their readers work."""
    yield Format("manifest.json", documents(*manifests()), manifest.parse, 8)
    yield Format("golden file", _lines(), golden_cases.parse)
    yield Format("plan.json", documents(a_plan()), plan.parse, 8)
    yield _signed("receipts.json", some_receipts(), lambda raw: segment.verify_receipts(raw, KEYS))
    stem = segment.name_of(EPOCH, 1)
    yield _signed(f"{stem}.json", segment_manifest(), lambda raw: segment.verify(raw, stem, KEYS))
    for make in (_uplink_json, _wants_json, _agent_yaml, _site_yaml, _site_key, _gguf, _tar, _bundle_folder):
        place = folder / make.__name__.strip("_")
        place.mkdir(parents=True, exist_ok=True)
        yield make(place)


# --- documents --------------------------------------------------------------------------------------------------------


def manifests() -> list[Any]:
    echo = {"name": "pos-intent", "kind": "classify", "labels": ["refund", "price"], "limits": {"inputs_max": 4}}
    weights = {"role": "weights", "path": "model.gguf", "sha256": "0" * 64, "size_bytes": 1}
    whole = {
        "schema": manifest.SCHEMA,
        "version": "1.2.0-rc.1",
        "runtime": "echo",
        "task": {**echo, "prompt": {"template": "a {input} b", "stops": ["x"], "temperature": 0.5}},
        "artifacts": [weights, {**weights, "role": "golden", "path": "g.jsonl"}],
        "engine": {"context_tokens": 512, "quantization": {"type": "Q4_0", "bits_per_weight": 4.5}},
        "confidence": {
            **{"policy": "threshold", "temperature": 1.5, "threshold": 0.8, "target_risk": 0.05, "delta": 0.1},
            **{"n": 100, "bound": 0.04, "coverage": 0.9, "novelty": {"label_mass_min": 0.1}, "floor": 0.5},
            "gate": {"score": "label_mass", "held_up_max": 0.25, "scores": [0.5, 1.5, 2.5]},
        },
        "provenance": {"base": "b", "licence": "MIT", "sources": {"a": "b"}, "converter": {"c": "d"}},
        "requires": {"agent": "0.1.0", "memory_bytes": 1000},
    }
    record = {"name": "visit", "kind": "extract", "record_schema": RECORD_SCHEMA, "pii_fields": ["product"]}
    return [whole, {**whole, "runtime": "llama", "task": record, "confidence": {"policy": "always_escalate"}}]


@st.composite
def _lines(draw: st.DrawFn) -> bytes:
    case = {"input": "a refund", "answer": "refund", "scores": [0.9, 0.1], "tolerance": 0.1, "report_only": True}
    case["ood_score"] = 1.5
    return b"\n".join(draw(st.lists(documents(case), min_size=1, max_size=3)))


def a_plan() -> Any:
    offer = {"bundle": DIGEST, "version": "1.0.0", "requires": {"memory_bytes_min": 1, "devices": ["cpu"]}}
    task = {
        **{
            "offers": [offer],
            "waves": [{"start": format_timestamp(NOW), "percent": 10}],
            "mode": "local",
            "halted": False,
        },
        **{"window": {"start": "22:00", "end": "04:00"}, "probation": {"calls": 5, "hours": 1}},
    }
    fleet = {"tasks": {"pos-intent": task}, "bytes_per_second_max": 5000}
    return {
        **{"schema": plan.SCHEMA, "version": 3, "issued_at": format_timestamp(NOW)},
        **{"channels": {"stable": fleet}, "sites": {"shop-1": fleet}},
    }


def some_receipts() -> segment.Receipts:
    span = segment.ReceiptRange(first=1, last=3, manifest_sha256=DIGEST)
    refused = segment.RefusedSegment(sequence=4, manifest_sha256=DIGEST, why="damaged")
    epoch = segment.EpochReceipts(epoch=EPOCH, received=(span,), refused=(refused,))
    return segment.Receipts(site="site-1", at=format_timestamp(NOW), epochs=(epoch,))


def _signed(name: str, body: Any, read: Callable[[bytes], object]) -> Format:
    """Documents whose body was changed after signing, or before it by an attacker with the key."""
    plain = body.model_dump(mode="json", by_alias=True)
    changed_after = documents(json.loads(sign(body, CENTRAL_KEY)))
    return Format(name, changed_after | edits(plain).map(signed_by_the_central_team), read, 6)


def signed_by_the_central_team(body: Any) -> bytes:
    try:
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, TypeError):  # what has no canonical bytes, nobody can sign
        canonical = b""
    document = {"body": body, "key": public_key_hex(CENTRAL_KEY), "signature": CENTRAL_KEY.sign(canonical).hex()}
    try:
        return json.dumps(document).encode()
    except ValueError:
        return b'{"body": {"at": ' + b"9" * 5000 + b"}}"


# --- files of this machine --------------------------------------------------------------------------------------------


def _uplink_json(place: Path) -> Format:
    downloads = {
        **{"repository": "s3://a/b", "state": "online", "since": format_timestamp(NOW), "waiting_blobs": 1},
        **{"waiting_bytes": 2, "fetched_blobs": 3, "fetched_bytes": 4, "refreshed_at": format_timestamp(NOW)},
    }
    state = {
        **{
            "schema": "edge-agent/uplink/v1",
            "pid": 1,
            "version": "0.1.0",
            "upstream": "s3://a",
            "at": format_timestamp(NOW),
        },
        **{
            "running_seconds": 12.5,
            "state": "offline",
            "since": format_timestamp(NOW),
            "retry_at": format_timestamp(NOW),
        },
        **{"failures": 3, "waiting_segments": 1, "waiting_bytes": 2, "sent_segments": 3, "sent_bytes": 4},
        **{"downloads": downloads, "problems": [{"reason": "DISK_FULL", "message": "m", "remedy": "r", "about": "a"}]},
    }
    settings = Config(state_dir=place)
    file = settings.uplink_notes / "uplink.json"
    file.parent.mkdir()

    def read(raw: bytes) -> None:
        file.write_bytes(raw)
        message = uplink_message(settings)
        assert message is not None
        message.SerializeToString()

    return Format("uplink.json", documents(state), read)


def _wants_json(place: Path) -> Format:
    blobs = (DownloadRequest(sha256=DIGEST, size_bytes=10),)
    wants = DownloadRequests(at=format_timestamp(NOW), blobs=blobs, bytes_per_second_max=5000, root_version=1)
    settings = Config(state_dir=place)
    settings.wants.parent.mkdir()

    def read(raw: bytes) -> None:
        settings.wants.write_bytes(raw)
        BundleIngest(settings, _nothing(), _nothing())

    return Format("wants.json", documents(json.loads(encode(wants))), read)


def _nothing() -> Any:
    """Replaces the dependencies that are not used when the download requests (wants.json) are read."""
    return None


TAGS = ("!!int ''", "!!float ''", "!!bool x", "!!timestamp x", "!!binary x", "!!set [1]", "!!omap [1]", "!!pairs x")
YAML = (
    *(f"log: {{level: {tag}}}\n" for tag in TAGS),
    "a: &a [*a]\nb: *a\n",
    "? {a: b}\n: c\n",
    "site: !!python/object/apply:os.system ['true']\n",
    'state_dir: "\\0"\n',
    'run_dir: "\\uD800"\n',
    "run_dir: 2026-02-30\n",
    "<<: [1]\n",
    "<<: {a: *b}\n",
    "--- a\n--- b\n",
    "%YAML 9.9\n---\na: b\n",
    "uplink: {url: 'http://[::1'}\n",
    "uplink: {url: '//@'}\n",
    "examples: {site_rules: {a: '('}}\n",
    "engine: {cpu_threads: 1_000, memory_bytes_max: 0x7fffffffffffffff, sequences_max: 010}\n",
)


def _agent_yaml(place: Path) -> Format:
    return _configuration("agent.yaml", place)


def _site_yaml(place: Path) -> Format:
    (place / "agent.yaml").write_text("log: {level: debug}\nsite: {id: shop-1}\n")
    return _configuration("site.yaml", place)


def _configuration(name: str, place: Path) -> Format:
    sound = Config().model_dump(mode="json")
    sound["examples"] |= {"collect": {"pos-intent": "local"}, "site_rules": {"loyalty": "LC[0-9]+"}}
    written = edits(sound).map(_as_yaml)

    def read(raw: bytes) -> None:
        (place / name).write_bytes(raw)
        config.load(place / "agent.yaml", environ={})

    return Format(name, st.one_of(written, written.flatmap(torn), st.sampled_from(YAML).map(str.encode)), read)


def _as_yaml(plain: Any) -> bytes:
    # JSON is YAML, and writing it is a hundred times faster; surrogates and NaN come out as YAML writes them.
    try:
        return json.dumps(plain).encode()
    except (ValueError, TypeError):
        return yaml.safe_dump(str(plain)[:1000]).encode()


def _site_key(place: Path) -> Format:
    load_site_key(place / "site.key")
    sound = (place / "site.key").read_bytes()

    def read(raw: bytes) -> None:
        (place / "site.key").write_bytes(raw)
        load_site_key(place / "site.key")

    return Format("site.key", torn(sound), read, 2)


def _gguf(place: Path) -> Format:
    def read(raw: bytes) -> None:
        (place / "model.gguf").write_bytes(raw)
        gguf_header.read_header(str(place / "model.gguf"))

    return Format("GGUF header", torn(gguf()), read, 6)


# --- bundles ----------------------------------------------------------------------------------------------------------


def _tar(place: Path) -> Format:
    sound = tar_of(bundle(place / "bundle", weights=b"w" * 600, golden=GOLDEN), place / "sound.tar").read_bytes()
    with_checksum = torn(sound).map(checksummed)

    def read(raw: bytes) -> None:
        (place / "bundle.tar").write_bytes(raw)
        _read_all(place / "bundle.tar")

    return Format("bundle as tar", torn(sound) | with_checksum, read, 6)


def _read_all(path: Path) -> None:
    with bundle_archive.open_bundle(path, LIMITS) as members:
        manifest.parse(bundle_archive.manifest_bytes(members))
        for member in members.values():
            for _ in member.chunks():
                pass


NAMES = (b"model.bin", b"..", b"a b", b"\xff\xfe", b"a\nb", b"-rf", b"x" * 255, "漢".encode(), b"manifest.json", b"*")
KINDS = ("file", "link", "dangling link", "folder", "pipe", "hard link")


def _bundle_folder(place: Path) -> Format:
    cases = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(KINDS)), max_size=4)
    made = iter(range(10**9))

    def read(entries: list[tuple[bytes, str]]) -> None:
        folder = bundle(place / str(next(made)), weights=b"w")
        for name, kind in entries:
            _put(folder / os.fsdecode(name), kind)
        _read_all(folder)

    return Format("bundle as folder", cases, read, 2)


def _put(path: Path, kind: str) -> None:
    if path.is_dir() and not path.is_symlink():
        return
    path.unlink(missing_ok=True)
    makers: dict[str, Callable[[], object]] = {
        "file": path.touch,
        "link": lambda: path.symlink_to("/etc/passwd"),
        "dangling link": lambda: path.symlink_to("/nowhere"),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "hard link": lambda: path.hardlink_to(path.with_name("weights.bin")),
    }
    makers[kind]()
