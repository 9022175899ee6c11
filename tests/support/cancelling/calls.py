"""Every call of the daemon as the cancellation sweep makes it, with its preparation and its cleanup.

A method that has no entry here fails the sweep: the list of methods comes from the descriptors.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_reflection.v1alpha import reflection_pb2

from edge_agent.server.open_inference.oip_tensors import SERVICE as OPEN_INFERENCE
from edge_agent.v1 import feedback_pb2, inference_pb2, task_pb2
from tests.support.bundles import digest_of, echo_bundle
from tests.support.cancelling.site import (
    ADMIN,
    CALL_SECONDS_MAX,
    INFERENCE,
    LABELS,
    METHOD,
    SEQUENCES_MAX,
    Outcome,
    Site,
)
from tests.support.eventually import eventually_answered
from tests.support.open_inference import infer
from tests.support.rpcs import METHODS
from tests.support.update_sites import wanted

FEEDBACK, HEALTH = "edge_agent.v1.FeedbackService", "grpc.health.v1.Health"
OPEN = OPEN_INFERENCE.full_name
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
Messages = Callable[[Site], Awaitable[Sequence[bytes]]]
Step = Callable[[Site], Awaitable[None]]
Beside = Callable[[Site, Sequence[bytes]], Awaitable[list[asyncio.Future[Outcome]]]]
DRAINED = ("DRAINING",)
"""What a daemon that is to stop may answer instead."""


async def _nothing(site: Site) -> None:
    """Do nothing."""


async def _no_claim(site: Site, messages: Sequence[bytes], outcome: Outcome) -> str:
    """Return no acknowledged record."""
    return ""


async def _nobody(site: Site, messages: Sequence[bytes]) -> list[asyncio.Future[Outcome]]:
    """Begin no other call."""
    return []


@dataclass(frozen=True)
class Call:
    """One way of making a call."""

    method: str
    what: str
    """What is special about it; empty = it is the plain one."""
    messages: Messages
    prepare: Step = _nothing
    restore: Step = _nothing
    claims: Callable[[Site, Sequence[bytes], Outcome], Awaitable[str]] = _no_claim
    """Says what a call that was answered has acknowledged and not kept; empty = nothing."""
    beside: Beside = _nobody
    """Begins calls of others that go on meanwhile: nobody leaves them, so they have to be answered."""
    reason: str = ""
    """What it is refused with, while nobody leaves it; empty = it is answered."""
    logged: tuple[str, ...] = ()
    """Events that it is right to log as errors."""
    answers_max: int = 1000
    """Its caller leaves after so many."""
    ends: bool = False
    """It stops the daemon's work: each point has a daemon of its own."""

    @property
    def service(self) -> str:
        """The full name of its service."""
        return self.method.rpartition(".")[0]

    def __str__(self) -> str:
        name = self.method.rpartition(".")[2]
        return f"{name}, {self.what}" if self.what else name


def _says(method: str, messages: Sequence[Any] = (), /, **fields: Any) -> Messages:
    """Return a factory of the messages of a call: one with these fields, or the given ones.

    A callable among the fields is called for each call, with the site.
    """

    async def made(site: Site) -> Sequence[bytes]:
        if messages:
            return [each.SerializeToString() for each in messages]
        values = {name: await value(site) if callable(value) else value for name, value in fields.items()}
        return [message_factory.GetMessageClass(METHOD[method].input_type)(**values).SerializeToString()]

    return made


def _call(service: str, name: str, what: str = "", /, **fields: Any) -> Call:
    of_call = {each: fields.pop(each) for each in Call.__dataclass_fields__ if each in fields}
    method = f"{service}.{name}"
    return Call(method, what, of_call.pop("messages", None) or _says(method, **fields), **of_call)


# --- inference --------------------------------------------------------------------------------------------------------


async def _new_id(site: Site) -> str:
    return str(uuid.uuid4())


async def _begun(site: Site, calls: Sequence[Coroutine[Any, Any, Outcome]]) -> list[asyncio.Future[Outcome]]:
    """Begin calls of others; return once all reached the daemon, so that none is taken for the call under test."""
    expected = site.points.arrived + len(calls)
    begun: list[asyncio.Future[Outcome]] = [asyncio.ensure_future(call) for call in calls]
    async with asyncio.timeout(CALL_SECONDS_MAX):
        while site.points.arrived < expected:
            await site.points.arrival()
    return begun


