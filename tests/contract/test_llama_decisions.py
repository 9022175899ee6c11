"""Questions about one input on the llama engine: the same bits alone and together, in groups, and next to other
jobs."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge_agent.engine.protocol import AskedQuestion, Event, FailureReport, JobRequest, JobResult, LoadRequest
from edge_agent.engine.runtimes.llama.kv_cells import QUESTIONS_MAX
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from edge_agent.errors import InputTooLong, InvalidRequest, ModelLoadFailed
from edge_agent.formats.manifest import Manifest
from tests.support import tiny_gguf
from tests.support.models import smollm2_path

CONTEXT_TOKENS, INPUT_TOKENS = 320, 120
STEPS_MAX = 20_000
TEXT = "My coat of last week has lost its buttons and I want my money back, now."
TEMPLATE = "Customer: {input}\n\nQuestion: {question}\nAnswer:"
NO_YES = ("no", "yes")
QUESTIONS = (
    AskedQuestion("intent", "choice", "What is wanted?", ("refund", "price", "opening hours", "opening hours today")),
    AskedQuestion("urgent", "predicate", "Is it urgent?", NO_YES),
    AskedQuestion("anger", "score", "How angry?", ("calm", "annoyed", "angry"), ("no sign of it", "some", "shouts")),
    AskedQuestion("long", "choice", "Of " + "things, " * 15, ("the shop", "the store", "home"), temperature=2.0),
    AskedQuestion("about", "predicate", "Is it about a coat?", NO_YES, ("something else", "coats and jackets")),
)
Answer = tuple[tuple[float, ...], float]


def make(kind: str = "decide", **task: Any) -> Manifest:
    """Return a manifest; a decide task accepts the questions of the call."""
    if kind == "decide":
        task = {"open_questions": True, **task}
    plain = {
        "name": "till",
        "kind": kind,
        "prompt": {"template": TEMPLATE if kind == "decide" else "Customer: {input}\nWants:"},
        "limits": {"input_tokens_max": INPUT_TOKENS, "output_tokens_max": 40},
        **task,
    }
    whole = {"schema": "edge-agent/bundle/v1", "task": plain, "version": "1.0.0", "runtime": "llama"}
    artifact = {"role": "weights", "path": "model.gguf", "sha256": "0" * 64, "size_bytes": 1}
    return Manifest.model_validate({**whole, "engine": {"context_tokens": CONTEXT_TOKENS}, "artifacts": [artifact]})


def loaded(weights: Path, jobs: int = 6) -> LlamaRuntime:
    """Return a runtime with bundles that decide, classify and generate."""
    runtime = LlamaRuntime()
    runtime.load(LoadRequest(runtime="llama", weights=str(weights), context_tokens=CONTEXT_TOKENS, sequences_max=jobs))
    runtime.attach("d", make(), {})
    runtime.attach("c", make("classify", labels=("refund", "price", "opening hours", "opening hours today")), {})
    runtime.attach("g", make("generate"), {})
    return runtime


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaRuntime]:
    """Load a tiny decoder with eight-bit weights once; with these a score is the same to the last bit next to any other
    jobs."""
    runtime = loaded(tiny_gguf.narrow(tmp_path_factory.mktemp("tiny")))
    yield runtime
    runtime.close()


def finish(runtime: LlamaRuntime, jobs: Sequence[JobRequest]) -> dict[str, Event]:
    """Compute jobs together; return how each ended."""
    for job in jobs:
        runtime.submit(job)
    ends: dict[str, Event] = {}
    for step in range(STEPS_MAX):
        if not runtime.busy:
            return ends
        ends |= {event.job_id: event for event in runtime.step() if isinstance(event, JobResult | FailureReport)}
        if step % 3 == 0:
            runtime.tidy()
    raise AssertionError(f"still busy after {STEPS_MAX} steps")


def job(questions: Sequence[AskedQuestion], job_id: str = "j", text: str = TEXT) -> JobRequest:
    return JobRequest(job_id=job_id, digest="d", text=text, questions=tuple(questions))


def answers(done: Event) -> list[Answer]:
    """Return probabilities and label mass of each question."""
    assert isinstance(done, JobResult), done
    return list(zip(done.question_scores, done.question_masses, strict=True))


def each_alone(runtime: LlamaRuntime, questions: Sequence[AskedQuestion] = QUESTIONS) -> list[Answer]:
    """Ask each question in a separate call."""
    return [each for question in questions for each in answers(finish(runtime, [job([question])])["j"])]


def idle(runtime: LlamaRuntime) -> bool:
    """Tell whether every sequence of questions was released."""
    runtime.tidy()
    questions = runtime._cache.questions
    return not questions.reading and len(questions._free) == QUESTIONS_MAX


def test_each_question_has_its_own_probabilities(runtime: LlamaRuntime) -> None:
    """Each question has a probability for each output, adding up to 1, and a label mass; the input's tokens count
    once."""
    found = finish(runtime, [job(QUESTIONS)])["j"]
    assert [len(question.outputs) for question in QUESTIONS] == [len(scores) for scores, _ in answers(found)]
    for scores, mass in answers(found):
        assert math.isclose(1.0, sum(scores), abs_tol=1e-9)
        assert 0.0 < mass <= 1.0
    one = finish(runtime, [job(QUESTIONS[:1])])["j"]
    assert isinstance(found, JobResult)
    assert isinstance(one, JobResult)
    assert one.input_tokens == found.input_tokens


def test_question_is_answered_the_same_alone_and_among_others(runtime: LlamaRuntime) -> None:
    """The answer to a question is the same to the last bit alone, with other questions and in any order; a question
    that is asked twice is answered twice the same."""
    alone = each_alone(runtime)
    assert alone == answers(finish(runtime, [job(QUESTIONS)])["j"])
    assert alone[::-1] == answers(finish(runtime, [job(QUESTIONS[::-1])])["j"])
    assert [alone[1]] * 2 == answers(finish(runtime, [job([QUESTIONS[1]] * 2)])["j"])
    assert idle(runtime)


def test_answers_do_not_depend_on_other_jobs(runtime: LlamaRuntime) -> None:
    """Answers are the same to the last bit next to decisions, labels and streams that start and end, and next to a
    decision that is cancelled halfway."""
    alone, dice = each_alone(runtime), random.Random(30)
    for _ in range(8):
        jobs = [job(QUESTIONS, "all"), job(QUESTIONS[::-1], "reversed"), job(QUESTIONS, "gone")]
        for number in range(3):
            text, tokens = TEXT * dice.randint(1, 3), dice.randint(2, 12)
            jobs.append(JobRequest(job_id=f"w{number}", digest=dice.choice("gc"), text=text, output_tokens_max=tokens))
        dice.shuffle(jobs)
        for each in jobs:
            runtime.submit(each)
        early = [event for _ in range(dice.randint(1, 12)) if runtime.busy for event in runtime.step()]
        runtime.cancel("gone")
        ends = {event.job_id: event for event in early if isinstance(event, JobResult)} | finish(runtime, [])
        assert alone == answers(ends["all"])
        assert alone[::-1] == answers(ends["reversed"])
    assert idle(runtime)


def test_many_questions_are_read_in_groups(runtime: LlamaRuntime) -> None:
    """A job with more questions than sequences is computed in groups with the same answers as each alone, also with
    three such jobs at once."""
    numbers = range(3 * QUESTIONS_MAX + 1)
    many = [AskedQuestion(str(number), "predicate", f"Is it number {number}?", NO_YES) for number in numbers]
    alone = each_alone(runtime, many)
    ends = finish(runtime, [job(many, name) for name in "abc"])
    assert [alone] * 3 == [answers(ends[name]) for name in "abc"]
    assert idle(runtime)


def test_questions_take_no_more_cells_than_one_request(runtime: LlamaRuntime) -> None:
    """Questions that do not fit into the context together are read in turns, and the cells of the input count towards
    the limit."""
    long = [AskedQuestion(str(number), "predicate", f"{number} " + "and things " * 7, NO_YES) for number in range(6)]
    runtime.submit(job(long))
    most = 0
    while runtime.busy:
        runtime.step()
        most = max([most, *(slot.shared + slot.taken for slot in runtime._cache._slots.values())])
    assert CONTEXT_TOKENS // 2 < most <= CONTEXT_TOKENS


def test_cancelled_decision_frees_its_sequences_and_cells(runtime: LlamaRuntime) -> None:
    """At whatever step a decision is cancelled, its sequences and cells are free again."""
    runtime.tidy()
    before = runtime._cache._cells.taken
    for steps in range(1, 12):
        runtime.submit(job(QUESTIONS))
        for _ in range(steps):
            if runtime.busy:
                runtime.step()
        assert len(runtime.cancel("j")) <= 1
        assert idle(runtime)
        assert before == runtime._cache._cells.taken


def test_questions_of_a_bundle_equal_those_of_a_call(runtime: LlamaRuntime) -> None:
    """A bundle's own questions get the same answers as the same questions in a call."""
    own = [
        {"name": each.name, "type": each.type, "instructions": each.instructions, "descriptions": each.descriptions}
        | ({} if each.type == "predicate" else {"labels": each.outputs})
        for each in QUESTIONS[:2]
    ]
    runtime.attach("own", make(questions=own, open_questions=False), {})
    fixed = finish(runtime, [JobRequest(job_id="j", digest="own", text=TEXT)])["j"]
    assert answers(finish(runtime, [job(QUESTIONS[:2])])["j"]) == answers(fixed)
    runtime.detach("own")


