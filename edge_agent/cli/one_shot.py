"""`edge-agent run`: answer one input with a bundle on disk, in an engine child of its own, without a daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from edge_agent import logs
from edge_agent.cli.inputs import as_text
from edge_agent.cli.output import AsJson, err, no_threshold, out, print_facts, print_json, progress
from edge_agent.cli.terminal import write_answer
from edge_agent.config import EngineConfig, LogConfig
from edge_agent.durable.atomic_files import is_file
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.protocol import JobRequest, JobResult, TextChunk
from edge_agent.errors import BundleUnreadable, FileMissing, HashMismatch
from edge_agent.formats.calibration import Confidence, Threshold
from edge_agent.formats.manifest import MANIFEST_NAME, Manifest, digest_of, parse
from edge_agent.formats.questions import expected_level

ANSWER_SECONDS_MAX = 600.0
SEED = 1  # for a generation with a temperature, so that the same text gets the same answer
SCORES_SHOWN = 5
_FOLDER_REMEDY = "Name a bundle directory; unpack a tar first. 'edge-agent bundles inspect' checks it."


@dataclass(frozen=True)
class OneShotBundle:
    """A bundle directory, checked for presence and size of its files."""

    manifest: Manifest
    manifest_bytes: bytes
    paths: Mapping[str, Path]
    """By role, absolute: the child that opens them has another working directory."""


def run(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE_DIR", help="A bundle directory.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The input; '-' reads standard input.")],
    as_json: AsJson = False,
) -> None:
    """Answer one input with a bundle on disk, without a daemon.

    Loads the model in a confined child process, as the daemon does, and ends it afterwards. Nothing is installed, and
    nothing is captured for review. The large model is never asked.

    Example: [bold]edge-agent run build/pos-intent 'I want my money back'[/bold]
    """
    input_text = as_text(sys.stdin.buffer.read(), "standard input") if text == "-" else text
    opened_bundle = read_folder(bundle)
    logs.configure(LogConfig(level="error"))  # the log of the loading engine would hide the answer
    started = time.monotonic()
    with progress(ctx, f"Loading {opened_bundle.manifest.task.name} {opened_bundle.manifest.version}"):
        text_written, result = asyncio.run(_answer(opened_bundle, input_text))
    answer = as_document(opened_bundle.manifest, text_written, result)
    if as_json:
        print_json({"input": input_text, **answer, "total_seconds": round(time.monotonic() - started, 3)}, indent=2)
    elif opened_bundle.manifest.task.kind == "generate":
        write_answer(f"{text_written}\n")
        if result.finish == "length":
            err().print(Text(f"cut at {result.output_tokens} tokens", style="dim"))
    else:
        print_facts(out(), _facts(opened_bundle.manifest, answer, input_text))


def read_folder(folder: Path) -> OneShotBundle:
    """Open a bundle directory.

    Raises:
        BundleUnreadable: it has no manifest.json.
        FileMissing, HashMismatch: a file does not exist, or has another size than the manifest names.
        ManifestInvalid, SchemaUnknown: the manifest breaks a rule.
    """
    file = folder / MANIFEST_NAME
    if not is_file(file):
        raise BundleUnreadable(f"{folder} is not a bundle directory: it has no {MANIFEST_NAME}", remedy=_FOLDER_REMEDY)
    raw = file.read_bytes()
    manifest = parse(raw)
    for artifact in manifest.artifacts:
        path = folder / artifact.path
        if not is_file(path):
            raise FileMissing(f"{path} does not exist, though the manifest names it", remedy="Copy the bundle again.")
        if path.stat().st_size != artifact.size_bytes:
            message = f"{path} has {path.stat().st_size} bytes; the manifest names {artifact.size_bytes}"
            raise HashMismatch(message, remedy="Copy the bundle again.")
    return OneShotBundle(manifest, raw, {each.role: (folder / each.path).resolve() for each in manifest.artifacts})


async def _answer(bundle: OneShotBundle, text: str) -> tuple[str, JobResult]:
    """Load the bundle, compute one input, and stop the engine. Raises what loading and computing raise."""
    config = EngineConfig(sequences_max=1, load_failures_max=1)
    digest, task = digest_of(bundle.manifest_bytes), bundle.manifest.task
    job = JobRequest(
        job_id="1",
        digest=digest,
        text=text,
        output_tokens_max=task.written_tokens_max,
        temperature=task.prompt.temperature,
        seed=SEED,
        stops=task.prompt.stops,
    )
    pool = EnginePool(config, lambda: None, sorted({path.parent for path in bundle.paths.values()}))
    try:
        await pool.attach(digest, bundle.manifest, bundle.manifest_bytes, bundle.paths)
        parts: list[str] = []
        deadline = asyncio.get_running_loop().time() + ANSWER_SECONDS_MAX
        async with contextlib.aclosing(pool.events(job, deadline)) as events:
            async for event in events:
                if not isinstance(event, TextChunk):
                    return "".join(parts), event.result
                parts.append(event.text)
    finally:
        await pool.stop()
    raise AssertionError("a job ends with an answer or an error")


def as_document(manifest: Manifest, text: str, result: JobResult) -> dict[str, Any]:
    """Return the answer as --json prints it; a text, a vector and personal data have no confidence."""
    kind = manifest.task.kind
    answer: dict[str, Any] = {"task": manifest.task.name, "version": manifest.version, "kind": kind}
    if kind == "generate":
        return answer | {"text": text, "finish": result.finish, "output_tokens": result.output_tokens}
    if kind == "embed":
        return answer | {"vector": list(struct.unpack(f"<{len(result.vector) // 4}f", result.vector))}
    if kind == "redact":
        personal = [
            {"label": e.label, "start": e.start, "end": e.end, "score": round(e.score, 4)} for e in result.entities
        ]
        return answer | {"personal": personal}
    if kind == "decide":
        return answer | {"answers": _answers(manifest, result)}
    probability = max(result.scores) if result.scores else result.confidence
    if kind == "classify":
        scores = sorted(zip(manifest.task.labels, result.scores, strict=True), key=lambda pair: -pair[1])
        answer |= {"label": scores[0][0], "scores": scores}
    else:
        entities = [{"label": each.label, "start": each.start, "end": each.end} for each in result.entities]
        answer |= {"record": json.loads(result.record) if result.record else None, "entities": entities}
    return answer | _confidence(manifest.confidence, probability, manifest.no_threshold_reason(), result)


def _answers(manifest: Manifest, result: JobResult) -> list[dict[str, Any]]:
    """Return the answer to each question."""
    answers = []
    for question, scores in zip(manifest.task.questions, result.question_scores, strict=True):
        best = max(scores)
        answer = {
            "question": question.name,
            "type": question.type,
            "label": question.outputs[scores.index(best)],
            "probabilities": list(zip(question.outputs, scores, strict=True)),
            "score": expected_level(scores) if question.type == "score" else None,
        }
        reason = manifest.no_threshold_reason(question.name)
        answers.append(answer | _confidence(manifest.confidence_of(question.name), best, reason, result))
    return answers


def _confidence(
    confidence: Confidence, probability: float, no_threshold_reason: str, result: JobResult
) -> dict[str, Any]:
    """Return how confident an answer of this probability is."""
    gate = confidence.gate
    score = gate.score_of(result.ood_score, result.label_mass) if gate else 0.0
    return {
        "confidence": probability,
        "threshold": confidence.confidence_min if isinstance(confidence, Threshold) else None,
        "no_threshold_reason": no_threshold_reason,
        "p_value": gate.p_value(score) if gate else None,
        "confident": isinstance(confidence, Threshold) and confidence.is_confident(probability, score),
    }


def _facts(manifest: Manifest, answer: dict[str, Any], text: str) -> dict[str, str | Text]:
    """Return an answer as facts for people."""
    if answer["kind"] in ("redact", "decide", "embed"):
        return _ungraded_facts(manifest, answer, text)
    facts: dict[str, str | Text] = {}
    if answer["kind"] == "classify":
        facts["label"] = Text(answer["label"], style="bold")
        facts["others"] = ", ".join(f"{label} {score:.2f}" for label, score in answer["scores"][1:SCORES_SHOWN])
    elif answer["record"] is not None:
        facts["record"] = json.dumps(answer["record"], ensure_ascii=False)
    else:
        facts["entities"] = ", ".join(f"{each['label']} {each['start']}-{each['end']}" for each in answer["entities"])
    facts["confidence"] = f"{answer['confidence']:.2f}"
    facts["threshold"] = "-" if answer["threshold"] is None else f"{answer['threshold']:.2f}"
    facts["p-value"] = "" if answer["p_value"] is None else f"{answer['p_value']:.3f}"
    if answer["confident"]:
        facts["confident"] = Text("yes", "green")
    else:
        facts["confident"] = Text(f"no: {_shortfalls_text(manifest.confidence, answer)}", "yellow")
    return facts


def _ungraded_facts(manifest: Manifest, answer: dict[str, Any], text: str) -> dict[str, str | Text]:
    """Return an answer without a confidence as facts for people."""
    if answer["kind"] == "redact":
        entities = [f"{entity['label']} {text[entity['start'] : entity['end']]!r}" for entity in answer["personal"]]
        return {"personal": ", ".join(entities) or "nothing", "cut-off": f"{manifest.redaction_rule.cutoff:g}"}
    if answer["kind"] == "decide":
        return {each["question"]: _decision_text(manifest, each) for each in answer["answers"]}
    beginning = " ".join(f"{value:+.3f}" for value in answer["vector"][:SCORES_SHOWN])
    return {"length": str(len(answer["vector"])), "vector": f"{beginning} …"}


def _decision_text(manifest: Manifest, answer: dict[str, Any]) -> Text:
    """Return one answer of a decide task in a line."""
    value = "" if answer["score"] is None else f" ({answer['score']:.2f})"
    reasons = _shortfalls_text(manifest.confidence_of(answer["question"]), answer)
    verdict = ("confident", "green") if answer["confident"] else (f"not confident: {reasons}", "yellow")
    return Text.assemble((answer["label"], "bold"), f"{value}, {answer['confidence']:.2f}, ", verdict)


def _shortfalls_text(confidence: Confidence, answer: dict[str, Any]) -> str:
    """Return every reason why an answer is not confident."""
    if answer["threshold"] is None:
        return no_threshold(answer["no_threshold_reason"])
    gate = confidence.gate
    is_ood = gate is not None and answer["p_value"] <= gate.held_up_max
    reasons = ["the input is out of distribution"] if is_ood else []
    reasons += [f"below the threshold {answer['threshold']:.2f}"] if answer["confidence"] < answer["threshold"] else []
    return ", ".join(reasons)