def _likewise(method: str) -> Beside:
    """Make the same call first as another caller."""

    async def begun(site: Site, messages: Sequence[bytes]) -> list[asyncio.Future[Outcome]]:
        return await _begun(site, [site.call(method, *messages)])

    return begun


async def _crowd(site: Site, messages: Sequence[bytes]) -> list[asyncio.Future[Outcome]]:
    """Fill every place of the engine, and begin to fill its queue."""
    request = inference_pb2.ClassifyRequest(task="classify", texts=["!slow 50 refund"]).SerializeToString()
    return await _begun(site, [site.call(f"{INFERENCE}.Classify", request) for _ in range(2 * SEQUENCES_MAX)])


def _inference() -> list[Call]:
    more = ["a refund", "the price", "twelve lamps"]
    return [
        _call(INFERENCE, "Classify", task="classify", texts=["a refund"]),
        _call(INFERENCE, "Classify", "several inputs", task="classify", texts=more),
        _call(INFERENCE, "Classify", "a request_id", task="classify", texts=more[:1], request_id=_new_id),
        _call(INFERENCE, "Classify", "the large model asked", task="asked", texts=more[:1]),
        _call(INFERENCE, "Classify", "both models asked", task="shadowed", texts=more[:2]),
        _call(INFERENCE, "Classify", "a slow input", task="classify", texts=["!slow 20 refund"]),
        _call(INFERENCE, "Classify", "behind a crowd", task="classify", texts=more, beside=_crowd),
        _call(INFERENCE, "Classify", "another waits for it", task="classify", texts=["!slow 10 refund"],
              request_id=_new_id, beside=_likewise(f"{INFERENCE}.Classify")),
        _call(INFERENCE, "Classify", "its engine dies", task="heavy", texts=["!crash"], prepare=_installed("heavy"),
              restore=_recovered("heavy"), reason="ENGINE_CRASHED",
              logged=("engine_died",)),
        _call(INFERENCE, "Classify", "refused", task="nobody", texts=more, reason="TASK_UNKNOWN"),
        _call(INFERENCE, "Decide", task="decide", texts=["a refund"]),
        _call(INFERENCE, "Decide", "several inputs", task="decide", texts=more),
        _call(INFERENCE, "Decide", "a request_id", task="decide", texts=more[:1], request_id=_new_id),
        _call(INFERENCE, "Decide", "the only question of a classify task", task="classify", texts=more[:1]),
        _call(INFERENCE, "Decide", "refused", task="decide", texts=more, questions=["colour"],
              reason="QUESTION_UNKNOWN"),
        _call(INFERENCE, "Extract", task="extract", texts=["a lamp of 12"]),
        _call(INFERENCE, "Extract", "a request_id", task="extract", texts=more, request_id=_new_id),
        _call(INFERENCE, "Embed", task="embed", texts=["a lamp"]),
        _call(INFERENCE, "Embed", "several inputs", task="embed", texts=more, request_id=_new_id),
        _call(INFERENCE, "Generate", task="generate", text="one two three four"),
        _call(INFERENCE, "Generate", "the large model writes", task="generate", text="one two", escalate=True),
        _call(INFERENCE, "Generate", "its engine dies", task="heavy-text", text="!crash",
              prepare=_installed("heavy_text"), restore=_recovered("heavy-text"), reason="ENGINE_CRASHED",
              logged=("engine_died",)),
        _call(INFERENCE, "ListTasks"),
        _call(INFERENCE, "GetTask", task="classify"),
    ]  # fmt: skip


def _open_inference() -> list[Call]:
    asked = [infer("classify", "a refund"), infer("generate", "one two"), infer("nobody", "three")]
    tasks = (
        ("classify", "a refund"),
        ("classify", "a refund", "the price"),
        ("embed", "a lamp"),
        ("generate", "one two three"),
    )
    return [
        *(_call(OPEN, name) for name in ("ServerLive", "ServerReady", "ServerMetadata")),
        *(_call(OPEN, name, name="classify") for name in ("ModelReady", "ModelMetadata", "ModelConfig")),
        _call(OPEN, "ModelStatistics"),
        *(
            _call(OPEN, "ModelInfer", f"{kind} {len(texts)}", messages=_says("", [infer(kind, *texts)]))
            for kind, *texts in tasks
        ),
        _call(OPEN, "ModelStreamInfer", messages=_says("", asked)),
    ]


