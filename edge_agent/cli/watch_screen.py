"""The screen of `edge-agent watch`: one frame that fits the terminal, from 80 columns and 24 lines, in any encoding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge_agent.cli.output import ENGINE_STYLES, LINK_STYLES, UPDATE_STYLES, duration, large_model_state
from edge_agent.cli.terminal import FULL_BLOCK, PARTIAL_BLOCKS, EscapedTable, advice, draw_bar, table
from edge_agent.cli.watch_history import TOTAL, RefusalCount, TaskRates, WatchSnapshot
from edge_agent.client import Engine, ExamplesStatus, FieldAlarm, Status, Task, UpdatesStatus, UplinkStatus
from edge_agent.formatting import counted, format_bytes, shorten_digests

BAR_CELLS = 8
REFUSALS_SHOWN_MAX = 4
TASK_COLUMNS = {
    **{"task": 0, "version": 60, "state": 0, "per s": 0, "last min": 72},
    **{"confid.": 50, "escal.": 72, "p50": 60, "p95": 40},
}
"""Each column, and the minimum width of the terminal for it."""
ENGINE_COLUMNS = {
    **{"engine": 0, "state": 0, "device": 72, "busy": 60},
    **{"waiting": 72, "restarts": 45, "memory": 40, "tasks": 72},
}
UNBOUNDED = 10_000
"""Columns of a terminal in which everything fits."""
NOTE_LINES_MAX = 2
"""Of one note on a screen that is too small for all of it."""


@dataclass(frozen=True)
class Glyphs:
    """The characters of curves and bars."""

    levels: str
    """Eight levels, in ascending order."""
    full: str
    parts: str
    """Eighths of a cell; shorter where a terminal has no such characters."""
    more: str


UNICODE = Glyphs("▁▂▃▄▅▆▇█", FULL_BLOCK, PARTIAL_BLOCKS, "…")
ASCII = Glyphs("_.:-=+*#", "#", " ", "...")


def glyphs_for(environ: Mapping[str, str]) -> Glyphs:
    """Return what the terminal of this locale can show.

    Python itself sets LC_CTYPE to C.UTF-8 in a C locale (PEP 538), so that value does not describe the terminal.
    """
    locales = [environ.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    if locales[1] == "C.UTF-8" and not locales[0]:
        locales[1] = ""
    locale = next(filter(None, locales), "C").lower()
    return UNICODE if "utf-8" in locale or "utf8" in locale else ASCII


@dataclass(frozen=True)
class WatchDisplay:
    """Properties of the display."""

    console: Console
    glyphs: Glyphs
    every: float
    """Seconds between two looks, shown in the last line."""
    keys: bool = False
    """There is a keyboard."""


def draw_screen(look: WatchSnapshot, now: datetime, display: WatchDisplay, lines: int | None) -> RenderableType:
    """Draw a frame of at most `lines`; None = no limit. If not all tasks fit, the busiest are shown."""
    frame = _Frame(look, now, display)
    rows = frame.all_rows()
    if lines is None:
        return Group(*frame.parts(rows), frame.foot())
    if rows.total > lines:  # more rows than the screen has lines need not be drawn to be measured
        rows = fewer_rows(rows._replace(spaced=False), lines)
    parts = frame.parts(rows)
    while (excess := frame.height(parts) - (lines - 1)) > 0:
        smaller = fewer_rows(rows, rows.total - (excess + 1) // 2)
        if smaller == rows:
            break
        rows, parts = smaller, frame.parts(smaller)
    return Group(*parts, frame.foot())


class FrameRows(NamedTuple):
    """How many rows of each part are drawn."""

    tasks: int
    engines: int
    notes: int
    spaced: bool = True
    """Empty lines between the parts."""

    @property
    def total(self) -> int:
        """The sum of all rows."""
        return self.tasks + self.engines + self.notes


def fewer_rows(rows: FrameRows, total_max: int) -> FrameRows:
    """Return a smaller frame: first without empty lines, then with at most `total_max` rows, at least one of each part.

    The longest part is shortened. Notes are about what needs attention, so they count as shorter.
    """
    if rows.spaced:
        return rows._replace(spaced=False)
    counts = {"tasks": rows.tasks, "engines": rows.engines, "notes": rows.notes}
    while sum(counts.values()) > total_max:
        longest = max(counts, key=lambda name: (counts[name] > 1, counts[name] - (3 if name == "notes" else 0)))
        if counts[longest] <= 1:
            break
        counts[longest] -= 1
    return FrameRows(**counts, spaced=False)


class _Frame:
    """One look, drawn in one size or another."""

    def __init__(self, look: WatchSnapshot, now: datetime, display: WatchDisplay) -> None:
        self._look, self._now, self._display = look, now, display
        self._console, self._glyphs = display.console, display.glyphs
        self._notes = list(_notes(look, now, display.glyphs)) if look.status else []

    def parts(self, rows: FrameRows) -> list[RenderableType]:
        """Return the parts of the frame."""
        look, status = self._look, self._look.status
        parts: list[RenderableType] = list(_silence(look))
        if status is None:
            return parts
        parts.append(_headline(status, look, self._now))
        for part in (self._task_table(status, rows), self._engine_table(status, rows), self._note_grid(rows)):
            if part.row_count:
                parts += [Text(), part] if rows.spaced else [part]
        return parts

    def height(self, parts: Sequence[RenderableType]) -> int:
        """Return the height in lines."""
        options = self._console.options.update(height=None)
        return sum(len(self._console.render_lines(part, options, pad=False)) for part in parts)

    def all_rows(self) -> FrameRows:
        """Return the full numbers of rows."""
        status = self._look.status
        return FrameRows(len(status.tasks) if status else 0, len(status.engines) if status else 0, len(self._notes))

    def foot(self) -> Text:
        """Return the last line."""
        look, every = self._look, self._display.every
        rates = f"rates of the last {look.seconds:.0f} s" if look.seconds else "rates come with the next look"
        interval_text = "every second" if every == 1 else f"every {every:g} s"
        quit_hint = "q or Ctrl-C ends" if self._display.keys else "Ctrl-C ends"
        message = f"{self._now.astimezone():%H:%M:%S}  {quit_hint}; {interval_text}; {rates}"
        return Text(message, "dim", no_wrap=True, overflow="crop")

    def _task_table(self, status: Status, rows: FrameRows) -> Table:
        columns = self._columns_that_fit(TASK_COLUMNS)
        listing = table(*columns, right=("per s", "confid.", "escal.", "p50", "p95"), wrap=("task",))

        def add(name: Text, version: str, state: Text, figures: Iterator[Text]) -> None:
            cells = dict(zip(TASK_COLUMNS, (name, Text(version), state, *figures), strict=True))
            listing.add_row(*(cells[column] for column in columns))

        tasks = list(status.tasks)
        if rows.tasks < len(tasks):
            no_rates = TaskRates()
            tasks.sort(key=lambda task: -self._look.rates.get(task.name, no_rates).answers)
            tasks = tasks[: rows.tasks]
        for task in tasks:
            add(Text(task.name), task.bundle.version, task_state(task, status), self._figures(task.name))
        if len(status.tasks) > len(tasks):
            listing.add_row(Text(f"{self._glyphs.more} {len(status.tasks) - len(tasks)} more", "dim"))
        if len(status.tasks) > 1:
            add(Text("all", "bold"), "", Text(), self._figures(TOTAL))
        return listing

    def _columns_that_fit(self, columns: Mapping[str, int]) -> list[str]:
        return [name for name, width in columns.items() if self._console.width >= width]

    def _figures(self, name: str) -> Iterator[Text]:
        look = self._look
        rates = look.rates.get(name, TaskRates())
        yield Text(format_rate(rates.answers) if look.seconds else "-")
        yield Text(curve(look.curves.get(name, ()), self._glyphs), "cyan")
        for share in (rates.confident, rates.escalated):
            yield Text("-" if share is None else f"{share:.0%}")
        for seconds in (rates.total_p50, rates.total_p95):
            yield Text(format_latency(seconds))

    def _engine_table(self, status: Status, rows: FrameRows) -> Table:
        columns, unbounded = self._columns_that_fit(ENGINE_COLUMNS), self._console.options.update_width(UNBOUNDED)
        while len(columns) > 1:
            listing = self._engines_by(columns, status, rows)
            if self._console.measure(listing, options=unbounded).maximum <= self._console.width:
                return listing
            # With a long name or state, drop a column rather than cut headers.
            columns.remove(max(reversed(columns), key=ENGINE_COLUMNS.__getitem__))
        return self._engines_by(columns, status, rows)

    def _engines_by(self, columns: Sequence[str], status: Status, rows: FrameRows) -> Table:
        listing = table(*columns, right=("waiting", "restarts", "memory", "tasks"))
        engines = list(status.engines)
        if rows.engines < len(engines):
            engines = sorted(engines, key=lambda engine: engine.state == "READY")[: rows.engines]
        for engine in engines:
            cells = (
                Text(engine.name),
                Text(_state_text(engine.state), ENGINE_STYLES.get(engine.state, "")),
                Text(engine.device or "-", "yellow" if engine.shortfall else ""),
                _busy_bar(engine, self._glyphs),
                Text(str(max(0, engine.pending - engine.running))),
                Text(str(engine.restarts), "yellow" if engine.restarts else ""),
                Text(format_bytes(engine.resident_bytes)),
                Text(str(len(engine.tasks))),
            )
            listing.add_row(*(cells[number] for number, column in enumerate(ENGINE_COLUMNS) if column in columns))
        if rows.engines < len(status.engines):
            listing.add_row(Text(f"{self._glyphs.more} {len(status.engines) - rows.engines} more", "dim"))
        return listing

    def _note_grid(self, rows: FrameRows) -> Table:
        grid = EscapedTable.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column()
        notes = self._notes[: rows.notes]
        for label, note in notes:
            grid.add_row(label, note if rows.spaced else self._shorten_note(note))
        if len(self._notes) > len(notes):
            more = f"{len(self._notes) - len(notes)} more in 'edge-agent status'"
            grid.add_row(Text(self._glyphs.more, "dim"), Text(more, "dim"))
        return grid

    def _shorten_note(self, note: Text) -> Text:
        """Return a note shortened to the lines that a small screen has for it."""
        cells_max = NOTE_LINES_MAX * max(20, self._console.width - 14)
        if note.cell_len <= cells_max:
            return note
        shortened = note.copy()
        shortened.truncate(cells_max - len(self._glyphs.more), overflow="crop")
        return shortened.append(self._glyphs.more)


def _silence(look: WatchSnapshot) -> Iterator[Text]:
    if look.problem:
        yield Text.assemble(("no answer  ", "bold red"), look.problem)
        if look.remedy:
            yield Text.assemble(("what to do ", "bold"), advice(look.remedy))
        since = f"for {duration(look.silent_seconds)}; " if look.status else ""
        below_text = "; the figures below are from before" if look.status else ""
        yield Text(f"{since}asked again every time{below_text}", "dim")


def _headline(status: Status, look: WatchSnapshot, now: datetime) -> Text:
    state = ("serving", "green") if status.serving else ("draining", "yellow")
    line = Text.assemble(
        ("edge-agent ", "bold"),
        f"{status.agent_version} ",
        f"at {status.site} " if status.site else "",
        state,
        f", up {duration((now - status.start_time).total_seconds())}; memory {format_bytes(status.resident_bytes)}; "
        f"disk {format_bytes(status.disk_free_bytes)} free",
    )
    if look.restarts:
        times = "once" if look.restarts == 1 else f"{look.restarts} times"
        line.append(f"; restarted {times} since you watch", "yellow")
    return line


def task_state(task: Task, status: Status) -> Text:
    """Return whether a task answers, otherwise the state of its engine."""
    if task.ready:
        return Text("ready", "green")
    engines = [engine for engine in status.engines if task.name in engine.tasks and engine.state != "READY"]
    state = engines[0].state if engines else "NOT_READY"
    return Text(_state_text(state), ENGINE_STYLES.get(state, "bold red" if state == "NOT_READY" else "yellow"))


def _notes(look: WatchSnapshot, now: datetime, glyphs: Glyphs) -> Iterator[tuple[Text, Text]]:
    """Yield the notes below the tables, the most urgent first: subject and sentence."""
    status = look.status
    assert status is not None, "without a status there is nothing to note"
    for alarm in status.alarms:
        yield Text("alarm", "bold red"), _alarm_line(alarm, now)
    for engine in status.engines:
        if engine.problem:
            yield Text("engine", "bold red"), Text(f"{engine.name}: {engine.problem}")
    if look.refusals:
        yield Text("refused", "bold"), _refusal_line(look.refusals, look.seconds, glyphs)
    if status.updates:
        yield from _update_lines(status.updates, look, now, glyphs)
    if status.uplink:
        yield from _uplink_lines(status.uplink, look, now)
    if status.large_model:
        line = large_model_state(status.large_model)
        if status.large_model.problem:
            line.append(f"; {status.large_model.problem}", "red")
        yield Text("large model", "bold"), line
    if status.examples:
        yield Text("examples", "bold"), _examples_line(status.examples)
    for warning in status.warnings:
        yield Text("warning", "yellow"), Text(shorten_digests(warning))


def _alarm_line(alarm: FieldAlarm, now: datetime) -> Text:
    text = f", {alarm.alarm} for {duration((now - alarm.since).total_seconds())}: {alarm.message}"
    return Text.assemble((alarm.task, "bold"), text, ("; in shadow because of it", "yellow") if alarm.demoted else "")


def _refusal_line(refusals: Sequence[RefusalCount], seconds: float, glyphs: Glyphs) -> Text:
    """Return the latest reasons with their counts since the daemon started and in the window."""
    line = Text()
    for index, refusal in enumerate(refusals[:REFUSALS_SHOWN_MAX]):
        style = "bold red" if refusal.recent else ""
        line.append("; " if index else "").append(f"{refusal.task} {refusal.reason}".strip(), style)
        line.append(f" {refusal.count}")
        if refusal.recent:
            line.append(f", {refusal.recent} in {seconds:.0f} s", style)
        elif refusal.seconds_ago is not None:
            line.append(f", {duration(refusal.seconds_ago)} ago")
    hidden = len(refusals) - REFUSALS_SHOWN_MAX
    return line.append(f"; {glyphs.more} {counted(hidden, 'more reason')}", "dim") if hidden > 0 else line


def _update_lines(
    updates: UpdatesStatus, look: WatchSnapshot, now: datetime, glyphs: Glyphs
) -> Iterator[tuple[Text, Text]]:
    for task in updates.tasks:
        if task.candidate and task.state != "DONE":
            reason = shorten_digests(task.message or task.reason)
            since = f" for {duration((now - task.since).total_seconds())}" if task.since else ""
            state = (_state_text(task.state), UPDATE_STYLES.get(task.state, ""))
            versions = f"{task.task} to {task.candidate.version}: "
            yield Text("update", "bold"), Text.assemble(versions, state, since, f", {reason}" if reason else "")
    if updates.copying:
        share = updates.copied_bytes / updates.total_bytes if updates.total_bytes else 1.0
        message = f"{updates.copying}: {format_bytes(updates.copied_bytes)} of {format_bytes(updates.total_bytes)}"
        eta = remaining(updates.total_bytes - updates.copied_bytes, look.transfers.copied)
        yield Text("copying", "bold"), Text.assemble((bar(share, glyphs), "cyan on grey23"), f" {message}{eta}")
    if updates.problem:
        yield Text("updates", "yellow"), Text(shorten_digests(updates.problem))


def _uplink_lines(uplink: UplinkStatus, look: WatchSnapshot, now: datetime) -> Iterator[tuple[Text, Text]]:
    line = Text(_state_text(uplink.state), LINK_STYLES.get(uplink.state, ""))
    if uplink.last_contact:
        line.append(f", last contact {duration((now - uplink.last_contact).total_seconds())} ago")
    if uplink.waiting_segments or look.transfers.uploaded:
        waiting = f"{counted(uplink.waiting_segments, 'segment')}, {format_bytes(uplink.waiting_bytes)} to go up"
        line.append(f"; {waiting}{remaining(uplink.waiting_bytes, look.transfers.uploaded)}")
    else:
        line.append("; nothing to go up")
    if uplink.problems:
        line.append(f"; {shorten_digests(uplink.problems[0].message)}", "red")
    yield Text("upload", "bold"), line
    downloads = uplink.downloads
    if downloads and (downloads.waiting_blobs or look.transfers.downloaded):
        files = counted(downloads.waiting_blobs, "file")
        line = Text(_state_text(downloads.state), LINK_STYLES.get(downloads.state, ""))
        line.append(f"; {files}, {format_bytes(downloads.waiting_bytes)} to come down")
        yield Text("download", "bold"), line.append(remaining(downloads.waiting_bytes, look.transfers.downloaded))


def _examples_line(examples: ExamplesStatus) -> Text:
    answers = sum(number for name, number in examples.retained.items() if name != "feedback")
    line = Text(
        f"{answers} kept, {format_bytes(examples.spool_bytes)}; {examples.retained.get('feedback', 0)} with feedback; "
    )
    line.append(f"{examples.outbox_segments} sealed without a receipt, {format_bytes(examples.outbox_bytes)}")
    losses = sum(number for name, number in examples.counters.items() if name.startswith(("dropped_", "sacrificed_")))
    return line.append(f"; {losses} given up", "yellow") if losses else line


def remaining(bytes_left: int, rate: float | None) -> str:
    """Return the rate of a transfer and how long it will take; empty = not known."""
    if rate is None:
        return ""
    if rate <= 0:
        return ", standing still" if bytes_left else ""
    return f", {format_bytes(int(rate))}/s" + (f", about {duration(bytes_left / rate)} left" if bytes_left else "")


def curve(cells: Sequence[float | None], glyphs: Glyphs) -> str:
    """Draw rates as one line of characters, scaled to the highest; a space = not watched."""
    highest = max((cell for cell in cells if cell is not None), default=0.0)
    top = len(glyphs.levels) - 1
    return "".join(
        " " if cell is None else glyphs.levels[max(1, round(cell / highest * top)) if cell > 0 else 0] for cell in cells
    )


def bar(share: float, glyphs: Glyphs) -> str:
    """Draw a share, 0 to 1, as BAR_CELLS characters."""
    return draw_bar(share, BAR_CELLS, glyphs.full, glyphs.parts)


def _busy_bar(engine: Engine, glyphs: Glyphs) -> Text:
    """Draw how many of its places are taken."""
    if not engine.running_max:
        return Text("-")
    share = engine.running / engine.running_max
    colour = "red" if share >= 1 else "cyan"
    return Text.assemble((bar(share, glyphs), f"{colour} on grey23"), f" {engine.running}/{engine.running_max}")


def format_rate(rate: float) -> str:
    """Write a rate with three digits or so."""
    return "0" if not rate else f"{rate:.2f}" if rate < 1 else f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"


def format_latency(seconds: float | None) -> str:
    """Write a time from microseconds to minutes."""
    if seconds is None:
        return "-"
    milliseconds = 1000 * seconds
    if milliseconds >= 1000:
        return f"{seconds:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def _state_text(state: str) -> str:
    return state.lower().replace("_", " ")
