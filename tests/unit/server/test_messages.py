"""Translation between the daemon's types and the messages of edge_agent.v1."""

from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.child_supervisor import EngineState
from edge_agent.engine.engine import EngineStatus
from edge_agent.errors import InvalidRequest
from edge_agent.formats.example_records import ReviewStream
from edge_agent.formats.manifest import Kind, Manifest, digest_of, encode
from edge_agent.formats.plan import Mode
from edge_agent.routing.policy import LowConfidencePolicy, RouteName
from edge_agent.server import feedback, messages
from edge_agent.store.state_database import InstalledBundle
from edge_agent.v1 import admin_pb2, task_pb2
from tests.support.bundles import QUESTIONS, RECORD_SCHEMA

THRESHOLD = {
    "temperature": 1.0,
    "threshold": 0.75,
    "target_risk": 0.05,
    "delta": 0.1,
    "n": 9,
    "bound": 0,
    "coverage": 1,
}


def bundle(kind: str, *labels: str, **more: Any) -> InstalledBundle:
    """Return an installed echo bundle with one file of 12 bytes."""
    limits = {"input_tokens_max": 100, "output_tokens_max": 50, "inputs_max": 7}
    artifact = {"role": "weights", "path": "w", "sha256": "0" * 64, "size_bytes": 12}
    task = {"name": "till", "kind": kind, "labels": labels, "limits": limits}
    fields = {"schema": "edge-agent/bundle/v1", "runtime": "echo", "version": "1.2.3", "artifacts": [artifact]}
    manifest = Manifest.model_validate({**fields, "task": task} | more)
    stored = encode(manifest)
    return InstalledBundle(digest_of(stored), stored, manifest, signed=False, installed_at=1_700_000_000.25)


def test_task_message_has_every_field():
    """A task shows its version, labels in the model's order, limits, readiness, signature and threshold."""
    installed = bundle("classify", "b", "a", confidence={"policy": "threshold", **THRESHOLD})
    expected = task_pb2.Task(
        name="till",
        kind=task_pb2.TASK_KIND_CLASSIFY,
        bundle=task_pb2.BundleRef(task="till", version="1.2.3", digest=installed.digest),
        labels=["b", "a"],
        limits=task_pb2.TaskLimits(input_tokens_max=100, inputs_max=7),
        ready=True,
        signed=False,
        threshold=0.75,
        mode=task_pb2.MODE_HYBRID,
        gate="none",
    )
    assert expected == messages.task_message(installed, "hybrid", ready=True)


def test_task_message_describes_its_questions():
    """Each question has its type, its possible answers with their descriptions, and its own threshold if it has one."""
    task = {"name": "desk", "kind": "decide", "questions": QUESTIONS}
    calibrated = {"urgent": {"policy": "threshold", **THRESHOLD}}
    installed = bundle("decide", **{"task": task, "question_confidence": calibrated})
    message = messages.task_message(installed, "local", ready=True)
    intent, urgent, severity = message.questions
    assert (task_pb2.TASK_KIND_DECIDE, False, False) == (
        message.kind,
        message.open_questions,
        message.HasField("threshold"),
    )
    assert ["intent", "urgent", "severity"] == [each.name for each in message.questions]
    assert (task_pb2.QUESTION_TYPE_PREDICATE, 0.75) == (urgent.type, urgent.threshold)
    assert ["no", "yes"] == [each.label for each in urgent.options]
    assert ("high", "Somebody is harmed.") == (severity.options[2].label, severity.options[2].description)
    assert not intent.HasField("threshold")


def test_a_task_without_calibration_has_no_threshold():
    """Without a threshold the field is unset instead of 0."""
    assert not messages.task_message(bundle("embed"), "hybrid", ready=False).HasField("threshold")


@pytest.mark.parametrize(
    ("kind", "labels", "limit"),
    [("generate", (), 50), ("embed", (), 0), ("extract", ("O", "B-x"), 0), ("classify", ("a", "b"), 0)],
)
def test_only_generation_has_an_output_limit(kind, labels, limit):
    """A task that generates tokens has an output limit; the others have 0."""
    assert limit == messages.task_message(bundle(kind, *labels), "hybrid", ready=True).limits.output_tokens_max


def test_extract_task_with_a_schema_lists_its_properties():
    """An extract task with a record schema has its properties as labels, in order, and an output limit."""
    limits = {"input_tokens_max": 100, "output_tokens_max": 50}
    task = {"name": "till", "kind": "extract", "limits": limits, "record_schema": RECORD_SCHEMA}
    weights = {"role": "weights", "path": "w", "sha256": "0" * 64, "size_bytes": 1}
    installed = bundle("extract", runtime="llama", artifacts=[weights], task=task)
    message = messages.task_message(installed, "hybrid", ready=True)
    assert (["product", "count", "wish", "day"], 50) == (list(message.labels), message.limits.output_tokens_max)