# --- people who judge -------------------------------------------------------------------------------------------------


async def _prediction(site: Site) -> str:
    return await site.prediction()


async def _judged(site: Site) -> Sequence[bytes]:
    """Label a new answer, which is acknowledged; return the call that labels it again."""
    prediction = await site.prediction()
    request = {"prediction_id": prediction, "reviewer": "anna", "corrected_label": LABELS[1]}
    make = message_factory.GetMessageClass(METHOD[f"{FEEDBACK}.SubmitFeedback"].input_type)
    outcome = await site.call(f"{FEEDBACK}.SubmitFeedback", make(**request).SerializeToString())
    assert outcome.code == "OK", outcome
    site.acknowledged[prediction] = 1
    return [make(**{**request, "reviewer": "bert"}).SerializeToString()]


async def _judgement_kept(site: Site, messages: Sequence[bytes], outcome: Outcome) -> str:
    """Record the second label, too, if it was acknowledged; `Site.lost` checks for it."""
    judged = feedback_pb2.SubmitFeedbackRequest.FromString(messages[0])
    site.acknowledged[judged.prediction_id] += 1
    return ""


async def _forgotten(site: Site, messages: Sequence[bytes], outcome: Outcome) -> str:
    erased = feedback_pb2.ErasePredictionRequest.FromString(messages[0])
    found = await site.call(f"{FEEDBACK}.GetPrediction", messages[0])
    return "" if found.code != "OK" else f"{erased.prediction_id} was erased and is there"


def _feedback() -> list[Call]:
    return [
        _call(FEEDBACK, "SubmitFeedback", messages=_judged, claims=_judgement_kept),
        _call(FEEDBACK, "ListReviewQueue", page_size=10),
        _call(FEEDBACK, "GetPrediction", prediction_id=_prediction),
        _call(FEEDBACK, "ErasePrediction", prediction_id=_prediction, claims=_forgotten),
    ]


# --- the operator -----------------------------------------------------------------------------------------------------


def _removed(task: str) -> Step:
    async def restore(site: Site) -> None:
        await site.admin("RemoveBundle", task=task)

    return restore


def _recovered(task: str) -> Step:
    """Wait for the crashed engine to return, then remove its task: an engine whose files vanish logs errors."""

    async def restore(site: Site) -> None:
        await eventually_answered(site.ready, CALL_SECONDS_MAX)
        await site.admin("RemoveBundle", task=task)

    return restore


def _is_installed(which: str) -> Callable[..., Awaitable[str]]:
    async def claims(site: Site, messages: Sequence[bytes], outcome: Outcome) -> str:
        digest = digest_of(getattr(site, which))
        return "" if digest in await site.installed() else f"{which} was installed and is not listed"

    return claims


def _is_removed(which: str) -> Callable[..., Awaitable[str]]:
    async def claims(site: Site, messages: Sequence[bytes], outcome: Outcome) -> str:
        digest = digest_of(getattr(site, which))
        return f"{which} was removed and is listed" if digest in await site.installed() else ""

    return claims


def _answers(place: int) -> Callable[..., Awaitable[str]]:
    async def claims(site: Site, messages: Sequence[bytes], outcome: Outcome) -> str:
        active = (await site.active())["classify"]
        return "" if active == digest_of(site.versions[place]) else f"{active[:12]} answers instead"

    return claims


def _path(which: str) -> Callable[[Site], Awaitable[str]]:
    async def path(site: Site) -> str:
        return str(getattr(site, which))

    return path


def _activated(*places: int) -> Step:
    """Activate versions of the task `classify` alternately."""

    async def step(site: Site) -> None:
        for place in places:
            await site.admin("ActivateBundle", task="classify", bundle=digest_of(site.versions[place]))

    return step


def _installed(which: str, **fields: Any) -> Step:
    async def step(site: Site) -> None:
        await site.install(getattr(site, which), **fields)

    return step


async def _central_folder(site: Site) -> str:
    return str(site.central.folder)


