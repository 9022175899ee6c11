"""`edge-agent demo`: a whole life of the appliance in a minute, on a daemon of its own. Leaves nothing behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status
from rich.text import Text

from edge_agent.byte_sizes import format_bytes
from edge_agent.cli import demo_compare as compare
from edge_agent.cli import status
from edge_agent.cli.demo_daemon import DemoDaemon
from edge_agent.cli.output import out, print_trimmed, table
from edge_agent.cli.terminal import write_answer
from edge_agent.client import Client, Failure
from edge_agent.errors import BundleUnreadable, FileMissing
from edge_agent.formats import golden_cases
from edge_agent.formats.manifest import MANIFEST_NAME, Manifest, parse

SAMPLES_MAX = 20
STRANGE = (
    "Ich möchte mein Geld zurück",
    "is 51 a prime number",
    "asdf jkl qwertz",
)
"""Another language, another task, a keyboard: what a till sees, too."""


@dataclass(frozen=True)
class Show:
    """A bundle to show, and the inputs it brings."""

    path: Path
    manifest: Manifest
    samples: tuple[str, ...]


def run(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE_DIR", help="Bundle directories to show.")],
    labelled: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSON lines with text and label: compare the bundles that have these labels."
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="Labelled messages to ask about, at most.")] = 160,
) -> None:
    """Start a daemon in a temporary directory, install bundles, call them, stop it, clean up.

    The inputs come from each bundle's golden file, or from --labelled.

    Example: [bold]edge-agent demo build/pos-intent build/assistant[/bold]
    """
    shows = [read_show(path) for path in bundles]
    messages = compare.read_labelled(labelled) if labelled else ()
    compared = [show for show in shows if messages and compare.fits(show.manifest, messages)]
    console, started = out(), time.monotonic()
    with DemoDaemon() as daemon, daemon.client() as client:
        _start(console, daemon, client, shows)
        if compared:
            _compare(console, client, compared, messages, rows)
        for show in compared:
            _ask_strange(console, client, show)
        for show in shows:
            present = _KINDS.get(show.manifest.task.kind)
            if present and show.samples and show not in compared:
                present(console, client, show)
        _heading(console, "What 'edge-agent status' says")
        with daemon.admin() as admin:
            status.show(console, admin.status(), datetime.now(UTC))
        with console.status("Stopping"):
            seconds = daemon.stop()
    console.print()
    _done(console, f"stopped cleanly in {seconds:.1f} s; nothing of the demo is left on this machine")
    _done(console, f"done in {time.monotonic() - started:.1f} s", "bold")


def read_show(path: Path) -> Show:
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
    return Show(path.absolute(), manifest, samples[:SAMPLES_MAX])


def _start(console: Console, daemon: DemoDaemon, client: Client, shows: list[Show]) -> None:
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


def _compare(
    console: Console, client: Client, shows: list[Show], messages: tuple[compare.Labelled, ...], rows_max: int
) -> None:
    """Ask every bundle about the same messages."""
    rows = compare.sample(messages, rows_max)
    asked = "Labelled messages" if len(shows) == 1 else f"The same messages, {len(shows)} models"
    _heading(console, f"{asked}: {len(rows)} of {len(messages)}")
    said = []
    for show in shows:
        name = show.manifest.task.name
        with console.status(f"Asking {name}") as line:
            said.append(compare.ask(client, name, rows, partial(_update, line, name)))
    compare.show(console, [show.manifest for show in shows], rows, said)
    console.print("each message one call, one after the other; ± is a 95 % interval", style="dim")


def _ask_strange(console: Console, client: Client, show: Show) -> None:
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


def _classify(console: Console, client: Client, show: Show) -> None:
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


def _generate(console: Console, client: Client, show: Show) -> None:
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
        console.print("its confidence is not calibrated: no answer counts as sure", style="dim")


_KINDS: dict[str, Callable[[Console, Client, Show], None]] = {"classify": _classify, "generate": _generate}
