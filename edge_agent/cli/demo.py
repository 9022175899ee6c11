"""`edge-agent demo`: all functions of the appliance in a minute, on a daemon of its own. Leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.status import Status
from rich.text import Text

from edge_agent.cli import demo_questions, status
from edge_agent.cli.batch_inference import decision_table
from edge_agent.cli.demo_questions import LabelledMessage, read_labelled, sample
from edge_agent.cli.output import no_threshold, out, print_trimmed
from edge_agent.cli.terminal import table, write_answer
from edge_agent.client import AdminClient, CallFailed, Client, Failure
from edge_agent.config import SOCKET_PATH_BYTES_MAX
from edge_agent.durable.atomic_files import is_file
from edge_agent.errors import BundleUnreadable, EdgeAgentError, FileMissing
from edge_agent.formats import golden_cases
from edge_agent.formats.manifest import MANIFEST_NAME, Manifest, parse
from edge_agent.formatting import counted, format_bytes

SAMPLES_MAX = 20
OOD_INPUTS = ("Ich möchte mein Geld zurück", "is 51 a prime number", "asdf jkl qwertz")
"""Inputs in another language, for another task, and random keys, as a till sees them, too."""


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
    rows: Annotated[
        int, typer.Option(min=1, metavar="N", help="Largest number of labelled messages to ask about.")
    ] = 160,
) -> None:
    """Start a daemon in a temporary directory, install bundles, call them, stop it, clean up.

    The inputs come from each bundle's golden file, or from --labelled.

    Example: [bold]edge-agent demo build/pos-intent build/assistant[/bold]
    """
    demos = [read_demo_bundle(path) for path in bundles]
    message_sets = [read_labelled(path) for path in labelled or ()]
    console, started = out(), time.monotonic()
    with DemoDaemon() as daemon, daemon.client() as client:
        _start_daemon(console, daemon, client, demos)
        labelled_demos = [
            bundle for messages in message_sets for bundle in _show_labelled(console, client, demos, messages, rows)
        ]
        for bundle in demos:
            show_task = _DEMOS.get(bundle.manifest.task.kind)
            if show_task and bundle.samples and bundle not in labelled_demos:
                show_task(console, client, bundle)
        _print_heading(console, "edge-agent status")
        with daemon.admin() as admin:
            status.show(console, admin.status(), datetime.now(UTC))
        with console.status("Stopping"):
            seconds = daemon.stop()
    console.print()
    _print_step(console, f"stopped cleanly in {seconds:.1f} s; nothing of the demo is left on this machine")
    _print_step(console, f"done in {time.monotonic() - started:.1f} s", "bold")


def read_demo_bundle(path: Path) -> DemoBundle:
    """Read the manifest and the inputs of a bundle directory.

    Raises:
        BundleUnreadable: there is no manifest.json, or the golden file is no JSON lines with "input".
        ManifestInvalid, SchemaUnknown: see formats.manifest.
        FileMissing: the golden file is not there.
    """
    if not is_file(path / MANIFEST_NAME):
        remedy = "'edge-convert assemble' makes bundle directories."
        raise BundleUnreadable(f"{path} is no bundle directory: it has no {MANIFEST_NAME}", remedy=remedy)
    manifest = parse((path / MANIFEST_NAME).read_bytes())
    samples: tuple[str, ...] = ()
    for artifact in manifest.by_role("golden"):
        file = path / artifact.path
        if not is_file(file):
            raise FileMissing(f"{file} does not exist, though the manifest names it")
        samples = tuple(case.input for case in golden_cases.parse(file.read_bytes()))
    return DemoBundle(path.absolute(), manifest, samples[:SAMPLES_MAX])


def _start_daemon(console: Console, daemon: DemoDaemon, client: Client, bundles: list[DemoBundle]) -> None:
    with console.status("Starting the daemon"):
        seconds = daemon.wait_serving(client)
    _print_step(console, f"daemon serves after {seconds:.1f} s")
    for bundle in bundles:
        name, size = bundle.manifest.task.name, format_bytes(bundle.manifest.size_bytes)
        started = time.monotonic()
        with console.status(f"Installing {name} ({size}): verifying, copying, loading the model"):
            with daemon.admin() as admin:
                admin.install(bundle.path)
            daemon.wait_ready(client, name)
        kind = f"{bundle.manifest.task.kind}, {bundle.manifest.runtime}, {size}"
        seconds = time.monotonic() - started
        _print_step(console, f"{name} {bundle.manifest.version} ({kind}) answers after {seconds:.1f} s")


def _show_labelled(
    console: Console, client: Client, bundles: list[DemoBundle], messages: tuple[LabelledMessage, ...], rows_max: int
) -> list[DemoBundle]:
    """Ask the bundles that can answer labelled messages; return these."""
    classifiers = [bundle for bundle in bundles if demo_questions.has_labels_for(bundle.manifest, messages)]
    if classifiers:
        _compare(console, client, classifiers, messages, rows_max)
    for bundle in classifiers:
        _show_ood_inputs(console, client, bundle)
    deciders = [bundle for bundle in bundles if demo_questions.has_questions_for(bundle.manifest, messages)]
    for bundle in deciders:
        rows, name = sample(messages, rows_max), bundle.manifest.task.name
        questions = counted(len(bundle.manifest.task.questions), "question")
        _print_heading(console, f"{name}, {questions} in one call: {len(rows)} of {len(messages)} labelled messages")
        with console.status(f"Asking {name}") as line:
            answers = demo_questions.decide_rows(client, name, rows, partial(_update_progress, line, name))
        demo_questions.show_questions(console, bundle.manifest, answers)
    return [*classifiers, *deciders]


def _compare(
    console: Console, client: Client, bundles: list[DemoBundle], messages: tuple[LabelledMessage, ...], rows_max: int
) -> None:
    """Ask every bundle about the same messages."""
    rows = sample(messages, rows_max)
    title = "Labelled messages" if len(bundles) == 1 else f"The same messages, {len(bundles)} models"
    _print_heading(console, f"{title}: {len(rows)} of {len(messages)}")
    answers = []
    for bundle in bundles:
        name = bundle.manifest.task.name
        with console.status(f"Asking {name}") as line:
            answers.append(demo_questions.classify_rows(client, name, rows, partial(_update_progress, line, name)))
    demo_questions.show_comparison(console, [bundle.manifest for bundle in bundles], rows, answers)
    console.print("each message one call, one after the other; ± is a 95% interval", style="dim")


def _show_ood_inputs(console: Console, client: Client, bundle: DemoBundle) -> None:
    """Ask a bundle with a gate about inputs that it was not made for, and show the outcome; skip other bundles."""
    name, gate = bundle.manifest.task.name, bundle.manifest.confidence.gate
    if gate is None:
        return
    _print_heading(console, f"{name}: what it was not trained for")
    numbers = ("confidence", "p-value")
    listing = table("message", "nearest label", *numbers, "so it is", right=numbers, wrap=("message",))
    for text in OOD_INPUTS:
        (result,) = client.classify(name, [text], top_k=1)
        if isinstance(result, Failure):
            listing.add_row(Text(text), Text(result.reason, style="red"), "", "", "")
            continue
        is_ood = "OUT_OF_DISTRIBUTION" in result.degraded
        verdict = "out of distribution" if is_ood else "not confident" if result.below_threshold else "confident"
        style = "red" if verdict == "confident" else "green"
        p_value = "-" if result.p_value is None else f"{result.p_value:.3f}"
        listing.add_row(Text(text), Text(result.label), f"{result.confidence:.2f}", p_value, Text(verdict, style=style))
    print_trimmed(console, listing)
    guarantee = f"On average such a gate holds up {gate.held_up_max:.0%} of ordinary messages at most"
    console.print(f"{guarantee}; how many strange ones it recognizes is not promised.", style="dim")


def _update_progress(status_line: Status, name: str, count: int) -> None:
    status_line.update(f"Asking {name}: {count}")


def _demo_classify(console: Console, client: Client, bundle: DemoBundle) -> None:
    task = bundle.manifest.task
    _print_heading(console, f"{task.name}: classify, {len(task.labels)} labels")
    listing = table("input", "label", "confidence", "latency", right=("confidence", "latency"), wrap=("input",))
    milliseconds = []
    with console.status("Classifying"):
        for text in bundle.samples:
            started = time.monotonic()
            (result,) = client.classify(task.name, [text], top_k=1)
            milliseconds.append((time.monotonic() - started) * 1000)
            latency = f"{milliseconds[-1]:.0f} ms"
            if isinstance(result, Failure):
                listing.add_row(Text(text), Text(result.reason, style="red"), "", latency)
            else:
                listing.add_row(Text(text), Text(result.label, style="bold"), f"{result.confidence:.2f}", latency)
    print_trimmed(console, listing)
    console.print(f"{len(milliseconds)} calls one after the other, median {median(milliseconds):.0f} ms", style="dim")
    _print_model_facts(console, bundle.manifest)


def _demo_decide(console: Console, client: Client, bundle: DemoBundle) -> None:
    """Ask all questions of a decide task about one input."""
    task = bundle.manifest.task
    _print_heading(console, f"{task.name}: decide, all questions in one call")
    text = bundle.samples[0]
    started = time.monotonic()
    (result,) = client.decide(task.name, [text])
    milliseconds = (time.monotonic() - started) * 1000
    console.print(Text(text, style="bold"))
    if isinstance(result, Failure):
        console.print(Text(f"{result.reason}: {result.message}", style="red"))
        return
    print_trimmed(console, decision_table(result))
    console.print(f"answered in {milliseconds:.0f} ms", style="dim")
    _print_model_facts(console, bundle.manifest)


def _demo_generate(console: Console, client: Client, bundle: DemoBundle) -> None:
    name, text = bundle.manifest.task.name, bundle.samples[0]
    _print_heading(console, f"{name}: generate, streamed")
    console.print(Text.assemble(("you: ", "bold cyan"), text))
    console.print(Text(f"{name}: ", style="bold green"), end="")
    started = time.monotonic()
    first_text_at = 0.0
    with client.generate(name, text) as stream:
        for piece in stream:
            first_text_at = first_text_at or time.monotonic()
            write_answer(piece)
        ended_at = time.monotonic()
    console.print()
    if stream.finish and first_text_at:
        tokens = stream.finish.output_tokens
        rate = f", {(tokens - 1) / (ended_at - first_text_at):.0f} tokens/s" if tokens > 1 else ""
        console.print(f"{tokens} tokens, first text after {(first_text_at - started) * 1000:.0f} ms{rate}", style="dim")
    _print_model_facts(console, bundle.manifest)


def _print_step(console: Console, message: str, style: str = "") -> None:
    console.print(Text.assemble(("✓ ", "green"), (message, style)))


def _print_heading(console: Console, text: str) -> None:
    console.print()
    console.rule(Text(text, style="bold"), align="left", style="dim")


def _print_model_facts(console: Console, manifest: Manifest) -> None:
    """Print how reliable the answers are."""
    if manifest.provenance.base:
        console.print(Text(f"model: {manifest.provenance.base}", style="dim"))
    if manifest.task.kind == "classify" and manifest.confidence.policy == "always_escalate":
        reason = no_threshold(manifest.no_threshold_reason())
        console.print(f"{reason}: no answer counts as sure", style="dim")


_DEMOS: dict[str, Callable[[Console, Client, DemoBundle], None]] = {
    "classify": _demo_classify,
    "decide": _demo_decide,
    "generate": _demo_generate,
}


START_SECONDS_MAX = 30.0
READY_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 30.0
_PAUSE_SECONDS_MAX = 0.5
_LOG_LINES_SHOWN = 15
# No long wait for a call that Ctrl-C interrupted.
_CONFIG = "store: {allow_unsigned: true}\nlog: {format: json}\nmetrics: {address: ''}\nservice: {drain_seconds: 2}\n"
_RUN_DIR_BYTES_MAX = SOCKET_PATH_BYTES_MAX - len("/inference.sock")


class DemoFailed(EdgeAgentError):
    """The demo's daemon failed."""

    reason = "DEMO_FAILED"
    remedy_default = "'edge-agent doctor' checks this machine."


