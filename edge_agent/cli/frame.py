"""One frame of `edge-agent status --watch`: what a screen of 80 columns shows of a daemon, or of its absence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge_agent.byte_sizes import format_bytes
from edge_agent.cli import large_model
from edge_agent.cli.output import table
from edge_agent.cli.rates import Rates
from edge_agent.cli.styles import LINK_STYLES, STATE_STYLES, UPDATE_STYLES, duration
from edge_agent.cli.terminal import Rows
from edge_agent.client import Engine, ExamplesStatus, FieldAlarm, LargeModel, Status, UplinkStatus

BAR_CELLS = 8
_PARTS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Look:
    """What is known at one moment."""

    status: Status | None
    """As it was last; None = the daemon was never reached."""
    rates: dict[str, Rates]
    seconds: float
    """Of the window that the rates are over."""
    problem: str = ""
    """Why the daemon does not answer; empty = it does."""


def frame(look: Look, now: datetime) -> RenderableType:
    """Draw it."""
    return Group(*_parts(look, now))


def _parts(look: Look, now: datetime) -> Iterator[RenderableType]:
    status = look.status
    if look.problem:
        yield Text.assemble(("no answer  ", "bold red"), look.problem)
        yield Text("It is tried again every second; what stands below is from before." if status else "", "dim")
    if status is None:
        return
    yield _head(status, now)
    yield Text()
    yield _tasks(status, look)
    yield Text()
    yield _engines(status)
    yield Text()
    notes = Rows.grid(padding=(0, 2, 0, 0))
    for label, said in _notes(status, now):
        notes.add_row(label, said)
    yield notes


def _notes(status: Status, now: datetime) -> Iterator[tuple[Text, Text]]:
    """Yield what stands below the tables: what it is about, and a sentence."""
    for alarm in status.alarms:
        yield Text("alarm", "bold red"), _alarm(alarm, now)
    if status.large_model:
        yield Text("large model", "bold"), _large_model(status.large_model)
    if status.examples:
        yield Text("examples", "bold"), _examples(status.examples)
    if status.uplink:
        yield Text("uplink", "bold"), _uplink(status.uplink, now)
    yield from _updates(status)
    for warning in status.warnings:
        yield Text("warning", "yellow"), Text(warning)


def _head(status: Status, now: datetime) -> Text:
    state = ("serving", "green") if status.serving else ("draining", "yellow")
    up = duration((now - status.start_time).total_seconds())
    return Text.assemble(
        ("edge-agent ", "bold"),
        f"{status.agent_version} ",
        state,
        f", up {up}; memory {format_bytes(status.resident_bytes)}; disk {format_bytes(status.disk_free_bytes)} free"
        f"  {now.astimezone():%H:%M:%S}",
    )


def _tasks(status: Status, look: Look) -> Table:
    right = ("calls/s", "p50", "p95", "queued", "unsure", "errors/s")
    made = table("task", "version", "ready", *right, right=right, wrap=("task",))
    unseen = Rates()
    for task in status.tasks:
        rates = look.rates.get(task.name, unseen)
        made.add_row(
            task.name,
            task.bundle.version,
            Text("yes", "green") if task.ready else Text("no", "bold red"),
            _rate(rates.answers) if look.seconds else "-",
            *map(_time, (rates.total_p50, rates.total_p95, rates.queue_p95)),
            "-" if rates.below is None else f"{rates.below:.0%}",
            Text(_rate(rates.errors), "bold red" if rates.errors else "") if look.seconds else "-",
        )
    unknown = look.rates.get("")
    if unknown and unknown.errors:
        made.add_row(Text("not installed", "dim"), *[""] * 7, Text(_rate(unknown.errors), "bold red"))
    made.caption = f"of the last {look.seconds:.0f} s" if look.seconds else "rates come with the next look"
    made.caption_justify, made.caption_style = "left", "dim"
    return made


def _engines(status: Status) -> Table:
    right = ("waiting", "restarts", "memory", "tasks")
    made = table("engine", "state", "device", "busy", *right, right=right, wrap=("state",))
    for engine in status.engines:
        made.add_row(
            engine.name,
            Text(engine.state.lower().replace("_", " "), STATE_STYLES.get(engine.state, "")),
            Text(engine.device or "-", "yellow" if engine.shortfall else ""),
            _busy(engine),
            str(max(0, engine.pending - engine.running)),
            Text(str(engine.restarts), "yellow" if engine.restarts else ""),
            format_bytes(engine.resident_bytes),
            str(len(engine.tasks)),
        )
    return made


def _busy(engine: Engine) -> Text:
    """Draw how many of its places are taken."""
    if not engine.running_max:
        return Text("-")
    share = min(1.0, engine.running / engine.running_max)
    eighths = round(share * BAR_CELLS * 8)
    drawn = "█" * (eighths // 8) + (_PARTS[eighths % 8] if eighths % 8 else "")
    colour = "red" if share >= 1 else "cyan"
    return Text.assemble((drawn.ljust(BAR_CELLS), f"{colour} on grey23"), f" {engine.running}/{engine.running_max}")


def _examples(examples: ExamplesStatus) -> Text:
    kept = sum(number for name, number in examples.retained.items() if name != "feedback")
    said = Text(
        f"{kept} kept, {format_bytes(examples.spool_bytes)}; {examples.retained.get('feedback', 0)} with feedback; "
    )
    said.append(f"{examples.outbox_segments} sealed without a receipt, {format_bytes(examples.outbox_bytes)}")
    lost = sum(number for name, number in examples.counters.items() if name.startswith(("dropped_", "sacrificed_")))
    return said.append(f"; {lost} given up", "yellow") if lost else said


def _alarm(alarm: FieldAlarm, now: datetime) -> Text:
    said = f", {alarm.alarm} for {duration((now - alarm.since).total_seconds())}: {alarm.message}"
    return Text.assemble((alarm.task, "bold"), said, ("; in shadow because of it", "yellow") if alarm.demoted else "")


def _large_model(large: LargeModel) -> Text:
    said = large_model.state(large)
    return said.append(f"; {large.problem}", "red") if large.problem else said


def _uplink(uplink: UplinkStatus, now: datetime) -> Text:
    said = Text(uplink.state.lower(), LINK_STYLES.get(uplink.state, ""))
    if uplink.last_contact:
        said.append(f", last contact {duration((now - uplink.last_contact).total_seconds())} ago")
    said.append(f"; {uplink.waiting_segments} to go up")
    if uplink.downloads and uplink.downloads.waiting_blobs:
        said.append(f"; {uplink.downloads.waiting_blobs} files to come down")
    return said.append(f"; {uplink.problems[0].message}", "red") if uplink.problems else said


def _updates(status: Status) -> Iterator[tuple[Text, Text]]:
    if status.updates is None:
        return
    for task in status.updates.tasks:
        if task.candidate and task.state != "DONE":
            state = (task.state.lower().replace("_", " "), UPDATE_STYLES.get(task.state, ""))
            why = task.message or task.reason
            said = Text.assemble(f"{task.task} to {task.candidate.version}: ", state, f", {why}" if why else "")
            yield Text("update", "bold"), said
    if status.updates.problem:
        yield Text("updates", "yellow"), Text(status.updates.problem)


def _rate(rate: float) -> str:
    return "0" if not rate else f"{rate:.2f}" if rate < 1 else f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    milliseconds = 1000 * seconds
    if milliseconds >= 1000:
        return f"{seconds:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"
