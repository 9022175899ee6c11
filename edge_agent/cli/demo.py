"""`edge-agent demo`: a whole life of the appliance in a minute, on a daemon of its own. Leaves nothing behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from edge_agent.cli import demo_questions, status
from edge_agent.cli.batch_inference import decision_table
from edge_agent.cli.demo_daemon import DemoDaemon
from edge_agent.cli.demo_questions import (
    DemoAnswer,
    DemoScore,
    LabelledMessage,
    format_milliseconds,
    plus_minus,
    read_labelled,
    sample,
    score,
)
from edge_agent.cli.output import no_threshold, out, print_trimmed, table
from edge_agent.cli.terminal import write_answer
from edge_agent.client import Classification, Client, Failure
from edge_agent.errors import BundleUnreadable, FileMissing
from edge_agent.formats import golden_cases
from edge_agent.formats.manifest import MANIFEST_NAME, Manifest, parse
from edge_agent.formatting import counted, format_bytes

SAMPLES_MAX = 20
STRANGE = (
    "Ich möchte mein Geld zurück",
    "is 51 a prime number",
    "asdf jkl qwertz",
)
"""Another language, another task, a keyboard: what a till sees, too."""
SHOWN_ROWS = 8
NARROWEST = {"model": len("encoder,"), "right if confident": len("confident"), "median call": len("12.3 ms")}
"""Columns that give way on a narrow terminal, down to so many characters."""


@dataclass(frozen=True)
class DemoBundle:
    """A bundle to show, and the inputs it brings."""

    path: Path
    manifest: Manifest
    samples: tuple[str, ...]


def run(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE_DIR", help="Bundle directories to show.")],
    labelled: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="JSON lines with text, and label or answers by question: count the right answers of the bundles that"
            " have these labels or questions; may be given several times.",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="Labelled messages to ask about, at most.")] = 160,
) -> None:
    """Start a daemon in a temporary directory, install bundles, call them, stop it, clean up.

    The inputs come from each bundle's golden file, or from --labelled.

    Example: [bold]edge-agent demo build/pos-intent build/assistant[/bold]
    """
    shows = [read_demo_bundle(path) for path in bundles]
    parts = [read_labelled(path) for path in labelled or ()]
    console, started = out(), time.monotonic()
    with DemoDaemon() as daemon, daemon.client() as client:
        _start(console, daemon, client, shows)
        shown = [show for messages in parts for show in _show_labelled(console, client, shows, messages, rows)]
        for show in shows:
            present = _KINDS.get(show.manifest.task.kind)
            if present and show.samples and show not in shown:
                present(console, client, show)
        _heading(console, "edge-agent status")
        with daemon.admin() as admin:
            status.show(console, admin.status(), datetime.now(UTC))
        with console.status("Stopping"):
            seconds = daemon.stop()
    console.print()
    _done(console, f"stopped cleanly in {seconds:.1f} s; nothing of the demo is left on this machine")
    _done(console, f"done in {time.monotonic() - started:.1f} s", "bold")


def read_demo_bundle(path: Path) -> DemoBundle:
    """Read the manifest and the inputs of a bundle directory.

    Raises:
        BundleUnreadable: there is no manifest.json, or the golden file is no JSON lines with "input".
        ManifestInvalid, SchemaUnknown: see formats.manifest.
        FileMissing: the golden file is not there.
    """
    if not (path / MANIFEST_NAME).is_file():
        remedy = "'edge-convert assemble' makes bundle directories."
        raise BundleUnreadable(f"{path} is no bundle directory: it has no {MANIFEST_NAME}", remedy=remedy)
    manifest = parse((path / MANIFEST_NAME).read_bytes())
    samples: tuple[str, ...] = ()
    for artifact in manifest.by_role("golden"):
        file = path / artifact.path
        if not file.is_file():
            raise FileMissing(f"{file} does not exist, though the manifest names it")
        samples = tuple(case.input for case in golden_cases.parse(file.read_bytes()))
    return DemoBundle(path.absolute(), manifest, samples[:SAMPLES_MAX])


def _start(console: Console, daemon: DemoDaemon, client: Client, shows: list[DemoBundle]) -> None:
    with console.status("Starting the daemon"):
        seconds = daemon.wait_serving(client)
    _done(console, f"daemon serves after {seconds:.1f} s")
    for show in shows:
        name, size = show.manifest.task.name, format_bytes(show.manifest.size_bytes)
        started = time.monotonic()
        with console.status(f"Installing {name} ({size}): verifying, copying, loading the model"):
            with daemon.admin() as admin:
                admin.install(show.path)
            daemon.wait_ready(client, name)
        kind = f"{show.manifest.task.kind}, {show.manifest.runtime}, {size}"
        _done(console, f"{name} {show.manifest.version} ({kind}) answers after {time.monotonic() - started:.1f} s")


def _show_labelled(
    console: Console,
    client: Client,
    shows: list[DemoBundle],
    messages: tuple[LabelledMessage, ...],
    rows_max: int,
) -> list[DemoBundle]:
    """Ask the bundles that can answer labelled messages; return these."""
    compared = [show for show in shows if has_labels_for(show.manifest, messages)]
    if compared:
        _compare(console, client, compared, messages, rows_max)
    for show in compared:
        _ask_strange(console, client, show)
    asked = [show for show in shows if demo_questions.has_questions_for(show.manifest, messages)]
    for show in asked:
        _ask_questions(console, client, show, messages, rows_max)
    return [*compared, *asked]


def _ask_questions(
    console: Console, client: Client, show: DemoBundle, messages: tuple[LabelledMessage, ...], rows_max: int
) -> None:
    """Ask all questions of a bundle about labelled messages."""
    rows, name = sample(messages, rows_max), show.manifest.task.name
    questions = counted(len(show.manifest.task.questions), "question")
    _heading(console, f"{name}, {questions} in one call: {len(rows)} of {len(messages)} labelled messages")
    with console.status(f"Asking {name}") as line:
        said = demo_questions.decide_rows(client, name, rows, partial(_update, line, name))
    demo_questions.show_questions(console, show.manifest, said)


def _compare(
    console: Console,
    client: Client,
    shows: list[DemoBundle],
    messages: tuple[LabelledMessage, ...],
    rows_max: int,
) -> None:
    """Ask every bundle about the same messages."""
    rows = sample(messages, rows_max)
    asked = "Labelled messages" if len(shows) == 1 else f"The same messages, {len(shows)} models"
    _heading(console, f"{asked}: {len(rows)} of {len(messages)}")
    said = []
    for show in shows:
        name = show.manifest.task.name
        with console.status(f"Asking {name}") as line:
            said.append(classify_rows(client, name, rows, partial(_update, line, name)))
    show_comparison(console, [show.manifest for show in shows], rows, said)
    console.print("each message one call, one after the other; ± is a 95% interval", style="dim")


def _ask_strange(console: Console, client: Client, show: DemoBundle) -> None:
    """Ask a bundle with a gate what it was not made for, and show what becomes of that; others are not asked."""
    name, gate = show.manifest.task.name, show.manifest.confidence.gate
    if gate is None:
        return
    _heading(console, f"{name}: what it was not trained for")
    made = table("message", "nearest label", "confidence", "p-value", "so it is", right=("confidence", "p-value"))
    for text in STRANGE:
        (result,) = client.classify(name, [text], top_k=1)
        if isinstance(result, Failure):
            made.add_row(Text(text), Text(result.reason, style="red"), "", "", "")
            continue
        marked = "OUT_OF_DISTRIBUTION" in result.degraded
        said = "out of distribution" if marked else "not confident" if result.below_threshold else "confident"
        style = "red" if said == "confident" else "green"
        p_value = "-" if result.p_value is None else f"{result.p_value:.3f}"
        made.add_row(Text(text), Text(result.label), f"{result.confidence:.2f}", p_value, Text(said, style=style))
    print_trimmed(console, made)
    ordinary = f"The gate holds up {gate.held_up_max:.0%} of ordinary messages at most"
    console.print(f"{ordinary}; how many strange ones it recognizes is not promised.", style="dim")


def _update(line: Status, name: str, done: int) -> None:
    line.update(f"Asking {name}: {done}")


def _classify(console: Console, client: Client, show: DemoBundle) -> None:
    task = show.manifest.task
    _heading(console, f"{task.name}: classify, {len(task.labels)} labels")
    made = table("input", "label", "confidence", "latency", right=("confidence", "latency"), wrap=("input",))
    milliseconds = []
    with console.status("Classifying"):
        for text in show.samples:
            started = time.monotonic()
            (result,) = client.classify(task.name, [text], top_k=1)
            milliseconds.append((time.monotonic() - started) * 1000)
            latency = f"{milliseconds[-1]:.0f} ms"
            if isinstance(result, Failure):
                made.add_row(Text(text), Text(result.reason, style="red"), "", latency)
            else:
                made.add_row(Text(text), Text(result.label, style="bold"), f"{result.confidence:.2f}", latency)
    print_trimmed(console, made)
    console.print(f"{len(milliseconds)} calls one after the other, median {median(milliseconds):.0f} ms", style="dim")
    _honest(console, show.manifest)


def _decide(console: Console, client: Client, show: DemoBundle) -> None:
    """Ask all questions of a decide task about one input."""
    task = show.manifest.task
    _heading(console, f"{task.name}: decide, all questions in one call")
    text = show.samples[0]
    started = time.monotonic()
    (result,) = client.decide(task.name, [text])
    milliseconds = (time.monotonic() - started) * 1000
    console.print(Text(text, style="bold"))
    if isinstance(result, Failure):
        console.print(Text(f"{result.reason}: {result.message}", style="red"))
        return
    print_trimmed(console, decision_table(result))
    console.print(f"answered in {milliseconds:.0f} ms", style="dim")
    _honest(console, show.manifest)


def _generate(console: Console, client: Client, show: DemoBundle) -> None:
    name, text = show.manifest.task.name, show.samples[0]
    _heading(console, f"{name}: generate, streamed")
    console.print(Text.assemble(("you: ", "bold cyan"), text))
    console.print(Text(f"{name}: ", style="bold green"), end="")
    started = time.monotonic()
    first = 0.0
    with client.generate(name, text) as stream:
        for piece in stream:
            first = first or time.monotonic()
            write_answer(piece)
        ended = time.monotonic()
    console.print()
    if stream.finish and first:
        tokens = stream.finish.output_tokens
        rate = f", {(tokens - 1) / (ended - first):.0f} tokens/s" if tokens > 1 else ""
        console.print(f"{tokens} tokens, first text after {(first - started) * 1000:.0f} ms{rate}", style="dim")
    _honest(console, show.manifest)


def _done(console: Console, said: str, style: str = "") -> None:
    console.print(Text.assemble(("✓ ", "green"), (said, style)))


def _heading(console: Console, text: str) -> None:
    console.print()
    console.rule(Text(text, style="bold"), align="left", style="dim")


def _honest(console: Console, manifest: Manifest) -> None:
    """Say what the answers are worth."""
    if manifest.provenance.base:
        console.print(Text(f"model: {manifest.provenance.base}", style="dim"))
    if manifest.task.kind == "classify" and manifest.confidence.policy == "always_escalate":
        said = no_threshold(manifest.no_threshold_reason())
        console.print(f"{said}: no answer counts as sure", style="dim")


def has_labels_for(manifest: Manifest, rows: Sequence[LabelledMessage]) -> bool:
    """Tell whether a bundle can be right about every row."""
    return manifest.task.kind == "classify" and {row.label for row in rows} <= set(manifest.task.labels)


def classify_rows(
    client: Client, task: str, rows: Sequence[LabelledMessage], done: Callable[[int], None]
) -> list[DemoAnswer]:
    """Classify the rows one call at a time, as a till would; a failure is an answer that is wrong."""
    client.classify(
        task, [rows[0].text], top_k=1, timeout_seconds=demo_questions.CALL_SECONDS_MAX
    )  # The first call warms the connection up.
    said = []
    for row in rows:
        started = time.monotonic()
        (result,) = client.classify(task, [row.text], top_k=1, timeout_seconds=demo_questions.CALL_SECONDS_MAX)
        said.append(_demo_answer(result, (time.monotonic() - started) * 1000))
        done(len(said))
    return said


def _demo_answer(result: Classification | Failure, milliseconds: float) -> DemoAnswer:
    if isinstance(result, Failure):
        return DemoAnswer(result.reason, False, milliseconds)
    return DemoAnswer(result.label, not result.below_threshold, milliseconds)


def show_comparison(
    console: Console, manifests: Sequence[Manifest], rows: Sequence[LabelledMessage], said: Sequence[list[DemoAnswer]]
) -> None:
    """Print a few messages with every bundle's answer, then the figures."""
    print_trimmed(console, _answer_table(manifests, rows, said))
    console.print()
    print_trimmed(console, _score_table(manifests, rows, said))