def test_too_long_question_or_input_is_refused(runtime: LlamaRuntime) -> None:
    """The error for a question or input that is too long has the limit, and the engine continues."""
    with pytest.raises(InvalidRequest, match=f"'q' has .* the limit is {CONTEXT_TOKENS - INPUT_TOKENS}"):
        runtime.submit(job([AskedQuestion("q", "predicate", "things " * 200, NO_YES)]))
    with pytest.raises(InputTooLong, match=f"the limit is {INPUT_TOKENS}"):
        runtime.submit(job(QUESTIONS, text="things " * 130))
    assert each_alone(runtime)[:1] == answers(finish(runtime, [job(QUESTIONS[:1])])["j"])


def test_bundle_with_a_question_that_does_not_fit_is_refused(runtime: LlamaRuntime) -> None:
    """A bundle is refused at attach if one of its questions does not fit behind the longest input."""
    long = {"name": "long", "type": "predicate", "instructions": "things " * 200}
    with pytest.raises(ModelLoadFailed, match="task 'till': question 'long' has"):
        runtime.attach("x", make(questions=[long]), {})


@pytest.mark.slow
def test_real_model_answers_the_same_next_to_other_jobs() -> None:
    """SmolLM2-135M gives the same answers for each question alone, for all together, and next to a stream, a label and
    other decisions."""
    runtime = loaded(smollm2_path())
    try:
        alone = each_alone(runtime)
        stream = JobRequest(job_id="w", digest="g", text=TEXT, output_tokens_max=20)
        label = JobRequest(job_id="c", digest="c", text=TEXT)
        ends = finish(runtime, [stream, job(QUESTIONS[::-1], "r"), label, job(QUESTIONS)])
        assert alone == answers(ends["j"])
        assert alone[::-1] == answers(ends["r"])
    finally:
        runtime.close()