@pytest.mark.parametrize(
    ("tags", "types"),
    [
        (("O", "B-PER", "I-PER", "B-LOC", "I-LOC"), ["PER", "LOC"]),
        (("I-PER", "O", "B-PER"), ["PER"]),
        (("B-card-no", "I-card-no"), ["card-no"]),
        (("number", "O"), ["number"]),
        (("O",), []),
        ((), []),
    ],
)
def test_entity_types_are_derived_from_bio_tags(tags, types):
    """The B and I tags of a type are one type, O is none, and the order is that of the labels."""
    installed = bundle("extract", *tags)
    assert types == installed.manifest.task.record_fields
    assert types == list(messages.task_message(installed, "hybrid", ready=True).labels)


def test_bundle_message_has_every_field():
    """A bundle shows what it is, where it stands, its size and when it was installed."""
    installed = bundle("generate")
    expected = admin_pb2.Bundle(
        ref=messages.bundle_ref(installed),
        kind=task_pb2.TASK_KIND_GENERATE,
        runtime="echo",
        active=True,
        size_bytes=12,
        gate="none",
    )
    expected.install_time.FromMilliseconds(1_700_000_000_250)
    assert expected == messages.bundle_message(installed, active=True, previous=False)


def test_engine_message_has_every_field():
    """An engine message has its process, load, problem and tasks."""
    status = EngineStatus(
        "echo-1", "echo", EngineState.BACKING_OFF, 77, 2**33, 5, 2, "the process died", "cpu", {}, ("d",), {"a": "b"}
    )
    expected = admin_pb2.Engine(
        name="echo-1",
        runtime="echo",
        state=admin_pb2.ENGINE_STATE_BACKING_OFF,
        pid=77,
        resident_bytes=2**33,
        pending=5,
        restarts=2,
        problem="the process died",
        tasks=["till"],
        device="cpu",
        details={"a": "b"},
    )
    serving = {"other": bundle("generate"), "till": replace(bundle("generate"), digest="d")}
    assert expected == messages.engine_message(status, serving)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (messages.KINDS, get_args(Kind)),
        (messages.ROUTES, get_args(RouteName)),
        (messages.MODES, get_args(Mode)),
        (messages.STATES, tuple(EngineState)),
        (feedback.STREAMS, get_args(ReviewStream)),
    ],
)
def test_every_value_has_an_api_value(table, words):
    """Each internal value has an API value of its own, and none is UNSPECIFIED."""
    assert set(words) == set(table)
    assert len(table) == len({*table.values()} - {0})


def test_every_low_confidence_policy_is_supported():
    """Each value of OnLowConfidence is supported; UNSPECIFIED means the policy of the mode."""
    assert set(task_pb2.OnLowConfidence.values()) == set(messages.LOW_CONFIDENCE_POLICIES)
    assert set(get_args(LowConfidencePolicy)) == set(messages.LOW_CONFIDENCE_POLICIES.values())
    assert "as_mode" == messages.LOW_CONFIDENCE_POLICIES[task_pb2.ON_LOW_CONFIDENCE_UNSPECIFIED]


@pytest.mark.parametrize(
    ("size", "token", "total", "shown", "following"),
    [
        (0, "", 0, (0, 100), ""),
        (0, "", 100, (0, 100), ""),
        (0, "", 101, (0, 100), "100"),
        (10, "", 30, (0, 10), "10"),
        (10, "10", 30, (10, 20), "20"),
        (10, "20", 30, (20, 30), ""),
        (10, "25", 30, (25, 35), ""),
        (10, "30", 30, (30, 40), ""),
        (10, "999999999", 30, (999999999, 1000000009), ""),
        (5000, "", 2000, (0, 1000), "1000"),
        (2**31 - 1, "", 1000, (0, 1000), ""),
    ],
)
def test_page_size_and_next_token(size, token, total, shown, following):
    """The page size is 100 by default and 1000 at most; the last page, or one beyond, has no token."""
    assert (slice(*shown), following) == messages.page_slice(size, token, total)


@pytest.mark.parametrize("size", [-1, -(2**31)])
def test_negative_page_size_is_refused(size):
    """A negative page size is refused with its value."""
    with pytest.raises(InvalidRequest, match=f"page_size is {size}; it must not be negative"):
        messages.page_slice(size, "", 10)


@pytest.mark.parametrize("token", ["x", "-1", "1.0", " 1", "1\n", "٣", "²", "1" * 10, "9" * 5000])
def test_foreign_page_token_is_refused(token):
    """A token that no response contained is refused with a remedy."""
    with pytest.raises(InvalidRequest, match="page_token does not come from this daemon") as caught:
        messages.page_slice(0, token, 10)
    assert "empty page_token" in caught.value.remedy


@given(size=st.integers(0, 1200), total=st.integers(0, 3000))
def test_pages_together_are_the_list(size, total):
    """Consecutive pages contain every item once, in order."""
    items, seen, token = list(range(total)), [], ""
    while True:
        shown, token = messages.page_slice(size, token, total)
        seen += items[shown]
        if not token:
            break
    assert items == seen