def _answer_table(
    manifests: Sequence[Manifest], rows: Sequence[LabelledMessage], said: Sequence[list[DemoAnswer]]
) -> Table:
    names = _short_names([manifest.task.name for manifest in manifests])
    made = table("message", "wants", *names, wrap=("message",))
    for row, *answers in list(zip(rows, *said, strict=True))[:: _step(rows)][:SHOWN_ROWS]:
        made.add_row(Text(row.text), Text(row.label, style="bold"), *_marks(answers, row.label))
    return made


def _step(rows: Sequence[LabelledMessage]) -> int:
    return max(1, len(rows) // SHOWN_ROWS)


def _marks(answers: Sequence[DemoAnswer], wanted: str) -> list[Text]:
    return [_marked_label(answer, wanted) for answer in answers]


def _marked_label(answer: DemoAnswer, wanted: str) -> Text:
    right = answer.label == wanted
    return Text(f"{'✓' if right else '✗'} {answer.label}", style="green" if right else "red")


def _short_names(names: Sequence[str]) -> list[str]:
    """Return what tells the names apart: without the beginning that all share, but for a name that is just that."""
    shortest = min(names, key=len)
    return [name.removeprefix(f"{shortest}-") for name in names]


def _score_table(
    manifests: Sequence[Manifest], rows: Sequence[LabelledMessage], said: Sequence[list[DemoAnswer]]
) -> Table:
    numbers = ("right", "confident", "right if confident", "median call", "own files")
    made = table("task", "model", *numbers, right=numbers, wrap=tuple(NARROWEST))
    for column in made.columns:
        column.min_width = NARROWEST.get(str(column.header))
    shared = _shared_artifacts(manifests)
    for manifest, answers in zip(manifests, said, strict=True):
        found = score(rows, answers)
        name, model = Text(manifest.task.name, style="bold"), Text(manifest.provenance.base)
        cells = (plus_minus(found.right), *_confident_cells(manifest, found), format_milliseconds(found.milliseconds))
        made.add_row(name, model, *cells, format_bytes(_own_bytes(manifest, shared)))
    return made


def _confident_cells(manifest: Manifest, found: DemoScore) -> tuple[str, str]:
    """Return the share of sure answers, and how many of them are right; nothing where nothing is calibrated."""
    if manifest.confidence.policy != "threshold":
        return "-", "-"
    return f"{found.sure / found.rows:.0%}", plus_minus(found.sure_right)


def _own_bytes(manifest: Manifest, shared: set[str]) -> int:
    return sum(artifact.size_bytes for artifact in manifest.artifacts if artifact.sha256 not in shared)


def _shared_artifacts(manifests: Sequence[Manifest]) -> set[str]:
    """Return the files that more than one of the bundles has: they are on the disk and in memory once."""
    every = [artifact.sha256 for manifest in manifests for artifact in manifest.artifacts]
    return {sha256 for sha256 in every if every.count(sha256) > 1}


_KINDS: dict[str, Callable[[Console, Client, DemoBundle], None]] = {
    "classify": _classify,
    "decide": _decide,
    "generate": _generate,
}
