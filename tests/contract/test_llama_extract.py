"""Records that a model writes, on SmolLM2-135M and on a tiny model."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from edge_agent.engine.protocol import Event, FailureReport, JobRequest, JobResult, LoadRequest, TextChunk
from edge_agent.engine.runtimes.llama.llama_bundle import read_bundle
from edge_agent.engine.runtimes.llama.llama_context import ROWS_MAX, ContextShape, LlamaContext, TokenRows
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from edge_agent.engine.runtimes.llama.record_grammar import GuideTokens, RecordDrafts, RecordGrammar, guide_tokens
from edge_agent.errors import MemoryShort, ModelFailed, ModelLoadFailed
from edge_agent.formats import record_schema
from edge_agent.formats.manifest import Manifest
from tests.support import record_schemas, tiny_gguf
from tests.support.bundles import RECORD_SCHEMA, manifest_of, smollm2_bundle
from tests.support.llama_mixed_jobs import finish
from tests.support.models import smollm2_path

TEXTS = (
    "I want to swap 3 red mugs that I bought on 2026-11-20.",
    "Do you have size nine boots?",
    'Is "}, {" die Größe 漢字?',
)
DATED = (TEXTS[0], "I want to swap 4 blue bowls that I bought on 2026-10-02.", TEXTS[1])
SENSIBLE, HOSTILE = 50, 50
STEPS_MAX = 2000


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Return the extract task of tests/support/bundles.py."""
    return manifest_of(smollm2_bundle(tmp_path_factory.mktemp("m") / "a", "extract"))


@pytest.fixture(scope="module")
def loaded(manifest: Manifest) -> Iterator[LlamaRuntime]:
    """Load once: "e" extracts, "g" generates."""
    runtime = LlamaRuntime()
    runtime.load(LoadRequest(runtime="llama", weights=str(smollm2_path()), sequences_max=6))
    runtime.attach("e", manifest, {})
    free = manifest.task.model_copy(update={"kind": "generate", "record_schema": None})
    runtime.attach("g", manifest.model_copy(update={"task": free}), {})
    yield runtime
    runtime.close()


