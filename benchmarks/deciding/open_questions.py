"""Questions of the call on a decoder: seven about one text, compared with seven classify calls and with llama-server.

The text has 200 tokens and is new each time. The systems take turns; all have SmolLM2-135M loaded, with the same
threads and context. Ours are calls of the engine, in its child process. llama-server is asked the seven questions one
after the other, with the same words in the same order, the answers as a grammar, and its cache of prompts on, so it
reads the text once, too. Two figures of classify calls are told: of bundles whose question stands before the text, as
they are usually made, and of bundles whose question stands behind it, where the engine's own cache knows the text.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar, median
from benchmarks.llama import building
from benchmarks.llama.comparing import ComparisonGoal, Figure, MeasuredPair, compared
from benchmarks.llama.http import ConnectionPool
from benchmarks.llama.running import LlamaServer, Settings
from benchmarks.llama.tasks import Texts
from benchmarks.llama.turns import take_turns
from edge_agent.config import EngineConfig
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.protocol import AskedQuestion, JobRequest, JobResult, TextChunk
from edge_agent.engine.runtimes.llama.question_prompts import question_text
from edge_agent.formats import manifest
from edge_agent.formats.questions import QuestionSpec
from tests.support import bundles, models, pos_intents

TEXT_TOKENS = 200
LABEL_TOKENS_MAX = 16
CONTEXT_TOKENS = 2048
FRAME = "Message: {input}\n\nQuestion: {question}\nAnswer:"
_QUESTIONS: tuple[dict[str, Any], ...] = (
    {
        "name": "intent",
        "type": "choice",
        "instructions": "What does the customer want?",
        "labels": ["refund", "exchange", "price", "stock", "hours", "other"],
    },
    {"name": "urgent", "type": "predicate", "instructions": "The message is urgent."},
    {"name": "personal", "type": "predicate", "instructions": "The message contains personal data."},
    {
        "name": "department",
        "type": "choice",
        "instructions": "Which department handles the message?",
        "labels": ["till", "warehouse", "office", "garden"],
    },
    {
        "name": "language",
        "type": "choice",
        "instructions": "Which language is the message in?",
        "labels": ["English", "German", "French"],
    },
    {
        "name": "anger",
        "type": "score",
        "instructions": "How angry is the customer?",
        "labels": ["calm", "annoyed", "angry"],
    },
    {"name": "again", "type": "predicate", "instructions": "The customer has written before."},
)
QUESTIONS = tuple(QuestionSpec.model_validate(each) for each in _QUESTIONS)
"""Seven, as many as the limits are set for."""
SECONDS_MAX = 600.0
SEPARATE = ComparisonGoal(
    "decoder, 7 questions in one call / 7 classify calls", "lower", "ms", 0.5, than="7 classify calls"
)
SERVER = ComparisonGoal("decoder, 7 questions in one call / llama-server asked 7 times", "lower", "ms", 0.6)
BEHIND = ComparisonGoal(
    "the same / 7 classify calls with the question behind the text", "lower", "ms", than="7 classify calls"
)


@dataclass(frozen=True)
class _Engine:
    """A pool with one bundle that takes the questions of a call, and two for each question that classify."""

    pool: EnginePool
    digests: dict[str, str]
    ids: Iterator[int]

    async def answer(self, bundle: str, text: str, **more: Any) -> JobResult:
        run = JobRequest(job_id=str(next(self.ids)), digest=self.digests[bundle], text=text, **more)
        deadline = asyncio.get_running_loop().time() + SECONDS_MAX
        async with contextlib.aclosing(self.pool.events(run, deadline)) as events:
            async for event in events:
                if not isinstance(event, TextChunk):
                    return event.result
        raise AssertionError("a job ends with an answer or an error")


def measure(rounds: int) -> Iterator[Bar]:
    """Build llama-server if necessary, and measure all systems in turns."""
    program = building.programs().server
    with tempfile.TemporaryDirectory() as name:
        yield from asyncio.run(_played(program, Path(name), rounds))


async def _played(program: Path, folder: Path, rounds: int) -> list[Bar]:
    threads = len(os.sched_getaffinity(0))
    async with _engine(folder, threads) as engine:
        (status,) = engine.pool.statuses()
        cells, flash = int(status.details["context_cells"]), status.details.get("flash_attention", "on")
        settings = Settings(models.smollm2_path(), int(status.details["threads"]), cells, 4, flash)
        with LlamaServer(program, settings, folder / "llama-server.log") as server:
            async with ConnectionPool(server.port) as pool:
                texts = Texts([text for text, _ in pos_intents.train() + pos_intents.held_out()], server.count)
                rival = partial(_rival, pool)
                systems = [partial(_decide, engine), partial(_classify, engine, "before"), rival]
                systems.append(partial(_classify, engine, "behind"))
                for system in systems:
                    await system(texts.short(TEXT_TOKENS))

                async def turn(number: int, system: Any) -> float:
                    del number
                    text = texts.short(TEXT_TOKENS)
                    started = time.perf_counter()
                    await system(text)
                    return 1000 * (time.perf_counter() - started)

                found = await take_turns(rounds, [partial(turn, system=system) for system in systems])
    model = models.smollm2_path().stem
    bars: list[Bar] = [
        compared(goal, [MeasuredPair(round_[0], round_[place]) for round_ in found], model)
        for goal, place in ((SEPARATE, 1), (SERVER, 2), (BEHIND, 3))
    ]
    about = {"threads": str(settings.threads), "text_tokens": str(TEXT_TOKENS), "questions": str(len(QUESTIONS))}
    p50 = median([ours for ours, *_ in found])
    return [Figure("7 questions of a call, p50 ms", p50, None, "lower", about), *bars]


def _asked(question: QuestionSpec) -> AskedQuestion:
    return AskedQuestion(question.name, question.type, question.instructions, question.outputs, question.descriptions)


async def _decide(engine: _Engine, text: str) -> None:
    done = await engine.answer("open", text)
    assert len(QUESTIONS) == len(done.question_scores)


async def _classify(engine: _Engine, where: str, text: str) -> None:
    for question in QUESTIONS:
        await engine.answer(f"{where}-{question.name}", text)


async def _rival(pool: ConnectionPool, text: str) -> None:
    """Ask one question after the other, as a program would that has no other call.

    The grammar ends an answer. Its likeliest tokens can be more than the tokenizer makes of a label: a blank alone.
    """
    for question in QUESTIONS:
        grammar = "root ::= " + " | ".join(json.dumps(f" {output}") for output in question.outputs)
        prompt = FRAME.replace("{input}", text).replace("{question}", question_text(_asked(question)))
        wanted = {"prompt": prompt, "n_predict": LABEL_TOKENS_MAX, "temperature": 0, "cache_prompt": True}
        answer = await pool.post("/completion", {**wanted, "grammar": grammar, "n_probs": len(question.outputs)})
        assert answer["content"].strip(), answer


@contextlib.asynccontextmanager
async def _engine(folder: Path, threads: int) -> AsyncIterator[_Engine]:
    config = EngineConfig(device="cpu", cpu_threads=threads, sequences_max=4, tune=False, load_seconds_max=SECONDS_MAX)
    folders = _bundles(folder)
    pool = EnginePool(config, lambda: None, list(folders.values()))
    try:
        for each in folders.values():
            plain = (each / manifest.MANIFEST_NAME).read_bytes()
            paths = {role: Path(path) for role, path in bundles.paths_of(each).items()}
            await pool.attach(manifest.digest_of(plain), manifest.parse(plain), plain, paths)
        yield _Engine(pool, {name: bundles.digest_of(each) for name, each in folders.items()}, itertools.count())
    finally:
        await pool.stop()


def _bundles(folder: Path) -> dict[str, Path]:
    """Write the bundles; all of them share an engine."""
    made = {"open": _bundle(folder / "open", "open", "decide", FRAME, questions=_QUESTIONS, open_questions=True)}
    for question in QUESTIONS:
        said, outputs = question_text(_asked(question)), question.outputs
        templates = {"before": f"{said}\nMessage: {{input}}\nAnswer:", "behind": FRAME.replace("{question}", said)}
        for where, template in templates.items():
            name = f"{where}-{question.name}"
            made[name] = _bundle(folder / name, name, "classify", template, labels=outputs)
    return made


def _bundle(folder: Path, name: str, kind: str, template: str, **task: Any) -> Path:
    limits = {"input_tokens_max": CONTEXT_TOKENS // 2, "output_tokens_max": 0}
    plain = {"name": name, "kind": kind, "prompt": {"template": template}, "limits": limits, **task}
    fields = {"schema": manifest.SCHEMA, "runtime": "llama", "version": "1.0.0", "task": plain}
    fields |= {"confidence": {"policy": "always_escalate"}, "engine": {"context_tokens": CONTEXT_TOKENS}}
    made: Path = bundles.write(folder, fields, {}, {"weights": ("model.gguf", models.smollm2_path())})
    return made
