"""The rules of the manifest: a violation is refused with its field, and only the two documented errors are raised."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.errors import ManifestInvalid, SchemaUnknown
from edge_agent.formats import manifest
from edge_agent.formats.manifest import Manifest, encode, is_safe_path, parse
from tests.support.bundles import merged

SHA = "0" * 64
RECORD = {"type": "object", "properties": {"a": {"type": "boolean"}}}
BASE: dict[str, Any] = {
    "schema": "edge-agent/bundle/v1",
    "task": {"name": "pos-intent", "kind": "classify", "labels": ["refund", "price"]},
    "version": "1.0.0",
    "runtime": "echo",
}


def artifact(role: str = "weights", path: str = "model.bin", **more: Any) -> dict[str, Any]:
    """Return one artifact as in JSON."""
    return {"role": role, "path": path, "sha256": SHA, "size_bytes": 1, **more}


def parsed(**more: Any) -> Manifest:
    """Parse the base manifest with sections merged in."""
    return parse(json.dumps(merged(BASE, more)).encode())


def refusal(**more: Any) -> str:
    """Return the message with which a manifest is refused."""
    with pytest.raises(ManifestInvalid) as caught:
        parsed(**more)
    return caught.value.message


def test_manifest_is_read_back() -> None:
    """`parse` reads what `encode` writes, and encoding it again gives the same bytes."""
    first = parsed(artifacts=[artifact()], confidence={"policy": "always_escalate", "temperature": 2.0})
    assert first == parse(encode(first))
    assert encode(first) == encode(parse(encode(first)))


def test_the_digest_is_that_of_the_stored_bytes() -> None:
    """Two encodings of one manifest are two bundles."""
    compact, spaced = json.dumps(BASE).encode(), json.dumps(BASE, indent=4).encode()
    assert parse(compact) == parse(spaced)
    assert hashlib.sha256(compact).hexdigest() == manifest.digest_of(compact)
    assert manifest.digest_of(compact) != manifest.digest_of(spaced)


CALIBRATED = {
    **{"policy": "threshold", "temperature": 1.0, "threshold": 0.3, "target_risk": 0.05, "delta": 0.1},
    **{"n": 100, "bound": 0.05, "coverage": 0.9},
}
GATE = {"score": "label_mass", "held_up_max": 0.25, "scores": [0.5, 1.0, 1.5]}
ONNX = {"runtime": "onnx", "artifacts": [artifact(), artifact("tokenizer", "t.json")]}


def test_largest_gate_fits_the_manifest() -> None:
    """The largest number of held-out scores takes less than 200 kB, and one more is refused."""
    scores = [struct.unpack("<f", struct.pack("<f", 400 + place / 7))[0] for place in range(4096)]
    gate = {**GATE, "score": "ood_score", "held_up_max": 0.03, "scores": scores}
    first = parsed(**ONNX, confidence={**CALIBRATED, "floor": 0.5, "gate": gate})
    assert first == parse(encode(first))
    assert len(encode(first)) < 200_000
    assert ("ood_score", 0.5) == (first.gate_name, first.confidence.confidence_min)  # type: ignore[union-attr]
    assert "confidence.threshold.gate.scores" in refusal(
        **ONNX, confidence={**CALIBRATED, "gate": {**gate, "scores": [*scores, scores[-1]]}}
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"confidence": {"gate": {**GATE, "scores": [1.0, 0.5, 2.0]}}}, "'scores' must rise"),
        ({"confidence": {"gate": {**GATE, "scores": [0.5, 1.0]}}}, "it needs 3 at least"),
        ({"confidence": {"gate": {**GATE, "family_sizes": [3, 3, 3]}}}, "'gate' has scores of 1 families"),
        ({"confidence": {"gate": {**GATE, "family_sizes": [1, 1]}}}, "need as many 'family_sizes'"),
        ({"confidence": {"gate": {**GATE, "family_sizes": [1, 1, 0]}}}, "gate.family_sizes"),
        ({"confidence": {"gate": {**GATE, "scores": []}}}, "gate.scores"),
        ({"confidence": {"gate": {**GATE, "held_up_max": 0.0}}}, "gate.held_up_max"),
        ({"confidence": {"gate": {**GATE, "held_up_max": 1.0}}}, "gate.held_up_max"),
        ({"confidence": {"gate": {**GATE, "score": "ood_score"}}}, "needs the score 'label_mass'"),
        ({"confidence": {"gate": GATE}, **ONNX}, "needs the score 'ood_score'"),
        ({"confidence": {"gate": GATE}, "task": {"kind": "extract", "labels": []}}, "extract on echo has no score"),
        ({"confidence": {"floor": 1.5}}, "floor"),
    ],
)
def test_invalid_gate_is_refused(more: dict[str, Any], said: str) -> None:
    """Scores must increase, be sufficient for the share, and be available in the runtime."""
    assert said in refusal(**merged({"confidence": CALIBRATED}, more))


@pytest.mark.parametrize("policy", [CALIBRATED, {"policy": "always_escalate"}])
def test_absent_gate_and_floor_are_not_written(policy: dict[str, Any]) -> None:
    """Without a gate or floor their keys are absent, because older agents refuse unknown keys."""
    first = parsed(confidence=policy)
    assert set() == {"gate", "floor"} & json.loads(encode(first))["confidence"].keys()
    assert ("none", first) == (first.gate_name, parse(encode(first)))


def test_family_sizes_are_written_only_if_present() -> None:
    """A gate whose rows are all of different families has the keys that it had before families were counted."""
    plain = parsed(**ONNX, confidence={**CALIBRATED, "gate": {**GATE, "score": "ood_score"}})
    assert {"score", "held_up_max", "scores"} == json.loads(encode(plain))["confidence"]["gate"].keys()
    gate = {"score": "ood_score", "held_up_max": 0.25, "scores": [0.5, 1.0, 1.5, 2.0], "family_sizes": [2, 1, 2, 1]}
    first = parsed(**ONNX, confidence={**CALIBRATED, "gate": gate})
    assert [2, 1, 2, 1] == json.loads(encode(first))["confidence"]["gate"]["family_sizes"]
    assert first == parse(encode(first))


@pytest.mark.parametrize("schema", ["edge-agent/bundle/v2", "", None, 1, ["edge-agent/bundle/v1"]])
def test_an_unknown_schema_is_named(schema: object) -> None:
    """The message has the unknown and the supported schema."""
    with pytest.raises(SchemaUnknown) as caught:
        parsed(schema=schema)
    assert repr(schema) in caught.value.message
    assert "'edge-agent/bundle/v1'" in caught.value.message


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "must hold a JSON object"),
        (b" " * (manifest.MANIFEST_BYTES_MAX + 1), "the limit is 4194304"),
    ],
)
def test_text_that_is_not_a_json_object_is_refused(stored: bytes, said: str) -> None:
    """Broken, deeply nested or too large text raises ManifestInvalid."""
    with pytest.raises(ManifestInvalid, match=said):
        parse(stored)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"vresion": "1"}, "vresion: Extra inputs are not permitted"),
        ({"task": {"treshold": 1}}, "task.treshold: Extra inputs"),
        ({"task": {"labels": ["a", "b", "a"]}}, "task.labels: duplicate labels: a"),
        ({"task": {"labels": ["only"]}}, "task: a classify task needs at least 2 labels"),
        ({"task": {"labels": ["a", ""]}}, "task.labels.1:"),
        ({"task": {"kind": "generate"}}, "task: a task of kind generate has no labels"),
        ({"task": {"kind": "translate"}}, "task.kind:"),
        ({"task": {"name": "Pos Intent"}}, "task.name:"),
        ({"task": {"name": "-a"}}, "task.name:"),
        ({"task": {"name": "a" * 64}}, "task.name:"),
        ({"task": {"prompt": {"template": "no place"}}}, "task.prompt: 'template' must hold {input} exactly once"),
        ({"task": {"prompt": {"template": "{input}{input}"}}}, "exactly once"),
        ({"task": {"prompt": {"system": "be kind"}}}, "'system' needs 'chat: true'"),
        ({"task": {"prompt": {"stops": [""]}}}, "'stops' must not hold an empty string"),
        ({"task": {"limits": {"input_tokens_max": 0}}}, "task.limits.input_tokens_max:"),
        ({"version": "1.0"}, "version:"),
        ({"version": "1.0.0+build"}, "version:"),
        ({"version": "1.0.0\n"}, "version:"),
        ({"runtime": "torch"}, "runtime:"),
        (
            {"runtime": "llama", "task": {"kind": "embed", "labels": []}},
            "runtime 'llama' serves classify, decide, extract, generate",
        ),
        (
            {"runtime": "llama", "task": {"kind": "extract", "labels": []}, "artifacts": [artifact()]},
            "extract on llama needs 'record_schema', and no 'labels'",
        ),
        ({"task": {"record_schema": RECORD}}, "'record_schema' is for extract on llama; this is classify on echo"),
        ({"task": {"record_schema": {"type": "array"}}}, "task.record_schema: a record is an object"),
        ({"runtime": "llama"}, "runtime 'llama' needs an artifact of role 'weights'"),
        ({"runtime": "onnx", "artifacts": [artifact()]}, "needs an artifact of role 'tokenizer'"),
        ({"artifacts": [artifact(path="a"), artifact(path="b")]}, "more than one artifact of role 'weights'"),
        ({"artifacts": [artifact(), artifact("golden")]}, "two artifacts have the same path"),
        ({"artifacts": [artifact(path="manifest.json")]}, "one is called manifest.json"),
        ({"artifacts": [artifact(path="../up")]}, "artifacts.0.path: path '../up' must be relative"),
        ({"artifacts": [artifact(sha256="A" * 64)]}, "artifacts.0.sha256:"),
        ({"artifacts": [artifact(size_bytes=-1)]}, "artifacts.0.size_bytes:"),
        ({"artifacts": [artifact("report", f"r{i}") for i in range(65)]}, "artifacts:"),
        ({"confidence": {"policy": "guess"}}, "confidence:"),
        ({"confidence": {"policy": "threshold", "temperature": 1.0}}, "confidence.threshold.threshold: Field required"),
        (
            {"confidence": {"policy": "always_escalate", "temperature": 0}},
            "temperature: Input should be greater than 0",
        ),
    ],
)
def test_a_broken_rule_is_named(more: dict[str, Any], said: str) -> None:
    """The message has the field and the rule."""
    assert said in refusal(**more)


def test_a_generation_must_fit_the_context() -> None:
    """For generate tasks input and output limits together must fit the context, for classify tasks the input limit."""
    sizes = {"engine": {"context_tokens": 700}, "runtime": "llama", "artifacts": [artifact()]}
    limits = {"input_tokens_max": 512, "output_tokens_max": 256}
    assert "classify" == parsed(**sizes, task={"limits": limits}).task.kind
    said = refusal(**sizes, task={"limits": limits, "kind": "generate", "labels": []})
    assert "input and output limits need 768 tokens; 'context_tokens' is 700" in said


def test_further_problems_are_counted() -> None:
    """The first violation is described and the others counted."""
    assert refusal(version="x", runtime="y").endswith("(and 1 more)")


def test_hostile_text_makes_a_short_message() -> None:
    """A megabyte in a key or in the schema is not repeated in the error."""
    assert len(refusal(**{"y" * 1_000_000: 1})) < 1000
    with pytest.raises(SchemaUnknown) as caught:
        parsed(schema="x" * 1_000_000)
    assert len(caught.value.message) < 1000
    assert len(caught.value.metadata["schema"]) < 1000


def test_bundles_share_an_engine_by_weights_and_settings() -> None:
    """Bundles with the same weights and engine settings share an engine, whatever their adapter, labels and version."""
    first = parsed(artifacts=[artifact()])
    again = parsed(artifacts=[artifact(path="renamed"), artifact("adapter", "a")], version="2.0.0")
    larger = parsed(artifacts=[artifact()], engine={"context_tokens": 2048})
    other = parsed(artifacts=[artifact(sha256="1" * 64)])
    assert first.engine_key() == again.engine_key()
    assert 3 == len({first.engine_key(), larger.engine_key(), other.engine_key()})


@pytest.mark.parametrize("path", ["a", "a.bin", "dir/sub/file-1_2.gguf", "..a", "a..b", "with space", "a+b"])
def test_plain_relative_paths_are_safe(path: str) -> None:
    """Letters, digits, and '._/+ -'."""
    assert is_safe_path(path)


@pytest.mark.parametrize(
    "path",
    ["", "/", "/a", "a/", "..", "../a", "a/../b", "a/..", ".", "./a", "a/./b", "a//b", "a\\b", "a\n", "a\0", "ä"],
)
def test_other_paths_are_not_safe(path: str) -> None:
    """Each path has one spelling: one that could be written shorter is refused."""
    assert not is_safe_path(path)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_edits = st.dictionaries(st.sampled_from([*Manifest.model_fields, "schema", "other"]), _json, max_size=3)
_tasks = st.dictionaries(st.sampled_from(["name", "kind", "labels", "prompt", "limits", "x"]), _json, max_size=3)


@given(edits=_edits, task=_tasks)
@settings(max_examples=200)
def test_any_json_is_parsed_or_refused(edits: dict[str, Any], task: dict[str, Any]) -> None:
    """Only SchemaUnknown and ManifestInvalid are raised, with a message that can be encoded."""
    try:
        parse(json.dumps({**merged(BASE, {"task": task}), **edits}).encode())
    except (SchemaUnknown, ManifestInvalid) as error:
        assert error.message.encode()


PERSONAL = {"task": {"name": "pii", "kind": "redact", "labels": ["O", "B-NAME", "I-NAME"]}}


def test_redaction_section_is_read_back() -> None:
    """Other bundles have no such section, so older agents can read them."""
    bound = {"target": 0.02, "delta": 0.1, "n": 400, "families": 380, "values": 900, "values_max": 4, "bound": 0.02}
    bound |= {"rules": "2", "labeled_by": "400 human"}
    first = parsed(**PERSONAL, redaction={"cutoff": 0.2, "labels": ["NAME"], "bound": bound})
    assert first == parse(encode(first))
    assert ("NAME",) == first.redaction_rule.counted(first.task.labels)
    assert "redaction" not in json.loads(encode(parsed()))
    assert 0.5 == parsed(**PERSONAL).redaction_rule.cutoff


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"task": {"labels": ["B-NAME", "I-NAME"]}}, "needs the tag 'O'"),
        ({"task": {"labels": ["O", "NAME"]}}, "'NAME' is not"),
        ({"task": {"labels": ["O", "B-"]}}, "'B-' is not"),
        ({"task": {"labels": ["O"]}}, "at least one type"),
        ({"redaction": {"labels": ["CITY"]}}, "no tags of that type"),
        ({"redaction": {"cutoff": 0}}, "cutoff"),
        ({"redaction": {"cutoff": float("nan")}}, "NaN"),
        ({"redaction": {"bound": {"target": 0.02, "delta": 0.1, "n": 0, "bound": 0.5}}}, "bound.n"),
        ({"runtime": "llama"}, "not redact"),
    ],
)
def test_invalid_redaction_bundle_is_refused(more: dict[str, Any], expected: str) -> None:
    """Tags that are not BIO tags, unknown types, a cut-off outside 0 to 1 and a runtime without tags are refused."""
    assert expected in refusal(**merged(PERSONAL, more))


def test_redaction_section_requires_the_kind_redact() -> None:
    """A classifier replaces nothing."""
    assert "'redaction' is for a task of kind redact" in refusal(redaction={"cutoff": 0.2})
