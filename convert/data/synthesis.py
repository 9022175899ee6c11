"""Asks a large model to write more training texts: sends a description of the task and examples, receives rows.

Answers are untrusted input. An answer that is not the requested JSON is dropped and counted, and so is a row that is
malformed, that resembles an existing row, or that is in any split of the recipe. Two texts resemble each other if
enough of their three-letter pieces are in both (Jaccard index); case, punctuation and spaces do not count. No text of
the calibration or the test split ever leaves. Each row is marked `"synthetic": true` with the model's name;
row_files.py refuses such rows outside the training split.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, cast

import openai
from pydantic import BaseModel, StringConstraints, ValidationError

from convert.data import row_files
from convert.data.data_row import LABELED_BY_CHARS_MAX, DataRow
from convert.data.row_files import known_labels
from convert.pipeline import task_file as tasks
from convert.pipeline.recipe import DataFormat, Recipe
from convert.pipeline.stage import Progress
from edge_agent.errors import EdgeAgentError, EngineNotReady, InvalidRequest
from edge_agent.formats.chat_request_form import ChatRequestForm
from edge_agent.formats.manifest import TaskSpec
from edge_agent.formatting import counted

SHARE_MAX = 0.7


class SimilarityIndex:
    """Finds existing texts that a new text resembles."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Start with these texts."""
        self._text_runs: list[frozenset[str]] = []
        self._indexes: dict[str, list[int]] = defaultdict(list)
        for text in texts:
            self._add_runs(runs(text))

    def add(self, text: str) -> bool:
        """Add a text that resembles no other; return whether it was added."""
        text_runs = runs(text)
        shared: dict[int, int] = defaultdict(int)
        for run in text_runs:
            for index in self._indexes[run]:
                shared[index] += 1
        for index, common in shared.items():
            if common / (len(text_runs) + len(self._text_runs[index]) - common) >= SHARE_MAX:
                return False
        self._add_runs(text_runs)
        return True

    def _add_runs(self, text_runs: frozenset[str]) -> None:
        for run in text_runs:
            self._indexes[run].append(len(self._text_runs))
        self._text_runs.append(text_runs)


def runs(text: str) -> frozenset[str]:
    """Return the runs of three letters of a text, its words with a space around each."""
    words = re.findall(r"\w+", text.casefold()) or [text]
    plain = f" {' '.join(words)} "
    return frozenset(plain[start : start + 3] for start in range(max(1, len(plain) - 2)))


TEXT_CHARACTERS_MAX = 2000
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=TEXT_CHARACTERS_MAX)]


_SYSTEM = (
    "You write training data for a small text model. Write what real people would write: short and long, casual and"
    " formal, different words and sentence forms each time, no two rows alike. Answer with one JSON object and"
    " nothing else."
)
_ROW = {
    "classify": '{"text": "..."}',
    "generate": '{"text": "what a person asks", "answer": "what the model is to answer"}',
    "extract": '{"text": "...", "found": [{"label": "...", "text": "the exact words in the text"}]}',
}


@dataclass(frozen=True)
class GenerationRequest:
    """One question to the model."""

    task: TaskSpec
    format: DataFormat
    about: str
    label: str
    """classify: the label that all rows of the answer are to have."""
    examples: Sequence[DataRow]
    count: int

    @property
    def kind(self) -> str:
        """The form of the rows of an answer: a key of _ROW."""
        if self.task.kind == "extract" and self.format != "text-spans":
            return "generate"
        return self.task.kind


def messages(request: GenerationRequest) -> list[dict[str, str]]:
    """Return the chat messages of a request."""
    lines = [f"The task: {request.about}"]
    if request.kind == "classify":
        others = ", ".join(label for label in request.task.labels if label != request.label)
        lines += [f"Every text must belong to the label '{request.label}' and to none of: {others}."]
    elif request.kind == "extract":
        lines += [f"What is to be found in a text: {', '.join(known_labels(request.task))}."]
    if request.examples:
        examples = (json.dumps(_example(row, request.kind), ensure_ascii=False) for row in request.examples)
        lines += ["Examples:", *examples]
    lines += [f'Write {request.count} new ones, as {{"rows": [{_ROW[request.kind]}, ...]}}.']
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "\n".join(lines)}]


