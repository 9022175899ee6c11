"""Records by a schema, as a device gets them: the daemon, a child with SmolLM2-135M, gRPC."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jsonschema
import pytest

from edge_agent.client import CallFailed, Extraction, Failure
from tests.support.bundles import RECORD_SCHEMA, merged, smollm2_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync

TEXTS = ("I want to swap 3 red mugs that I bought on 2026-11-20.", "Do you have size nine boots?")
SECONDS = 120.0  # a slow and busy machine


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon with one task that writes records and one that writes text, on the same engine."""
    folder = tmp_path_factory.mktemp("daemon")
    with RunningDaemon(folder, engine={"sequences_max": 4}) as running:
        running.install(
            smollm2_bundle(folder / "a", "extract", "order"), smollm2_bundle(folder / "b", "generate", "talk")
        )
        yield running


@pytest.mark.slow
def test_every_input_gets_a_record_that_fits(daemon: RunningDaemon) -> None:
    """JSON by the schema, each field with a confidence, in its order; a bad input fails alone."""
    with daemon.client() as client:
        *good, bad = client.extract("order", [*TEXTS, " "], timeout_seconds=SECONDS)
        task = client.task("order")
    assert isinstance(bad, Failure)
    assert "INPUT_EMPTY" == bad.reason
    for answer in good:
        assert isinstance(answer, Extraction)
        record = json.loads(answer.json)
        jsonschema.validate(record, RECORD_SCHEMA)
        assert RECORD_SCHEMA["required"] == list(record) == [name for name, _ in answer.fields] == list(task.labels)
        assert 0 < answer.confidence <= min(confidence for _, confidence in answer.fields) <= 1
        assert ((), True) == (answer.entities, answer.below_threshold)
    assert 3 == json.loads(good[0].json)["count"]
    assert RECORD_SCHEMA == json.loads(task.record_schema)


@pytest.mark.slow
def test_a_record_is_the_same_beside_a_stream(daemon: RunningDaemon) -> None:
    """A stream in the same batch changes nothing in a record, and goes on to its end."""
    with daemon.client() as client:
        [alone] = client.extract("order", TEXTS[:1], timeout_seconds=SECONDS)
        with client.generate("talk", "Tell me of tea.", output_tokens_max=40, timeout_seconds=SECONDS) as stream:
            first = next(iter(stream))
            [beside] = client.extract("order", TEXTS[:1], timeout_seconds=SECONDS)
            rest = "".join(stream)
    assert first + rest
    assert (alone.json, alone.fields) == (beside.json, beside.fields)


@pytest.mark.slow
def test_a_deadline_ends_a_record(daemon: RunningDaemon) -> None:
    """A call that cannot be finished in time ends with its deadline, or is refused by what the engine has measured.

    Its places are free again at once.
    """
    with daemon.client() as client, pytest.raises(CallFailed) as caught:
        client.extract("order", TEXTS[:1], timeout_seconds=0.02)
    assert (caught.value.code, caught.value.reason) in (
        ("DEADLINE_EXCEEDED", ""),
        ("DEADLINE_EXCEEDED", "DEADLINE_EXPIRED"),
        ("RESOURCE_EXHAUSTED", "DEADLINE_UNATTAINABLE"),
    )
    with daemon.admin() as admin:
        eventually_sync(lambda: all(engine.pending == 0 for engine in admin.status().engines), SECONDS)
    with daemon.client() as client:
        [answer] = client.extract("order", TEXTS[1:], timeout_seconds=SECONDS)
    assert isinstance(answer, Extraction)


@pytest.mark.slow
def test_bad_schemas_are_refused_in_words(daemon: RunningDaemon, tmp_path) -> None:
    """What no manifest may say is refused at install, what has no record at load; the task before serves on."""
    impossible = merged(RECORD_SCHEMA, {"properties": {"product": {"pattern": "^a$", "minLength": 5}}})
    good = smollm2_bundle(tmp_path / "a", "extract", "order", version="2.0.0", task={"record_schema": impossible})
    with pytest.raises(CallFailed, match="cannot be followed") as caught:
        daemon.install(good)
    assert "MODEL_LOAD_FAILED" == caught.value.reason
    manifest = good / "manifest.json"
    plain = json.loads(manifest.read_text())
    plain["task"]["record_schema"]["properties"]["count"] = {"type": "object", "$ref": "#"}
    manifest.write_text(json.dumps(plain))
    with pytest.raises(CallFailed, match=r"count: '\$ref' cannot be kept") as caught:
        daemon.install(good)
    assert "MANIFEST_INVALID" == caught.value.reason
    with daemon.client() as client:
        [answer] = client.extract("order", TEXTS[1:], timeout_seconds=SECONDS)
    assert "1.0.0" == answer.bundle.version