async def _new_version(site: Site) -> None:
    """Publish another version of the task `planned` and a plan that requests it."""
    number = len(site.central.held.bundles()) + 1
    bundle = echo_bundle(site.folder / f"planned-{number}", "planned", labels=LABELS, version=f"{number}.0.0")
    wanted(site.central, site.central.publish(bundle))


async def _planned_answers(site: Site, messages: Sequence[bytes], outcome: Outcome) -> str:
    number = len(site.central.held.bundles())
    wanted_digest = digest_of(site.folder / f"planned-{number}")
    active = (await site.active()).get("planned", "")
    return "" if active == wanted_digest else f"version {number} was imported, and {active[:12] or 'nothing'} answers"


def _operator() -> list[Call]:
    mode = task_pb2.Mode.Value
    return [
        _call(ADMIN, "GetStatus"),
        _call(ADMIN, "ListBundles"),
        _call(ADMIN, "InstallBundle", path=_path("spare"), restore=_removed("spare"), claims=_is_installed("spare")),
        _call(ADMIN, "InstallBundle", "again", path=_path("spare"), prepare=_installed("spare"),
              restore=_removed("spare"), claims=_is_installed("spare")),
        _call(ADMIN, "InstallBundle", "not activated", path=_path("spare"), no_activate=True,
              restore=_removed("spare"), claims=_is_installed("spare")),
        _call(ADMIN, "InstallBundle", "an engine of its own", path=_path("heavy"), claims=_is_installed("heavy"),
              restore=_removed("heavy")),
        _call(ADMIN, "InstallBundle", "it does not load", path=_path("broken"), reason="MODEL_LOAD_FAILED",
              logged=("engine_load_failed",)),
        _call(ADMIN, "InstallBundle", "refused", path="here", reason="REQUEST_INVALID"),
        _call(ADMIN, "InstallBundle", "another installs it", path=_path("spare"), restore=_removed("spare"),
              claims=_is_installed("spare"), beside=_likewise(f"{ADMIN}.InstallBundle")),
        _call(ADMIN, "ActivateBundle", task="classify", bundle="1.0.0", restore=_activated(2, 1, 2),
              claims=_answers(0)),
        _call(ADMIN, "RollbackTask", task="classify", restore=_activated(1, 2), claims=_answers(1)),
        _call(ADMIN, "RemoveBundle", task="spare", prepare=_installed("spare"), restore=_removed("spare"),
              claims=_is_removed("spare")),
        _call(ADMIN, "RemoveBundle", "one version", task="spare", bundle="1.0.0",
              prepare=_installed("spare", no_activate=True), restore=_removed("spare"), claims=_is_removed("spare")),
        _call(ADMIN, "RemoveBundle", "an engine of its own", task="heavy", prepare=_installed("heavy"),
              claims=_is_removed("heavy"), restore=_removed("heavy")),
        _call(ADMIN, "SealExamples", prepare=_prediction_kept),
        _call(ADMIN, "ReadReceipts"),
        _call(ADMIN, "ImportUpdate", path=_central_folder),
        _call(ADMIN, "ImportUpdate", "a new version", path=_central_folder, prepare=_new_version,
              restore=_removed("planned"), claims=_planned_answers),
        _call(ADMIN, "AllowUpdate", task="planned"),
        _call(ADMIN, "SetMode", task="asked", mode=mode("MODE_SHADOW"), restore=_mode_taken_back),
        _call(ADMIN, "GetFieldReport"),
        _call(ADMIN, "GetPrivacyReport"),
        _call(ADMIN, "EraseValues", values=["nobody@example.org"]),
        _call(ADMIN, "TryRedaction", text="write to anna@example.org"),
        _call(ADMIN, "ListRedactionAudit"),
        _call(ADMIN, "JudgeRedaction", prediction_id="none", reason="PREDICTION_UNKNOWN"),
        _call(ADMIN, "Drain", ends=True),
    ]  # fmt: skip


async def _prediction_kept(site: Site) -> None:
    await site.prediction()


async def _mode_taken_back(site: Site) -> None:
    await site.admin("SetMode", task="asked")


# --- what libraries serve ---------------------------------------------------------------------------------------------