def _example(row: DataRow, kind: str) -> dict[str, Any]:
    if kind == "generate":
        return {"text": row.text, "answer": row.completion}
    if kind == "extract":
        mentions = [{"label": span.label, "text": row.text[span.start : span.end]} for span in row.spans]
        return {"text": row.text, "found": mentions}
    return {"text": row.text}


class _RowList(BaseModel):
    rows: list[Any]


class _TextRow(BaseModel):
    text: _Text
    label: str = ""


class _CompletionRow(_TextRow):
    answer: _Text


class _Mention(BaseModel):
    label: str
    text: _Text


class _SpansRow(_TextRow):
    found: list[_Mention]


@dataclass(frozen=True)
class RejectedRow:
    """An answer or a row that cannot be used."""

    reason: str


@dataclass(frozen=True)
class ParsedRow:
    """A row."""

    text: str
    plain: dict[str, Any]
    """In the data format of the recipe."""


def rows_of(answer: str, request: GenerationRequest) -> Iterator[ParsedRow | RejectedRow]:
    """Yield the rows of an answer, at most as many as were asked for."""
    answer = answer.rpartition("</think>")[2]  # some servers write a model's thoughts before its answer
    try:
        # Some models put their JSON into a code block, or a word before it.
        parsed = _RowList.model_validate_json(answer[answer.index("{") : answer.rindex("}") + 1])
    except ValueError:  # also what pydantic raises
        yield RejectedRow("answer is not the JSON that was asked for")
        return
    yield from (_row(row, request) for row in parsed.rows[: request.count])


def _row(row: object, request: GenerationRequest) -> ParsedRow | RejectedRow:
    model, make_row = _READERS[request.kind]
    try:
        return make_row(model.model_validate(row, strict=True), request)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        return RejectedRow(f"{place}: {problem['msg']}" if place else "row is not a JSON object")


def _classify_row(row: Any, request: GenerationRequest) -> ParsedRow | RejectedRow:
    if row.label not in ("", request.label):
        return RejectedRow("row has another label than was asked for")
    if request.format == "text-label":
        return ParsedRow(row.text, {"text": row.text, "label": request.label})
    return _completion_row(row.text, request.label, request)


def _generate_row(row: Any, request: GenerationRequest) -> ParsedRow:
    return _completion_row(row.text, row.answer, request)


def _completion_row(text: str, answer: str, request: GenerationRequest) -> ParsedRow:
    if request.format == "messages":
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        return ParsedRow(text, {"messages": turns})
    return ParsedRow(text, {"prompt": text, "completion": answer})


def _extract_row(row: Any, request: GenerationRequest) -> ParsedRow | RejectedRow:
    # Words that occur twice are ambiguous; losing a row costs less than a wrong one.
    if any(row.text.count(mention.text) != 1 for mention in row.found):
        return RejectedRow("a span does not occur exactly once in the text")
    if not {mention.label for mention in row.found} <= set(known_labels(request.task)):
        return RejectedRow("row has a label that the task lacks")
    spans = sorted(map(_span, itertools.repeat(row.text), row.found), key=lambda span: int(span["start"]))
    if any(after["start"] < before["end"] for before, after in itertools.pairwise(spans)):
        return RejectedRow("spans overlap")
    return ParsedRow(row.text, {"text": row.text, "spans": spans})


def _span(text: str, mention: _Mention) -> dict[str, Any]:
    start = text.index(mention.text)
    return {"start": start, "end": start + len(mention.text), "label": mention.label}


_READERS: dict[str, tuple[type[BaseModel], Callable[[Any, GenerationRequest], ParsedRow | RejectedRow]]] = {
    "classify": (_TextRow, _classify_row),
    "generate": (_CompletionRow, _generate_row),
    "extract": (_SpansRow, _extract_row),
}


EXAMPLES_MAX = 8
FRUITLESS_REQUESTS_MAX = 5
"""The work ends after this many answers in a row without a new row."""


