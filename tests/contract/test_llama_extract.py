"""Records that a model writes: sequence_jobs.py and record_grammar.py on SmolLM2-135M and on a tiny model."""

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
from tests.support.llama_turmoil import finish
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
    """The task of tests/support/bundles.py."""
    return manifest_of(smollm2_bundle(tmp_path_factory.mktemp("m") / "a", "extract"))


@pytest.fixture(scope="module")
def loaded(manifest: Manifest) -> Iterator[LlamaRuntime]:
    """Load once: "e" extracts, "g" writes freely."""
    runtime = LlamaRuntime()
    runtime.load(LoadRequest(runtime="llama", weights=str(smollm2_path()), sequences_max=6))
    runtime.attach("e", manifest, {})
    free = manifest.task.model_copy(update={"kind": "generate", "record_schema": None})
    runtime.attach("g", manifest.model_copy(update={"task": free}), {})
    yield runtime
    runtime.close()


@pytest.fixture
def runtime(loaded: LlamaRuntime) -> Iterator[LlamaRuntime]:
    """Hand out the runtime idle and require it back idle, with no other bundles."""
    yield loaded
    for digest in set(loaded._bundles) - {"e", "g"}:
        loaded.detach(digest)
    assert not loaded.busy


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LlamaModel, GuideTokens]]:
    """A model of 600 tokens, whose vocabulary is all that is used of it."""
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
    """Return all that a caller sees of an answer but for times."""
    return done.record, done.fields, done.confidence, done.input_tokens, done.output_tokens


def test_a_record_fits_its_schema_whatever_the_text(runtime: LlamaRuntime) -> None:
    """Every field is there in the order of the schema, with a confidence; the record's is at most the least."""
    for text in TEXTS:
        done = extract(runtime, text)
        record = json.loads(done.record)
        jsonschema.validate(record, RECORD_SCHEMA)
        assert RECORD_SCHEMA["required"] == list(record) == list(done.fields)
        assert 0 < done.confidence <= min(done.fields.values()) <= 1
        assert json.dumps(record, ensure_ascii=False) == done.record
        assert done.prefill_ms > 0 < done.decode_ms


def test_the_model_fills_the_record_from_the_text(runtime: LlamaRuntime) -> None:
    """What the text says plainly is in the record: it was written by the model and not by the grammar alone."""
    record = json.loads(extract(runtime, TEXTS[0]).record)
    assert ("red mug", 3, "2026-11-20") == (record["product"].removesuffix("s"), record["count"], record["day"])


def test_forced_tokens_take_no_step(runtime: LlamaRuntime) -> None:
    """A record takes far fewer steps than it has tokens, and it is cut into tokens as the tokenizer cuts it."""
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
    """Extract from one text alone; return the number of steps, too."""
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
    """Learnt from the same record, from those of other texts, or from all: the same to the last bit, in fewer steps."""
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


def test_a_draft_does_not_get_past_the_limit(runtime: LlamaRuntime, manifest: Manifest) -> None:
    """Of a task whose records were learnt, and may be no longer than they are."""
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
def test_confidence_is_that_of_a_walk_token_by_token(runtime: LlamaRuntime, manifest: Manifest) -> None:
    """In a context of its own, without jumps: the product over all tokens of the softmax over what was allowed."""
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


def test_temperature_changes_confidence_and_not_the_record(runtime: LlamaRuntime, manifest: Manifest) -> None:
    """Calibration asks for the same records at other temperatures."""
    hot = manifest.confidence.model_copy(update={"temperature": 4.0})
    runtime.attach("hot", manifest.model_copy(update={"confidence": hot}), {})
    plain, flat = extract(runtime, TEXTS[0]), extract(runtime, TEXTS[0], "hot")
    assert plain.record == flat.record
    assert flat.confidence < plain.confidence


