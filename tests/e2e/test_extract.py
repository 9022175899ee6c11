"""Records by a schema over gRPC: the daemon and an engine with SmolLM2-135M."""

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
    """A daemon with an extract task and a generate task on the same engine."""
    folder = tmp_path_factory.mktemp("daemon")
    with RunningDaemon(folder, engine={"sequences_max": 4}) as running:
        running.install(
            smollm2_bundle(folder / "a", "extract", "order"), smollm2_bundle(folder / "b", "generate", "talk")
        )
        yield running


@pytest.mark.slow
def test_extract_returns_records_that_match_schema(daemon: RunningDaemon) -> None:
    """Each input gets a JSON record that matches the schema, with ordered fields and a confidence for each; an empty
    input fails alone."""
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
def test_record_is_unchanged_by_concurrent_stream(daemon: RunningDaemon) -> None:
    """A record is the same alone and next to a text stream in the same batch, and the stream completes."""
    with daemon.client() as client:
        [alone] = client.extract("order", TEXTS[:1], timeout_seconds=SECONDS)
        with client.generate("talk", "Tell me of tea.", output_tokens_max=40, timeout_seconds=SECONDS) as stream:
            first = next(iter(stream))
            [beside] = client.extract("order", TEXTS[:1], timeout_seconds=SECONDS)
            rest = "".join(stream)
    assert first + rest
    assert (alone.json, alone.fields) == (beside.json, beside.fields)


@pytest.mark.slow
def test_extract_deadline_releases_engine(daemon: RunningDaemon) -> None:
    """An extract call that cannot finish in time ends at its deadline or is refused, and its engine places are
    released."""
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
def test_unsupported_record_schema_is_refused(daemon: RunningDaemon, tmp_path) -> None:
    """A schema with an unsupported keyword is refused at install, and one that no record can match at load; the
    installed version keeps answering."""
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