@dataclass(frozen=True)
class ModelReply:
    """The answer of a model."""

    text: str
    tokens: int
    """Of the request and the answer together, as the server counts them."""


Ask = Callable[[list[dict[str, str]], int], ModelReply]
"""Called with chat messages and a number that makes each request different. Raises EdgeAgentError."""


@dataclass(frozen=True)
class SynthesisRequest:
    """The request, and its limits."""

    about: str
    """Description of the task for the model."""
    rows: int
    tokens_max: int
    """Spend limit: no further request when this many tokens, of requests and answers, are used."""
    seed: int = 1
    earlier_texts: tuple[str, ...] = ()
    """Texts of an earlier run, which are not accepted again."""
    rows_a_request: int = 10


@dataclass
class SynthesisResult:
    """The result so far."""

    model: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    """As they are written to the file."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason: how many answers or rows."""
    requests: int = 0
    tokens: int = 0
    fruitless: int = 0
    """Answers in a row without a new row."""
    stopped: str = ""
    """Why there are fewer rows than requested; empty if there are enough."""


def synthesize(
    recipe: Recipe, request: SynthesisRequest, model: str, ask: Ask, progress: Progress
) -> Iterator[SynthesisResult]:
    """Ask until there are enough rows or a limit is reached; yield the result so far after each answer.

    Raises what `row_files.rows` and `ask` raise; InvalidRequest for a kind of task for which no rows can be written.
    """
    task = tasks.of(recipe.path(recipe.task))
    if task.kind not in _READERS:
        message = f"rows for a task of kind {task.kind} cannot be written by a large model"
        raise InvalidRequest(message, remedy=f"It can for {', '.join(_READERS)}; collect or compose rows for this one.")
    rows = row_files.rows(recipe, "train")
    known = SimilarityIndex([*_texts(recipe), *request.earlier_texts])
    choice = random.Random(request.seed)  # noqa: S311 - a choice of examples, no secret
    result = SynthesisResult(model)
    labels = itertools.cycle(task.labels or ("",)) if task.kind == "classify" else itertools.repeat("")
    while not _is_done(result, request):
        label = next(labels)
        progress(f"asking {model}, {result.tokens} tokens so far", len(result.rows), request.rows)
        count = min(request.rows_a_request, request.rows - len(result.rows))
        examples = _examples(rows, label, choice)
        question = GenerationRequest(task, recipe.data.format, request.about, label, examples, count)
        _add_rows(result, question, ask(messages(question), result.requests), known)
        yield result
    yield result


def _texts(recipe: Recipe) -> Iterator[str]:
    """Yield the texts of all splits, which are not accepted as new rows."""
    for split in filter(partial(getattr, recipe.data), row_files.SPLITS):
        yield from (row.text for row in row_files.rows(recipe, split))


def _examples(rows: Sequence[DataRow], label: str, choice: random.Random) -> list[DataRow]:
    candidates = [row for row in rows if row.label == label and not row.synthetic]
    return choice.sample(candidates, min(EXAMPLES_MAX, len(candidates)))


def _is_done(result: SynthesisResult, request: SynthesisRequest) -> bool:
    """Return whether there are enough rows or a limit is reached, and record which one."""
    if len(result.rows) >= request.rows:
        return True
    if result.fruitless >= FRUITLESS_REQUESTS_MAX:
        result.stopped = f"{result.fruitless} answers in a row brought no new row"
    elif result.tokens >= request.tokens_max:
        result.stopped = f"{result.tokens} tokens are used; the limit is {request.tokens_max}"
    return bool(result.stopped)


def _add_rows(result: SynthesisResult, request: GenerationRequest, reply: ModelReply, known: SimilarityIndex) -> None:
    """Add the rows of an answer that are whole and new; count the others."""
    before = len(result.rows)
    result.requests += 1
    result.tokens += reply.tokens
    for row in rows_of(reply.text, request):
        if isinstance(row, RejectedRow):
            result.dropped[row.reason] += 1
        elif not known.add(row.text):
            result.dropped["resembles an existing row"] += 1
        else:
            origin = {"label_source": "teacher", "labeled_by": result.model[:LABELED_BY_CHARS_MAX]}
            result.rows.append({**row.plain, "synthetic": True, "model": result.model, **origin})
    result.fruitless = 0 if len(result.rows) > before else result.fruitless + 1