@pytest.fixture
def runtime(loaded: LlamaRuntime) -> Iterator[LlamaRuntime]:
    """Yield the idle runtime, and require that it is idle again afterwards, without other bundles."""
    yield loaded
    for digest in set(loaded._bundles) - {"e", "g"}:
        loaded.detach(digest)
    assert not loaded.busy


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LlamaModel, GuideTokens]]:
    """Return a model of 600 tokens, of which only the vocabulary is used."""
    model = LlamaModel(str(tiny_gguf.write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")))
    tokens = guide_tokens(model)
    yield model, tokens
    del tokens
    model.close()


def with_schema(manifest: Manifest, schema: dict[str, Any], tokens_max: int = 64) -> Manifest:
    """Return the task with another schema and output limit."""
    limits = manifest.task.limits.model_copy(update={"output_tokens_max": tokens_max})
    task = manifest.task.model_copy(update={"record_schema": schema, "limits": limits})
    return manifest.model_copy(update={"task": task})


def extract(runtime: LlamaRuntime, text: str, digest: str = "e") -> JobResult:
    """Extract from one text alone."""
    runtime.submit(JobRequest(job_id="alone", digest=digest, text=text))
    (done,) = finish(runtime)
    assert isinstance(done, JobResult), done
    return done


def said(done: JobResult) -> tuple[Any, ...]:
    """Return everything in an answer that a caller sees, except times."""
    return done.record, done.fields, done.confidence, done.input_tokens, done.output_tokens


def test_record_fits_its_schema_for_any_text(runtime: LlamaRuntime) -> None:
    """For every text each field is present, in the order of the schema and with a confidence; the record's confidence
    is at most the lowest of these."""
    for text in TEXTS:
        done = extract(runtime, text)
        record = json.loads(done.record)
        jsonschema.validate(record, RECORD_SCHEMA)
        assert RECORD_SCHEMA["required"] == list(record) == list(done.fields)
        assert 0 < done.confidence <= min(done.fields.values()) <= 1
        assert json.dumps(record, ensure_ascii=False) == done.record
        assert done.prefill_ms > 0 < done.decode_ms


def test_record_is_filled_from_the_text(runtime: LlamaRuntime) -> None:
    """Values that the text states are in the record, so the model wrote them and not the grammar alone."""
    record = json.loads(extract(runtime, TEXTS[0]).record)
    assert ("red mug", 3, "2026-11-20") == (record["product"].removesuffix("s"), record["count"], record["day"])


def test_forced_tokens_take_no_step(runtime: LlamaRuntime) -> None:
    """A record takes less than 0.6 steps for each of its tokens, and its tokens are those that the tokenizer gives for
    its text."""
    runtime._bundles["e"].drafts = RecordDrafts()
    runtime.submit(JobRequest(job_id="alone", digest="e", text=TEXTS[0]))
    job = runtime._jobs["alone"]
    prompt = job.input_tokens
    steps = 0
    events: list[Event] = []
    while runtime.busy:
        events += runtime.step()
        steps += 1
    (done,) = events
    assert isinstance(done, JobResult)
    assert steps < done.output_tokens * 0.6
    own = job.tokens[prompt:]
    assert done.output_tokens == len(own)
    assert runtime._model.tokenize(done.record, special=False) == own


def steps_of(runtime: LlamaRuntime, text: str) -> tuple[int, JobResult]:
    """Extract from one text alone; return the number of steps and the answer."""
    runtime.submit(JobRequest(job_id="alone", digest="e", text=text))
    steps, events = 0, list[Event]()
    while runtime.busy:
        events += runtime.step()
        steps += 1
    (done,) = events
    assert isinstance(done, JobResult)
    return steps, done


@pytest.mark.slow
def test_drafts_save_steps_and_change_nothing(runtime: LlamaRuntime) -> None:
    """With drafts from earlier records, of the same or of other texts, records are the same to the last bit and take
    fewer steps."""
    bundle, plain = runtime._bundles["e"], dict[str, tuple[int, JobResult]]()
    for text in DATED:
        bundle.drafts = RecordDrafts()
        plain[text] = steps_of(runtime, text)
    saved = 0
    for text in (*DATED, *reversed(DATED)):  # the last record was another one: half of a draft is wrong
        steps, done = steps_of(runtime, text)
        assert said(done) == said(plain[text][1])
        saved += plain[text][0] - steps
    assert saved > 2 * sum(steps for steps, _ in plain.values()) * 0.2
    for _ in range(3):
        steps, done = steps_of(runtime, TEXTS[0])
    assert said(done) == said(plain[TEXTS[0]][1])
    assert steps < plain[TEXTS[0]][0] * 0.6


def test_draft_does_not_exceed_the_output_limit(runtime: LlamaRuntime, manifest: Manifest) -> None:
    """A task with learned drafts writes a record of exactly its output limit, and one that is a token longer fails."""
    tokens = extract(runtime, TEXTS[0]).output_tokens
    runtime.attach("exact", with_schema(manifest, RECORD_SCHEMA, tokens_max=tokens), {})
    runtime.attach("short", with_schema(manifest, RECORD_SCHEMA, tokens_max=tokens - 1), {})
    for bundle in map(runtime._bundles.get, ("exact", "short")):
        assert bundle is not None
        bundle.drafts = runtime._bundles["e"].drafts
    assert said(extract(runtime, TEXTS[0], "exact")) == said(extract(runtime, TEXTS[0]))
    runtime.submit(JobRequest(job_id="short", digest="short", text=TEXTS[0]))
    (failed,) = finish(runtime)
    assert isinstance(failed, FailureReport)
    assert f"not complete after {tokens - 1} tokens" in failed.message


@pytest.mark.slow
def test_confidence_equals_that_of_token_by_token_decoding(runtime: LlamaRuntime, manifest: Manifest) -> None:
    """The confidence equals the product of the softmax over the allowed tokens, computed token by token in a separate
    context without forced tokens."""
    done = extract(runtime, TEXTS[1])
    model = LlamaModel(str(smollm2_path()))
    context = LlamaContext(model, ContextShape(cells=1024, sequences=2, kv_type="f16", threads=1))
    bundle = read_bundle("x", manifest, model)
    prompt = bundle.prompt_tokens(model, TEXTS[1])
    answer = model.tokenize(done.record, special=False)
    walk = RecordGrammar(guide_tokens(model), RECORD_SCHEMA).start_record()
    whole, total = prompt + answer[:-1], 0.0
    for start in range(0, len(whole), ROWS_MAX):
        part = whole[start : start + ROWS_MAX]
        context.decode([TokenRows(0, start, part, logits=len(part))])
        for row in range(max(0, len(prompt) - 1 - start), len(part)):
            token = answer[start + row - len(prompt) + 1]
            allowed = walk.allowed_tokens()
            logits = context.logits(row)[allowed].astype(np.float64)
            total += float(logits[list(allowed).index(token)] - np.logaddexp.reduce(logits))
            walk.take(token)
    assert walk.complete
    context.close()
    del walk
    model.close()
    # Where another token begins the same forced text, as "p" for "product", this walk sees a choice that a jump skips.
    assert math.exp(total) <= done.confidence * 1.001
    assert done.confidence == pytest.approx(math.exp(total), rel=0.25)


def test_temperature_changes_the_confidence_but_not_the_record(runtime: LlamaRuntime, manifest: Manifest) -> None:
    """A higher temperature gives the same record with a lower confidence, as calibration requires."""
    hot = manifest.confidence.model_copy(update={"temperature": 4.0})
    runtime.attach("hot", manifest.model_copy(update={"confidence": hot}), {})
    plain, flat = extract(runtime, TEXTS[0]), extract(runtime, TEXTS[0], "hot")
    assert plain.record == flat.record
    assert flat.confidence < plain.confidence


def turmoil(runtime: LlamaRuntime, asked: dict[str, str]) -> Iterator[Event]:
    """Request records (listed in `asked`) among streams and cancellations."""
    dice = random.Random(3)
    for turn in range(12):
        asked[str(turn)] = text = dice.choice(TEXTS)
        runtime.submit(JobRequest(job_id=str(turn), digest="e", text=text))
        if turn % 4 == 0:
            runtime.submit(
                JobRequest(job_id=f"g{turn}", digest="g", text=text, output_tokens_max=dice.randrange(1, 20))
            )
        for _ in range(dice.randrange(6)):
            yield from runtime.step() if runtime.busy else []
        if dice.random() < 0.2:
            yield from runtime.cancel(str(turn))
    yield from finish(runtime)


@pytest.mark.slow
def test_record_does_not_depend_on_its_neighbours(runtime: LlamaRuntime) -> None:
    """A record is the same to the last bit next to other extractions, streams and cancellations."""
    alone = {text: said(extract(runtime, text)) for text in TEXTS}
    asked: dict[str, str] = {}
    events = list(turmoil(runtime, asked))
    done = {event.job_id: said(event) for event in events if isinstance(event, JobResult) and event.record}
    gone = {event.job_id for event in events if isinstance(event, FailureReport)}
    assert asked.keys() == done.keys() | gone
    assert len(done) > len(gone) > 0
    assert {job_id: alone[asked[job_id]] for job_id in done} == done
    assert any(isinstance(event, TextChunk) for event in events)


def test_record_continues_when_the_cache_moves(runtime: LlamaRuntime, manifest: Manifest) -> None:
    """A bundle that is attached and detached while a record is written does not change it."""
    before = said(extract(runtime, TEXTS[1]))
    runtime.submit(JobRequest(job_id="alone", digest="e", text=TEXTS[1]))
    events = [event for _ in range(8) for event in runtime.step()]
    runtime.attach("other", with_schema(manifest, record_schemas.sensible(random.Random(1))), {})
    events += [event for _ in range(2) for event in runtime.step()]
    runtime.detach("other")
    events += finish(runtime)
    assert [before] == [said(event) for event in events if isinstance(event, JobResult)]


def test_cancelled_records_free_their_places(runtime: LlamaRuntime) -> None:
    """Six records that are cancelled at different points free their places for later jobs."""
    for i in range(6):
        runtime.submit(JobRequest(job_id=str(i), digest="e", text=TEXTS[i % len(TEXTS)]))
    ended: list[Event] = []
    for i in range(6):
        ended += [*runtime.step(), *runtime.cancel(str(i))]
    assert ["CANCELLED"] * 6 == [event.reason for event in ended if isinstance(event, FailureReport)]
    assert not runtime.busy
    assert extract(runtime, TEXTS[0]).record


def test_record_over_the_output_limit_fails_alone(runtime: LlamaRuntime, manifest: Manifest) -> None:
    """A record that exceeds its output limit fails with that limit instead of a partial record; other jobs continue."""
    runtime.attach("short", with_schema(manifest, RECORD_SCHEMA, tokens_max=12), {})
    runtime.submit(JobRequest(job_id="short", digest="short", text=TEXTS[0]))
    runtime.submit(JobRequest(job_id="kept", digest="e", text=TEXTS[0]))
    ends = {event.job_id: event for event in finish(runtime)}
    assert isinstance(ends["kept"], JobResult)
    assert isinstance(ends["short"], FailureReport)
    assert ("MODEL_FAILED", "the record is not complete after 12 tokens") == (
        ends["short"].reason,
        ends["short"].message,
    )
    assert "output_tokens_max" in ends["short"].remedy


def test_schema_without_a_possible_record_is_refused(runtime: LlamaRuntime, manifest: Manifest) -> None:
    """A schema within the limits that no record can satisfy, or that llguidance does not support, is refused at attach
    with the reason."""
    for part, reason in (
        ({"type": "integer", "minimum": 5, "maximum": 4}, "unsatisfiable"),
        ({"type": "string", "pattern": "^(?=a)b"}, "look-around.* is not supported"),
        ({"type": "string", "pattern": "(" * 90}, "regex parse error"),
    ):
        schema = {"type": "object", "properties": {"a": part}, "required": ["a"]}
        record_schema.check(schema)
        with pytest.raises(ModelLoadFailed, match=rf"(?i)the record's schema cannot be followed: .*{reason}") as caught:
            runtime.attach("bad", with_schema(manifest, schema), {})
        assert "record_schema" in caught.value.remedy
    assert extract(runtime, TEXTS[0]).record


def test_records_need_additional_memory(manifest: Manifest) -> None:
    """Where memory suffices only for the model, the first extract bundle is refused with the numbers."""
    runtime = LlamaRuntime()
    details = runtime.load(LoadRequest(runtime="llama", weights=str(smollm2_path()), sequences_max=2))
    need = int(details["memory_estimated_bytes"])
    runtime.close()
    tight = LoadRequest(
        runtime="llama", weights=str(smollm2_path()), sequences_max=2, memory_bytes_max=need + 1_000_000
    )
    runtime.load(tight)
    with pytest.raises(MemoryShort, match="the model needs"):
        runtime.attach("e", manifest, {})
    runtime.close()


def drive(model: LlamaModel, walk: Any, dice: random.Random) -> str:
    """Follow the grammar at random to the end of a record; return it, or nothing if it has no end. Raises
    ModelFailed."""
    written: list[int] = []
    for _ in range(STEPS_MAX):
        written += walk.take_forced()
        if walk.complete:
            return b"".join(model.token_text(token).piece for token in written).decode()
        token = int(dice.choice(walk.allowed_tokens()))
        walk.take(token)
        written.append(token)
    return ""


@pytest.mark.parametrize("seed", range(0, SENSIBLE, 10))
def test_any_allowed_tokens_make_a_valid_record(tiny: tuple[LlamaModel, GuideTokens], seed: int) -> None:
    """Records of randomly chosen allowed tokens are valid for another validator and have the schema's order of
    fields."""
    model, tokens = tiny
    for dice in map(random.Random, range(seed, seed + 10)):
        schema = record_schemas.sensible(dice)
        record_schema.check(schema)
        grammar = RecordGrammar(tokens, schema)
        for _ in range(4):
            record = json.loads(drive(model, grammar.start_record(), dice))
            jsonschema.Draft202012Validator(schema).validate(record)
            assert [name for name in record_schema.fields(schema) if name in record] == list(record)


@pytest.mark.parametrize("seed", range(0, HOSTILE, 10))
def test_hostile_schema_is_refused_or_fails_one_record(tiny: tuple[LlamaModel, GuideTokens], seed: int) -> None:
    """A hostile schema is refused, does not load, fails one record or gives a record; no other error is raised, and the
    next schema works."""
    model, tokens = tiny
    for dice in map(random.Random, range(seed, seed + 10)):
        schema = record_schemas.hostile(dice)
        try:
            record_schema.check(schema)
            drive(model, RecordGrammar(tokens, schema).start_record(), dice)
        except (ValueError, ModelLoadFailed, ModelFailed) as error:
            assert str(error)
        assert RecordGrammar(tokens, RECORD_SCHEMA).start_record().take_forced()


def test_tiny_model_writes_a_valid_record(tmp_path: Path, manifest: Manifest) -> None:
    """A model with a vocabulary of single bytes and few words, and random weights, writes a record that fits its
    schema."""
    runtime = LlamaRuntime()
    weights = tiny_gguf.write(tmp_path / "tiny.gguf")
    runtime.load(LoadRequest(runtime="llama", weights=str(weights), context_tokens=256, sequences_max=2))
    prompt = manifest.task.prompt.model_copy(update={"template": "{input}\n"})
    task = with_schema(manifest, RECORD_SCHEMA, tokens_max=150).task.model_copy(update={"prompt": prompt})
    runtime.attach("e", manifest.model_copy(update={"task": task}), {})
    done = extract(runtime, "two lamps")
    runtime.close()
    jsonschema.validate(json.loads(done.record), RECORD_SCHEMA)