class DemoDaemon:
    """A context manager: it starts the daemon, and kills it at the end unless `stop` ended it before."""

    def __init__(self) -> None:
        """Make the directory and start the process, without waiting for it."""
        # A long TMPDIR would not leave room for the name of a socket.
        too_long = len(tempfile.gettempdir().encode()) > _RUN_DIR_BYTES_MAX - len("/edge-demo-xxxxxxxx/run")
        parent = "/tmp" if too_long else None  # noqa: S108 the directory below it is private
        self._folder = tempfile.TemporaryDirectory(prefix="edge-demo-", dir=parent, ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        (folder / "agent.yaml").write_text(_CONFIG, encoding="utf-8")
        self._log = folder / "daemon.log"
        self._inference = f"unix:{folder}/run/inference.sock"
        self._admin = f"unix:{folder}/run/admin.sock"
        options = ["--config", folder / "agent.yaml", "--state-dir", folder / "state", "--run-dir", folder / "run"]
        with self._log.open("wb") as log:
            # A process group of its own: Ctrl-C reaches only the demo, which then stops the daemon cleanly.
            self._process = subprocess.Popen(  # noqa: S603 our own program
                [sys.executable, "-P", "-m", "edge_agent.cli", *map(str, options), "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def __enter__(self) -> Self:
        """Use as a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, whatever happened, and remove the directory."""
        try:
            self._terminate()
        finally:
            self._folder.cleanup()

    def client(self) -> Client:
        """Return a device's client."""
        return Client(self._inference)

    def admin(self) -> AdminClient:
        """Return an operator's client."""
        return AdminClient(self._admin)

    def wait_serving(self, client: Client) -> float:
        """Return the seconds until the daemon's health was SERVING. Raises DemoFailed."""
        return self._wait_until(lambda: client.serving(timeout_seconds=1), "serving", START_SECONDS_MAX)

    def wait_ready(self, client: Client, task: str) -> float:
        """Return the seconds until the task's engine was ready. Raises DemoFailed."""
        return self._wait_until(lambda: client.task(task).ready, f"ready for {task}", READY_SECONDS_MAX)

    def stop(self) -> float:
        """Send SIGTERM and return the seconds until the process had ended with exit code 0. Raises DemoFailed."""
        started = time.monotonic()
        code = self._terminate()
        if code != 0:
            raise self._failure(f"the daemon ended with exit code {code}, not 0; its log ends so:")
        return time.monotonic() - started

    def _terminate(self) -> int:
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            message = f"the daemon did not stop within {STOP_SECONDS_MAX:.0f} s; its log ends so:"
            raise self._failure(message) from None
        finally:  # Also after a second Ctrl-C: nothing of the demo may stay behind.
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def _wait_until(self, condition: Callable[[], bool], state: str, seconds_max: float) -> float:
        started, pause = time.monotonic(), 0.05
        while time.monotonic() - started < seconds_max:
            if self._process.poll() is not None:
                raise self._failure("the daemon ended too early; its log ends so:")
            try:
                if condition():
                    return time.monotonic() - started
            except CallFailed as error:
                if error.code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                    raise
            time.sleep(pause)
            pause = min(pause * 1.5, _PAUSE_SECONDS_MAX)
        raise self._failure(f"the daemon was not {state} after {seconds_max:.0f} s; its log ends so:")

    def _failure(self, message: str) -> DemoFailed:
        failure, log = DemoFailed(message), self._log.read_text(encoding="utf-8", errors="replace")
        failure.details = tuple(log.splitlines()[-_LOG_LINES_SHOWN:])
        return failure
