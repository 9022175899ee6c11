"""A daemon on which every call can succeed, and the fuzzing of its calls: hints for valid fields, and the results.

with fuzzed(tmp_path) as daemon:
    found = fuzz(daemon, method, cases=100)
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import strategies as st

from edge_agent.client import Classification
from edge_agent.process_resources import resident_bytes
from tests.support.bundles import digest_of, echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.examples import RECIPIENT
from tests.support.fleet_cases import CentralTeam
from tests.support.fuzzing import each_of
from tests.support.hostile_calls import CallEnd, call
from tests.support.hostile_messages import Hints, hostile
from tests.support.open_inference import hints as open_inference_hints
from tests.support.rpcs import METHODS
from tests.support.store_cases import tar_of

LABELS = ("refund", "price")
LIMITS = {"limits": {"input_tokens_max": 1000, "output_tokens_max": 50}}
FEEDBACK = "edge_agent.v1.FeedbackService"
KINDS = ("classify", "extract", "generate", "embed")
TASKS: dict[str, Hints] = {
    **{kind.title(): {"task": [kind, kind, kind, "steady"]} for kind in KINDS},
    "RemoveBundle": {"task": ["victim", "nobody"]},
    **{f"Model{what}": {"name": KINDS, "version": ["", "1000000"]} for what in ("Ready", "Metadata", "Config")},
    "ModelStatistics": {"name": [*KINDS, ""], "version": ["", "1000000"]},
    "ModelInfer": open_inference_hints(KINDS),
    "ModelStreamInfer": open_inference_hints(KINDS),
}
"""By call, what it is made for; and what it may take away."""
MESSAGES_MAX = 4
"""In one call that takes several: what comes after a message that fails is to be answered like any other."""
LAST = "edge_agent.v1.AdminService.Drain"
"""It does what it says, whatever is sent along: nothing can be asked afterwards."""


@dataclass
class FuzzedDaemon:
    """A daemon that is fuzzed."""

    daemon: RunningDaemon
    hints: Hints
    channels: dict[str, grpc.Channel]
    """By the service that is reached there; "" = all others."""

    def channel(self, method: MethodDescriptor) -> grpc.Channel:
        """Return the channel on which a method is served."""
        return self.channels.get(method.containing_service.full_name, self.channels[""])

    def well(self) -> str:
        """Return the state that differs from the start; empty = none."""
        with self.daemon.client() as client, self.daemon.admin() as admin:
            [answer] = client.classify("steady", ["a refund, please"])
            right = isinstance(answer, Classification) and answer.label == "refund"
            restarts = sum(engine.restarts for engine in admin.status().engines)
        return "" if right and not restarts else f"answered {answer}, and engines were restarted {restarts} times"

    def resident_bytes(self) -> int:
        """Return the resident memory of the daemon, in bytes."""
        assert self.daemon.process is not None
        return resident_bytes(self.daemon.process.pid)


@dataclass
class FuzzResults:
    """The results of the cases so far."""

    cases: int = 0
    messages: int = 0
    """In all of them."""
    ended: Counter[str] = field(default_factory=Counter)
    """By the name of the format or call, and how they ended."""
    defects: list[str] = field(default_factory=list)

    def add(self, name: str, how: str, defect: str, *case: bytes) -> None:
        """Count one case, which may be of several messages."""
        self.cases += 1
        self.messages += len(case)
        self.ended[f"{name} {how}"] += 1
        if defect:
            shown = ", ".join(f"{each[:200].hex()} ({len(each)} bytes)" for each in case)
            self.defects.append(f"{name}: {defect}; case {shown}")


@contextlib.contextmanager
def fuzzed(folder: Path) -> Iterator[FuzzedDaemon]:
    """Start a daemon with a task of each kind, with examples, updates, and a prediction to speak of."""
    central = CentralTeam(folder / "central")
    anchor = folder / "root.json"
    anchor.write_bytes(central.root_bytes)
    tasks = {name: echo_bundle(folder / name, name, name, **_more(name)) for name in ("extract", "generate", "embed")}
    versions = [echo_bundle(folder / v, "classify", labels=LABELS, version=v, task=LIMITS) for v in ("1.0.0", "2.0.0")]
    steady = echo_bundle(folder / "steady", "steady", labels=LABELS, weights=b"steady")
    victim = echo_bundle(folder / "victim", "victim", labels=LABELS)
    settings = {
        "examples": {"collect": dict.fromkeys(["classify", "extract", "generate"], "local"), "disk_reserve_bytes": 0},
        "site": {"id": "shop-1", "recipients": [RECIPIENT]},
        "update": {"root_file": str(anchor)},
    }
    with RunningDaemon(folder / "site", **settings) as daemon:
        daemon.install(*tasks.values(), *versions, steady, victim)
        paths = [victim, tar_of(victim, folder / "victim.tar"), anchor, central.folder, Path("/dev/null"), folder]
        hints = {
            "task": ["classify", "extract", "generate", "embed"],
            "bundle": ["1.0.0", "2.0.0", digest_of(versions[0]), digest_of(versions[1])[:12]],
            "texts": ["a refund of 12", "the price"],
            "text": ["one two three"],
            "path": [str(path) for path in paths],
            "prediction_id": _predictions(daemon),
            "reviewer": ["anna"],
            "corrected_label": ["price"],
            "corrected_json": ['{"product": "lamp"}'],
            "corrected_text": ["four"],
            "service": ["classify", ""],
            "page_token": ["1", "P_AAAAAAAAAAAAAAAAAAAQ=="],
            "file_by_filename": ["edge_agent/v1/admin.proto"],
            "file_containing_symbol": ["edge_agent.v1.AdminService"],
            "all_extension_numbers_of_type": ["google.protobuf.MethodOptions"],
        }
        with grpc.insecure_channel(daemon.admin_target) as admin, grpc.insecure_channel(_review(daemon)) as review:
            yield FuzzedDaemon(daemon, hints, {"": admin, FEEDBACK: review})


def methods() -> list[MethodDescriptor]:
    """Return all calls, the one after which no other can be made as the last."""
    return sorted(METHODS, key=lambda method: method.full_name == LAST)


def fuzz(at: FuzzedDaemon, method: MethodDescriptor, cases: int, begin: int, found: FuzzResults) -> None:
    """Make a call that many times, with a hostile message, or with up to four if it takes a stream."""
    channel, hints = at.channel(method), {**at.hints, **TASKS.get(method.name, {})}

    def one(messages: list[bytes]) -> None:
        ended: CallEnd = call(channel, method, *messages)
        found.add(method.name, f"{ended.code} {ended.reason}".strip(), ended.defect(method), *messages)

    message = hostile(method.input_type, hints)
    most = MESSAGES_MAX if method.client_streaming else 1
    each_of(st.lists(message, min_size=1, max_size=most), cases, begin, one)


def _more(kind: str) -> dict[str, Any]:
    return {"task": LIMITS} if kind == "generate" else {}


def _predictions(daemon: RunningDaemon) -> list[str]:
    with daemon.client() as client:
        given = client.classify("classify", ["a refund", "the price", "twelve lamps"])
        return [each.prediction_id for each in given if isinstance(each, Classification)]


def _review(daemon: RunningDaemon) -> str:
    return f"unix:{daemon.run_dir}/review.sock"