async def _comes_and_goes(site: Site, messages: Sequence[bytes]) -> list[asyncio.Future[Outcome]]:
    """Install a task, and remove it."""

    async def begun() -> Outcome:
        await site.install(site.spare)
        return await site.admin("RemoveBundle", task="spare")

    return [asyncio.ensure_future(begun())]


def _libraries() -> list[Call]:
    request = reflection_pb2.ServerReflectionRequest
    asked = [request(list_services=""), request(file_containing_symbol=ADMIN)]
    return [
        _call(HEALTH, "Check", service="classify"),
        _call(HEALTH, "Watch", service="classify", answers_max=1),
        _call(HEALTH, "Watch", "of what comes and goes", service="spare", answers_max=3, beside=_comes_and_goes),
        _call(REFLECTION, "ServerReflectionInfo", messages=_says("", asked)),
    ]


CALLS: tuple[Call, ...] = (*_inference(), *_open_inference(), *_feedback(), *_libraries(), *_operator())


def missing() -> list[str]:
    """Return the methods of the daemon that no call here covers.

    EscalationService is no service of the daemon: the uplink serves it. What the daemon awaits of its Ask it awaits in
    Classify and Generate, in the calls here that ask the large model. tests/process/test_cancellation_escalation.py
    sweeps the handlers of the uplink; the daemon's watch over it is a background task, and is not swept.
    """
    made = {call.method for call in CALLS}
    return [method.full_name for method in METHODS if method.full_name not in made]


# --- after each point -------------------------------------------------------------------------------------------------

_BY_PROBE: Mapping[str, tuple[Messages, tuple[str, ...]]] = {
    f"{FEEDBACK}.SubmitFeedback": (_says(f"{FEEDBACK}.SubmitFeedback", prediction_id="none", reviewer="anna"),
                                   ("PREDICTION_UNKNOWN",)),
    f"{FEEDBACK}.GetPrediction": (_says(f"{FEEDBACK}.GetPrediction", prediction_id="none"), ("PREDICTION_UNKNOWN",)),
    f"{FEEDBACK}.ErasePrediction": (_says(f"{FEEDBACK}.ErasePrediction", prediction_id="none"), ()),
    f"{ADMIN}.InstallBundle": (_says(f"{ADMIN}.InstallBundle", path=_path("nothing")),
                               ("BUNDLE_UNREADABLE", "FILE_MISSING")),
    f"{ADMIN}.ActivateBundle": (_says(f"{ADMIN}.ActivateBundle", task="extract", bundle="1.0.0"), ()),
    f"{ADMIN}.RollbackTask": (_says(f"{ADMIN}.RollbackTask", task="extract"), ("NOTHING_TO_ROLL_BACK",)),
    f"{ADMIN}.RemoveBundle": (_says(f"{ADMIN}.RemoveBundle", task="nobody"), ("BUNDLE_UNKNOWN",)),
    f"{ADMIN}.JudgeRedaction": (_says(f"{ADMIN}.JudgeRedaction", prediction_id="none"), ("PREDICTION_UNKNOWN",)),
    f"{ADMIN}.SetMode": (_says(f"{ADMIN}.SetMode", task="extract"), ()),
}  # fmt: skip
"""Calls that change nothing, where the sweep's own do: they take the same locks, and end with these reasons."""


@dataclass(frozen=True)
class Probe:
    """A call that must be answered after each cancellation point."""

    method: MethodDescriptor
    messages: Messages
    reasons: tuple[str, ...]
    answers_max: int

    def answered(self, outcome: Outcome, also: Sequence[str] = ()) -> bool:
        """Return whether it was answered, or refused for one of the permitted reasons."""
        if outcome.reason in also:
            return True
        return outcome.reason in self.reasons if self.reasons else outcome.code == "OK"


def probes() -> list[Probe]:
    """Return a probe for each method except Drain, after which the daemon answers no calls."""
    plain = {call.method: call for call in reversed(CALLS) if not call.ends}
    found = []
    for method in METHODS:
        name = method.full_name
        call = plain.get(name)
        if call is not None:
            messages, reasons = _BY_PROBE.get(name, (call.messages, ()))
            found.append(Probe(method, messages, reasons, call.answers_max))
    return found


def shown(outcome: Outcome) -> str:
    """Return an outcome in a line."""
    return json.dumps([outcome.code, outcome.reason, outcome.said[:200]])