def summary(result: SynthesisResult, request: SynthesisRequest, file: str) -> list[str]:
    """Return the result in sentences."""
    rows, requests = counted(len(result.rows), "row"), counted(result.requests, "request")
    lines = [f"Wrote {rows} by {result.model} to {file}: {requests}, {counted(result.tokens, 'token')}."]
    lines += [f"Dropped {count}: {reason}." for reason, count in sorted(result.dropped.items())]
    if result.stopped:
        lines.append(f"Stopped before {counted(request.rows, 'row')}: {result.stopped}.")
    return lines


def line(row: dict[str, Any]) -> str:
    """Return a row as a line of JSONL."""
    return json.dumps(row, ensure_ascii=False) + "\n"


REQUEST_SECONDS_MAX = 300.0
ANSWER_TOKENS_MAX = 4096
_THINKING_FACTOR = 4
"""A reasoning model may use this many times ANSWER_TOKENS_MAX, because its thoughts count as well."""
_CHARACTERS_PER_TOKEN = 4


@dataclass
class ChatEndpoint:
    """Where to ask, and which model."""

    base_url: str
    key: str
    model: str
    form: ChatRequestForm = field(default_factory=ChatRequestForm)
    """How the server takes a request, as far as that is known."""

    def ask(self, messages: list[dict[str, str]], seed: int) -> ModelReply:
        """Return the model's answer.

        For a server that does not count tokens they are estimated from the characters, so that the limit holds there
        too.

        Raises:
            InvalidRequest: the server refuses the key, the model or the request.
            EngineNotReady: it cannot be reached, is busy, or failed three times.
        """
        with openai.OpenAI(
            base_url=self.base_url, api_key=self.key, timeout=REQUEST_SECONDS_MAX, max_retries=2
        ) as client:
            try:
                answer = self._answer(client, messages, seed)
            except openai.OpenAIError as error:
                raise self._translate_error(error) from None
        text = answer.choices[0].message.content or "" if answer.choices else ""
        characters = len(text) + sum(len(message["content"]) for message in messages)
        return ModelReply(text, answer.usage.total_tokens if answer.usage else characters // _CHARACTERS_PER_TOKEN)

    def _answer(self, client: openai.OpenAI, messages: list[dict[str, str]], seed: int) -> Any:
        """Ask in the form that the server accepts. Raises OpenAIError."""
        while True:
            limit = ANSWER_TOKENS_MAX * (1 if self.form.limit == "max_tokens" else _THINKING_FACTOR)
            members: dict[str, Any] = {"temperature": 1.0, "seed": seed, self.form.limit: limit}
            request = {name: value for name, value in members.items() if name not in self.form.without}
            try:
                return client.chat.completions.create(model=self.model, messages=cast(Any, messages), **request)
            except openai.APIStatusError as error:
                adapted_form = self.form.adapted(error.status_code, error.body, request)
                if adapted_form is None:
                    raise
                self.form = adapted_form

    def _translate_error(self, error: Exception) -> EdgeAgentError:
        """Turn an error of the library into ours; its texts do not contain the key."""
        status = getattr(error, "status_code", 0)
        reason = " ".join(str(error).split())[:300]
        if status in (401, 403):
            return InvalidRequest(f"{self.base_url} refused the key: {reason}", remedy="Correct OPENAI_API_KEY.")
        if 400 <= status < 500 and status not in (408, 409, 429):
            remedy = "Check the model's name and OPENAI_BASE_URL, which usually ends in /v1."
            return InvalidRequest(f"{self.base_url} refused the request for {self.model}: {reason}", remedy=remedy)
        remedy = "Check OPENAI_BASE_URL and the server, then run the command again; rows already written are kept."
        return EngineNotReady(f"{self.base_url} did not answer: {reason}", remedy=remedy)
