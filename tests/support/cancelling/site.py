"""A site whose daemon runs in this process, on this event loop: a task of each kind, examples, updates, a large model.

async with Site(folder) as site:
    outcome = await site.call(method, request)
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from contextlib import AsyncExitStack, ExitStack, closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import structlog
from google.protobuf.descriptor import MethodDescriptor

from edge_agent.config import Config
from edge_agent.daemon import Daemon
from edge_agent.formats import manifest
from edge_agent.store.bundle_archive import StoreLimits
from edge_agent.store.bundle_store import Store
from edge_agent.v1 import admin_pb2, escalation_pb2, escalation_pb2_grpc, inference_pb2
from tests.support import bert_onnx
from tests.support.bundles import digest_of, echo_bundle, write
from tests.support.cancelling.cancellation_points import CancellationPoint, CancellationPoints
from tests.support.cancelling.held_resources import HeldResources, held
from tests.support.eventually import eventually, eventually_answered
from tests.support.examples import RECIPIENT
from tests.support.fleet_cases import CentralTeam
from tests.support.hostile_calls import ended
from tests.support.rpcs import METHODS, path_of
from tests.support.update_sites import wanted

CALL_SECONDS_MAX = 60.0
"""A call of these takes milliseconds, and once 30 s beside three compilers: what takes this long hangs."""
LEAVE_SECONDS_MAX = 2.0
"""How long a cancelled handler gets to end before its client leaves over the socket, too."""
STOP_SECONDS_MAX = 60.0
SEQUENCES_MAX = 4
SIGN_OF_LIFE_SECONDS = 1.0
LABELS = ("refund", "price")
KINDS = ("decide", "extract", "generate", "embed")
ADMIN, INFERENCE = "edge_agent.v1.AdminService", "edge_agent.v1.InferenceService"
SOCKETS = {"edge_agent.v1.FeedbackService": "review.sock", INFERENCE: "inference.sock"}
"""Where a service is called; all others on admin.sock."""
METHOD = {method.full_name: method for method in METHODS}


@dataclass(frozen=True)
class Outcome:
    """How a call ended for its caller."""

    code: str
    """OK, CANCELLED, or that of its error."""
    reason: str = ""
    said: str = ""
    answers: tuple[bytes, ...] = ()


class LargeModel(escalation_pb2_grpc.EscalationServiceServicer):
    """An uplink that always answers: with a label if the request has a schema, otherwise with two pieces of text."""

    def __init__(self) -> None:
        self._ended = asyncio.Event()

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Report the large model as available repeatedly, so that it counts as alive."""
        while True:
            yield escalation_pb2.WatchResponse(online=True, affordable=True, free=True, model="oracle", usual_ms=1)
            with suppress(TimeoutError):
                async with asyncio.timeout(SIGN_OF_LIFE_SECONDS):
                    await self._ended.wait()

    async def Ask(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Answer."""
        pieces = [json.dumps({"label": LABELS[0]})] if request.answer_schema else ["one ", "two"]
        for piece in pieces:
            yield escalation_pb2.AskResponse(text=piece)
        yield escalation_pb2.AskResponse(finish=escalation_pb2.AskFinish(model="oracle", complete=True))


class Site:
    """See the module. `complaints` returns the errors logged since its last call."""

    def __init__(self, folder: Path) -> None:
        """Make bundles, a repository of updates, and a configuration."""
        self.folder = folder
        self.run_dir = Path("/tmp") / f"ea-{secrets.token_hex(4)}"
        self.central = CentralTeam(folder / "central")
        self.versions = [
            echo_bundle(folder / v, "classify", labels=LABELS, version=v) for v in ("1.0.0", "2.0.0", "3.0.0")
        ]
        self.spare = echo_bundle(folder / "spare", "spare", labels=LABELS)
        self.heavy = echo_bundle(folder / "heavy", "heavy", labels=LABELS, weights=b"heavy")
        self.heavy_text = echo_bundle(folder / "heavy-text", "heavy-text", "generate", weights=b"heavy")
        self.broken = _broken(folder / "broken")
        self.nothing = folder / "nothing"
        self.nothing.mkdir(parents=True)
        self.acknowledged: dict[str, int] = {}
        """Feedback that was acknowledged, by prediction."""
        self._complaints: list[str] = []
        self._opened = AsyncExitStack()
        self._closing = ExitStack()

    @cached_property
    def config(self) -> Config:
        """The configuration: only calls change the state, nothing is random, and examples reach the disk quickly."""
        anchor = self.folder / "root.json"
        anchor.write_bytes(self.central.root_bytes)
        collected = ("classify", "extract", "generate", "asked")
        return Config.model_validate(
            {
                "state_dir": self.folder / "state",
                "run_dir": self.run_dir,
                "store": {"allow_unsigned": True},
                "engine": {
                    "tune": False,
                    "sequences_max": SEQUENCES_MAX,
                    "load_failures_max": 1,
                    "restart_seconds_first": 0.05,
                    "quarantine_seconds": 0,
                },
                "metrics": {"address": ""},
                "examples": {
                    "collect": dict.fromkeys(collected, "upstream"),
                    "disk_reserve_bytes": 0,
                    "commit_seconds": 0.01,
                    "review_share": 1.0,
                },
                "site": {"id": "shop-1", "recipients": [RECIPIENT]},
                "update": {"root_file": str(anchor), "check_seconds": 86_400},
                "escalation": {
                    "url": "http://127.0.0.1:9/v1",
                    "model": "oracle",
                    "socket": str(self.run_dir / "escalation.sock"),
                    "tasks": ["asked", "shadowed", "generate"],
                    "modes": {"asked": "hybrid", "shadowed": "shadow", "generate": "hybrid"},
                    "audit_share": 0,
                },
            }
        )

    async def __aenter__(self) -> Self:
        """Start, with all tasks installed and a plan that the site follows."""
        self.run_dir.mkdir(mode=0o755)
        self._closing.callback(shutil.rmtree, self.run_dir, ignore_errors=True)
        self.points = CancellationPoints(asyncio.get_running_loop())
        self._closing.callback(self.points.close)
        self._hear_complaints()
        self._uplink = grpc.aio.server()
        escalation_pb2_grpc.add_EscalationServiceServicer_to_server(LargeModel(), self._uplink)
        self._uplink.add_insecure_port(f"unix:{self.config.escalation_socket}")
        await self._uplink.start()
        await self.start()
        for name in KINDS:
            await self.install(echo_bundle(self.folder / name, name, name))
        for name in ("asked", "shadowed"):
            await self.install(echo_bundle(self.folder / name, name, labels=LABELS))
        for version in self.versions:
            await self.install(version)
        planned = echo_bundle(self.folder / "planned", "planned", labels=LABELS)
        wanted(self.central, self.central.publish(planned))
        await self.admin("ImportUpdate", path=str(self.central.folder))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and remove the sockets' folder."""
        try:
            await self.stop()
            await self._uplink.stop(0)
        finally:
            self._closing.close()

    async def start(self) -> None:
        """Start the daemon, and wait until every task that was active answers again."""
        opened = AsyncExitStack()
        store = Store.open(self.config.state_dir, StoreLimits())
        opened.callback(store.close)
        self.daemon = Daemon(self.config, store)
        await opened.enter_async_context(self.daemon.running())
        self._channels = {
            name: await opened.enter_async_context(grpc.aio.insecure_channel(f"unix:{self.run_dir}/{name}"))
            for name in ("admin.sock", "inference.sock", "review.sock")
        }
        self._opened = opened
        await eventually_answered(self.ready, CALL_SECONDS_MAX)

    async def stop(self) -> None:
        """Stop the daemon in its own order. Raises TimeoutError when it does not end."""
        async with asyncio.timeout(STOP_SECONDS_MAX):
            await self._opened.aclose()

    async def restart(self) -> None:
        """Stop and start over the same state."""
        await self.stop()
        await self.start()

    async def ready(self) -> bool:
        """Return whether every installed task answers and the large model is available."""
        status = await self.admin("GetStatus")
        tasks = admin_pb2.GetStatusResponse.FromString(status.answers[0]) if status.answers else None
        return tasks is not None and all(task.ready for task in tasks.tasks) and tasks.escalation.online

    def look(self) -> HeldResources:
        """Return a snapshot of the resources of the process."""
        return held(self.daemon, self.config.state_dir)

    # --- calls -------------------------------------------------------------------------------------------------------

    async def call(
        self,
        method: MethodDescriptor | str,
        *messages: bytes,
        at: CancellationPoint | None = None,
        answers_max: int = 1000,
        aimed: bool = False,
    ) -> Outcome:
        """Make a call; cancel it at a point, or after that many answers. `aimed`: count the points that it passes."""
        method = METHOD[method] if isinstance(method, str) else method
        if not (aimed or at):
            return await self._read(self._begun(method, messages), answers_max)
        call: list[Any] = []
        self.points.aim(at, lambda: call[0].cancel())
        call.append(self._begun(method, messages))
        reading = asyncio.ensure_future(self._read(call[0], answers_max))
        reached = asyncio.ensure_future(self.points.reached.wait())
        await asyncio.wait([reading, reached], return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        if not reading.done():
            await self._handled()
            call[0].cancel()
        return await reading

    async def _handled(self) -> None:
        """Wait briefly for the handler to end; its own wait may never end."""
        with suppress(AssertionError):
            await eventually(lambda: self.points.handled, LEAVE_SECONDS_MAX)

    def _begun(self, method: MethodDescriptor, messages: Sequence[bytes]) -> Any:
        channel = self._channels[SOCKETS.get(method.containing_service.full_name, "admin.sock")]
        if method.client_streaming:
            return channel.stream_stream(path_of(method), None, None)(_each(messages), timeout=CALL_SECONDS_MAX)
        # As a stream all calls look the same.
        return channel.unary_stream(path_of(method), None, None)(messages[0], timeout=CALL_SECONDS_MAX)

    async def _read(self, call: Any, answers_max: int) -> Outcome:
        answers: list[bytes] = []
        try:
            async for answer in call:
                answers.append(answer)
                if len(answers) >= answers_max:
                    call.cancel()
                    break
        except grpc.aio.AioRpcError as error:
            how = ended(error)
            return Outcome(how.code, how.reason, how.said, tuple(answers))
        except asyncio.CancelledError:
            return Outcome("CANCELLED", answers=tuple(answers))
        return Outcome("OK", answers=tuple(answers))

    async def admin(self, name: str, **fields: Any) -> Outcome:
        """Make a call as the operator and ignore its result."""
        request = getattr(admin_pb2, f"{name}Request")(**fields)
        return await self.call(f"{ADMIN}.{name}", request.SerializeToString())

    async def install(self, bundle: Path, **fields: Any) -> None:
        """Install a bundle. Raises AssertionError when it is refused."""
        outcome = await self.admin("InstallBundle", path=str(bundle), **fields)
        assert outcome.code == "OK", outcome

    async def prediction(self) -> str:
        """Return the id of an answer that is kept."""
        request = inference_pb2.ClassifyRequest(task="classify", texts=["a refund"])
        outcome = await self.call(f"{INFERENCE}.Classify", request.SerializeToString())
        answer = inference_pb2.ClassifyResponse.FromString(outcome.answers[0])
        return answer.results[0].classification.provenance.prediction_id

    async def installed(self) -> set[str]:
        """Return the digests of all installed bundles."""
        outcome = await self.admin("ListBundles", page_size=1000)
        return {each.ref.digest for each in admin_pb2.ListBundlesResponse.FromString(outcome.answers[0]).bundles}

    async def active(self) -> dict[str, str]:
        """Return the digest that answers each task."""
        outcome = await self.admin("GetStatus")
        tasks = admin_pb2.GetStatusResponse.FromString(outcome.answers[0]).tasks
        return {task.name: task.bundle.digest for task in tasks}

    # --- what was acknowledged ---------------------------------------------------------------------------------------

    async def lost(self) -> list[str]:
        """Return acknowledged records that are missing; empty = none."""
        kept = {digest_of(version) for version in self.versions}
        said = [f"bundle {digest[:12]} is gone" for digest in kept - await self.installed()]
        active = await self.active()
        expected = {"classify", "asked", "shadowed", *KINDS}
        said += [f"task {task} is gone" for task in expected - active.keys()]
        with closing(sqlite3.connect(f"file:{self.config.state_dir / 'spool.db'}?mode=ro", uri=True)) as spool:
            rows = dict(spool.execute("SELECT prediction_id, count(*) FROM feedback GROUP BY prediction_id"))
        said += [
            f"of {count} acknowledged judgements on {prediction} spool.db has {rows.get(prediction, 0)}"
            for prediction, count in self.acknowledged.items()
            if rows.get(prediction, 0) < count
        ]
        return said

    # --- complaints --------------------------------------------------------------------------------------------------

    def complaints(self, right: Sequence[str] = ()) -> list[str]:
        """Return the errors logged since the last call, and exceptions that nothing caught.

        Events of the daemon that it is right to log are left out.
        """
        said, self._complaints = self._complaints, []
        return [each for each in said if not each.startswith(tuple(f"log {event}: " for event in right))]

    def _hear_complaints(self) -> None:
        """Collect errors of the daemon, of gRPC, and of tasks and futures that were never awaited."""
        complaints = self._complaints_of

        def noted(_logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
            if method in ("error", "critical", "exception"):
                complaints(f"log {event['event']}: {event}")
            raise structlog.DropEvent

        self._closing.callback(structlog.configure, **structlog.get_config())
        structlog.configure(processors=[structlog.processors.format_exc_info, noted], cache_logger_on_first_use=False)
        handler = _Handler(complaints)
        for name in ("grpc", "asyncio", "concurrent"):
            logging.getLogger(name).addHandler(handler)
            self._closing.callback(logging.getLogger(name).removeHandler, handler)
        loop = asyncio.get_running_loop()
        self._closing.callback(loop.set_exception_handler, None)
        loop.set_exception_handler(lambda _, context: complaints(f"loop: {context}"))

    def _complaints_of(self, said: str) -> None:
        self._complaints.append(said[:2000])


class _Handler(logging.Handler):
    def __init__(self, complain: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._complain = complain

    def emit(self, record: logging.LogRecord) -> None:
        self._complain(f"{record.name}: {self.format(record)}")


async def _each(messages: Sequence[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def _broken(folder: Path) -> Path:
    """Write a complete bundle whose model file is invalid, so that loading it is refused."""
    fields = {
        "schema": manifest.SCHEMA,
        "runtime": "onnx",
        "version": "1.0.0",
        "task": {"name": "broken", "kind": "classify", "labels": LABELS},
        "confidence": {"policy": "always_escalate"},
    }
    tokenizer = ("tokenizer.json", bert_onnx.tiny_tokenizer())
    return write(folder, fields, {}, {"weights": ("model.onnx", b"no model"), "tokenizer": tokenizer})
