"""What serve does of escalation in a call: deciding and keeping the books, without the model and without the network.

Measured is what the daemon runs, in this process: `ModelRouter` with the real link (not connected, told that the large
model is there), the modes from a real state.db, and the policy on a real bundle; the local answer is there at once. Its
own cost is measured alone and taken off. The time is the processor's: nothing here waits, and what other processes
take of the machine meanwhile is not ours. A sure answer is not redacted and asks nobody, so neither is in the figure;
what a question costs serve and the uplink before it leaves is told beside it.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from benchmarks.bars import Bar, median
from edge_agent.capture.capture_values import SpoolWorkerDependencies
from edge_agent.capture.example_capture import ExampleCapture
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.config import Config, EscalationConfig
from edge_agent.engine.job_dispatch import EngineAnswer
from edge_agent.engine.protocol import JobResult
from edge_agent.routing import large_model_questions
from edge_agent.routing.policy import LowConfidencePolicy
from edge_agent.server.finished_answers import FinishedAnswer
from edge_agent.server.model_router import ModelRouter, RoutedInput
from edge_agent.server.task_modes import TaskModes
from edge_agent.server.uplink_client import UplinkClient
from edge_agent.store.bundle_store import Store, StoreLimits
from edge_agent.store.state_database import InstalledBundle
from edge_agent.update.activation import Activation
from edge_agent.uplink.escalation.spend_ledger import SpendLedger
from edge_agent.v1 import escalation_pb2 as pb
from tests.support.bundles import INTENTS, digest_of, echo_bundle, manifest_of

MICROSECONDS_MAX = 50.0
BATCHES, CALLS = 40, 500
TASK, TEXT = "pos-intent", "I want my money back, mail me at anna@example.org"
CALIBRATED = {
    "policy": "threshold",
    "temperature": 1.0,
    "threshold": 0.9,
    "target_risk": 0.05,
    "delta": 0.1,
    "n": 100,
    "bound": 0.04,
    "coverage": 0.7,
    "novelty": {"label_mass_min": 0.1, "input_tokens_min": 1, "input_tokens_max": 500},
}


def measure() -> list[Bar]:
    """Measure; the median of many batches counts."""
    return asyncio.run(_measured())


async def _measured() -> list[Bar]:
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        bundle = _bundle(folder / "bundle")
        sure, unsure = (_finished(bundle, scores) for scores in ((0.97, 0.01), (0.4, 0.3)))
        escalation, redactor = _escalation(folder, bundle)
        alone = await _batches(lambda: _alone(sure))
        answered = await _batches(lambda: _answered(escalation, sure, "as_mode"))
        kept = await _batches(lambda: _answered(escalation, unsure, "answer"))
        asked = await _batches(lambda: _prepared(redactor, bundle))
        set_aside = _set_aside(folder)
    said = f"serve {asked:.0f} us to redact and write, the uplink {set_aside:.0f} us to set its price aside on the disk"
    print(f"routing: a question takes {said}", file=sys.stderr)  # noqa: T201 - a benchmark's output
    return [
        Bar("bookkeeping: us a call, sure local answer", round(answered - alone, 2), MICROSECONDS_MAX, "lower"),
        Bar("bookkeeping: us a call, unsure answer kept here", round(kept - alone, 2), MICROSECONDS_MAX, "lower"),
    ]


async def _batches(call: Callable[[], Awaitable[object]]) -> float:
    """Return the microseconds of a call: the median over batches."""
    took = []
    for _ in range(BATCHES):
        began = time.thread_time()
        for _ in range(CALLS):
            await call()
        took.append(1e6 * (time.thread_time() - began) / CALLS)
    return median(took)


async def _alone(finished: FinishedAnswer) -> list[FinishedAnswer]:
    return [finished]


async def _answered(escalation: ModelRouter, finished: FinishedAnswer, wish: LowConfidencePolicy) -> FinishedAnswer:
    """Do what the service does around the local answer."""
    deadline = asyncio.get_running_loop().time() + 10
    asked = escalation.context(finished.bundle.manifest, wish, deadline)
    (answered,) = await escalation.answer(RoutedInput(TEXT, finished.bundle, deadline), asked, lambda: _alone(finished))
    assert answered.decision.route == "local"
    return answered


async def _prepared(redactor: Redactor, bundle: InstalledBundle) -> object:
    return large_model_questions.build_question(bundle.manifest, redactor.start().text(TEXT))


def _escalation(folder: Path, bundle: InstalledBundle) -> tuple[ModelRouter, Redactor]:
    section = EscalationConfig(url="http://127.0.0.1:9/v1", model="m", tasks=(TASK,), modes={TASK: "hybrid"})
    config = Config(state_dir=folder / "state", run_dir=folder / "run", escalation=section)
    link = UplinkClient(config)
    link._update(pb.WatchResponse(online=True, affordable=True, free=True, usual_ms=500, tasks=[TASK]))
    store = Store.open(config.state_dir, StoreLimits())
    dependencies = SpoolWorkerDependencies(lambda: (), "0")
    activation = SimpleNamespace(serving={TASK: bundle})
    modes = TaskModes(config, store, cast(Activation, activation))
    return ModelRouter(link, modes, ExampleCapture(config, dependencies)), Redactor()


def _bundle(folder: Path) -> InstalledBundle:
    path = echo_bundle(folder, TASK, confidence=CALIBRATED)
    raw = (path / "manifest.json").read_bytes()
    return InstalledBundle(digest_of(path), raw, manifest_of(path), signed=False, installed_at=0.0)


def _finished(bundle: InstalledBundle, first: tuple[float, ...]) -> FinishedAnswer:
    scores = (*first, *[0.0] * (len(INTENTS) - len(first)))
    done = JobResult(job_id="j", scores=scores, label_mass=0.9, input_tokens=20)
    return FinishedAnswer(TEXT, EngineAnswer(done, queue_ms=0.1), bundle, "p-1")


def _set_aside(folder: Path) -> float:
    """Return the microseconds of reserving and settling a price, fsync and all."""
    (folder / "notes").mkdir()
    ledger = SpendLedger(folder / "notes", EscalationConfig(input_token_price=1.0, output_token_price=1.0), time.time)
    took = []
    for _ in range(50):
        began = time.perf_counter()
        ledger.settle(ledger.reserve(1000, 200), 300)
        took.append(1e6 * (time.perf_counter() - began))
    return median(took)