def turmoil(runtime: LlamaRuntime, asked: dict[str, str]) -> Iterator[Event]:
    """Ask for records (noted in `asked`) amid streams and cancellations."""
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
def test_a_record_does_not_depend_on_its_neighbours(runtime: LlamaRuntime) -> None:
    """Beside other extractions, streams and cancellations it is the same to the last bit."""
    alone = {text: said(extract(runtime, text)) for text in TEXTS}
    asked: dict[str, str] = {}
    events = list(turmoil(runtime, asked))
    done = {event.job_id: said(event) for event in events if isinstance(event, JobResult) and event.record}
    gone = {event.job_id for event in events if isinstance(event, FailureReport)}
    assert asked.keys() == done.keys() | gone
    assert len(done) > len(gone) > 0
    assert {job_id: alone[asked[job_id]] for job_id in done} == done
    assert any(isinstance(event, TextChunk) for event in events)


def test_a_record_goes_on_when_the_cache_moves(runtime: LlamaRuntime, manifest: Manifest) -> None:
    """A bundle that comes and goes in the middle of a record changes nothing in it."""
    before = said(extract(runtime, TEXTS[1]))
    runtime.submit(JobRequest(job_id="alone", digest="e", text=TEXTS[1]))
    events = [event for _ in range(8) for event in runtime.step()]
    runtime.attach("other", with_schema(manifest, record_schemas.sensible(random.Random(1))), {})
    events += [event for _ in range(2) for event in runtime.step()]
    runtime.detach("other")
    events += finish(runtime)
    assert [before] == [said(event) for event in events if isinstance(event, JobResult)]


def test_cancelled_records_free_their_places(runtime: LlamaRuntime) -> None:
    """All are cancelled at different points; as many as before find room."""
    for i in range(6):
        runtime.submit(JobRequest(job_id=str(i), digest="e", text=TEXTS[i % len(TEXTS)]))
    ended: list[Event] = []
    for i in range(6):
        ended += [*runtime.step(), *runtime.cancel(str(i))]
    assert ["CANCELLED"] * 6 == [event.reason for event in ended if isinstance(event, FailureReport)]
    assert not runtime.busy
    assert extract(runtime, TEXTS[0]).record


def test_a_record_that_gets_too_long_fails_alone(runtime: LlamaRuntime, manifest: Manifest) -> None:
    """It is an error that names the limit, never half a record; others go on."""
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


def test_a_schema_without_a_record_is_refused(runtime: LlamaRuntime, manifest: Manifest) -> None:
    """What the limits let through and nothing fits, or llguidance does not know, fails at attach with the reason."""
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


def test_records_need_memory_of_their_own(manifest: Manifest) -> None:
    """The first extract bundle is refused with the numbers where only the model fits."""
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
    """Walk at random to the end of a record; return it, or nothing if it has no end. Raises ModelFailed."""
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
def test_whatever_is_chosen_fits_the_schema(tiny: tuple[LlamaModel, GuideTokens], seed: int) -> None:
    """A model that takes any allowed token writes records that another validator takes, in the grammar's own style."""
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
def test_a_hostile_schema_ends_in_words(tiny: tuple[LlamaModel, GuideTokens], seed: int) -> None:
    """Refused, not loaded, one record failed, or a record: nothing else comes out, and the next schema works."""
    model, tokens = tiny
    for dice in map(random.Random, range(seed, seed + 10)):
        schema = record_schemas.hostile(dice)
        try:
            record_schema.check(schema)
            drive(model, RecordGrammar(tokens, schema).start_record(), dice)
        except (ValueError, ModelLoadFailed, ModelFailed) as error:
            assert str(error)
        assert RecordGrammar(tokens, RECORD_SCHEMA).start_record().take_forced()


def test_a_file_of_the_tiny_model_writes_records(tmp_path: Path, manifest: Manifest) -> None:
    """A vocabulary of single bytes and few words, and weights of noise, still give a record that fits."""
    runtime = LlamaRuntime()
    weights = tiny_gguf.write(tmp_path / "tiny.gguf")
    runtime.load(LoadRequest(runtime="llama", weights=str(weights), context_tokens=256, sequences_max=2))
    prompt = manifest.task.prompt.model_copy(update={"template": "{input}\n"})
    task = with_schema(manifest, RECORD_SCHEMA, tokens_max=150).task.model_copy(update={"prompt": prompt})
    runtime.attach("e", manifest.model_copy(update={"task": task}), {})
    done = extract(runtime, "two lamps")
    runtime.close()
    jsonschema.validate(json.loads(done.record), RECORD_SCHEMA)
