"""`edge-agent status`: what the daemon reports of itself, as a page of text; `edge-agent mode`: who answers a task."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.text import Text

from edge_agent.cli.daemon_target import TaskArgument, target_of
from edge_agent.cli.output import (
    ENGINE_STYLES,
    LINK_STYLES,
    UPDATE_STYLES,
    AsJson,
    duration,
    large_model_state,
    out,
    print_json,
    print_trimmed,
)
from edge_agent.cli.terminal import advice, table
from edge_agent.client import (
    ExamplesStatus,
    FieldAlarm,
    LargeModel,
    Mode,
    RedactionAuditState,
    RedactionState,
    Status,
    Task,
    UpdatesStatus,
    UplinkStatus,
)
from edge_agent.errors.base import first_task_remedy
from edge_agent.formatting import MICROS, counted, format_bytes, shorten_digests

# Counters of examples that an operator should see even when the loss has ended.
_LOSSES = ("dropped_", "sacrificed_", "segments_lost", "over_limit")


FollowOption = Annotated[
    bool,
    typer.Option("--follow", "-f", "--watch", help="Refresh every second until q or Ctrl-C, like 'edge-agent watch'."),
]


CountOption = Annotated[
    int, typer.Option("--count", metavar="N", min=0, help="With --follow: end after N refreshes; 0 = continue.")
]
CodeOption = Annotated[
    bool,
    typer.Option("--code", help="Show the state as groups of characters to read out, for 'edge-convert sites decode'."),
]
QrOption = Annotated[bool, typer.Option("--qr", help="Show the same as a QR code that you can photograph.")]


def run(
    ctx: typer.Context,
    as_json: AsJson = False,
    following: FollowOption = False,
    count: CountOption = 0,
    as_code: CodeOption = False,
    as_qr: QrOption = False,
) -> None:
    """Show the tasks, their engines, and what needs attention.

    Example: [bold]edge-agent status --json | jq '.tasks\\[].ready'[/bold]
    """
    if as_code + as_qr + (as_json or following) > 1:
        raise typer.BadParameter("not together with another form of output", param_hint="--qr" if as_qr else "--code")
    # Live screens and codes need further modules.
    if following:
        from edge_agent.cli.watch import WatchPlan, watch  # noqa: PLC0415

        watch(target_of(ctx), WatchPlan(count=count, as_json=as_json))
        return
    if count:
        raise typer.BadParameter("it is the number of looks of --follow", param_hint="--count")
    with target_of(ctx).admin() as admin:
        status = admin.status()
    now = datetime.now(UTC)
    if as_json:
        print_json(status, indent=2)
    elif as_code:
        from edge_agent.cli.site_code import print_code  # noqa: PLC0415

        print_code(out(), status, now)
    elif as_qr:
        from edge_agent.cli.site_code import print_qr  # noqa: PLC0415

        print_qr(out(), status, now, os.environ)
    else:
        show(out(), status, now)


def show(console: Console, status: Status, now: datetime) -> None:
    """Print the state for people."""
    state = "serving" if status.serving else "draining"
    print_trimmed(
        console,
        f"edge-agent {status.agent_version} is {state}, up {duration((now - status.start_time).total_seconds())};"
        f" memory {format_bytes(status.resident_bytes)} beside its engines;"
        f" store {format_bytes(status.store_bytes)}, {format_bytes(status.disk_free_bytes)} free",
    )
    if status.tasks:
        console.print()
        _show_tasks(console, status)
    else:
        print_trimmed(console, advice(f"No tasks yet. {first_task_remedy(status.site)}"))
    _show_alarms(console, status.alarms, now)
    if status.updates and any(task.candidate for task in status.updates.tasks):
        console.print()
        _show_updates(console, status.updates, now)
    if status.engines:
        console.print()
        _show_engines(console, status)
    if status.examples:
        console.print()
        _show_examples(console, status.examples)
    if status.redaction:
        print_trimmed(console, _redaction_text(status.redaction))
    _show_connections(console, status, now)
    if status.updates and status.updates.problem:
        print_trimmed(console, Text.assemble(("updates: ", "yellow"), advice(shorten_digests(status.updates.problem))))
    for warning in status.warnings:
        print_trimmed(console, Text.assemble(("warning: ", "yellow"), advice(shorten_digests(warning))))


def _show_connections(console: Console, status: Status, now: datetime) -> None:
    if status.uplink:
        console.print()
        _show_uplink(console, status.uplink, now)
    if status.large_model:
        console.print()
        show_large_model(console, status.large_model)


def _show_tasks(console: Console, status: Status) -> None:
    columns = ("task", "kind", "version", "ready", "signed", "mode", "threshold", "gate")
    tasks = table(*columns, right=("threshold",), wrap=("task",))
    for task in status.tasks:
        mode_name = task.mode.lower()
        tasks.add_row(
            task.name,
            task.kind.lower(),
            task.bundle.version,
            Text("yes", "green") if task.ready else Text("no", "red"),
            "yes" if task.signed else Text("no", "yellow"),
            # Marked if an alarm set it; the alarm is explained elsewhere.
            Text(f"{mode_name}*", "yellow") if task.mode_by == "alarm" else Text(mode_name),
            _threshold_text(task),
            task.gate or "-",
        )
    print_trimmed(console, tasks)


def _threshold_text(task: Task) -> Text:
    """Return the threshold, marked if it is not valid on this machine, which a warning explains."""
    message = "-" if task.threshold is None else f"{task.threshold:.2f}"
    if proved := sum(question.threshold is not None for question in task.questions):
        message = f"{proved} of {counted(len(task.questions), 'question')}"
    return Text(f"{message}*", style="yellow") if task.confidence_blocker else Text(message)


def _show_alarms(console: Console, alarms: Sequence[FieldAlarm], now: datetime) -> None:
    if alarms:
        console.print()
    for alarm in alarms:
        since = duration((now - alarm.since).total_seconds())
        line = Text.assemble(("alarm: ", "red"), (alarm.task, "bold"), f", {alarm.alarm} for {since}: {alarm.message}.")
        if alarm.demoted:
            way_back = f"'edge-agent mode {alarm.task} {AS_PLANNED}' takes that back."
            line.append(f" It put the task into shadow, as the plan allows; {way_back}")
        print_trimmed(console, line.append(advice(f" {alarm.remedy}")))


def _show_updates(console: Console, updates: UpdatesStatus, now: datetime) -> None:
    print_trimmed(console, f"updates: channel {updates.channel}, plan {updates.plan_version or '-'}")
    listing = table("task", "runs", "before", "wanted", "state", "since", "why", wrap=("task", "why"))
    for task in updates.tasks:
        if task.candidate is None or task.since is None:
            continue
        listing.add_row(
            task.task,
            task.active.version if task.active else "-",
            task.previous.version if task.previous else "-",
            task.candidate.version,
            Text(task.state.lower().replace("_", " "), style=UPDATE_STYLES.get(task.state, "")),
            duration((now - task.since).total_seconds()),
            shorten_digests(task.message or task.reason or "-"),
        )
    print_trimmed(console, listing)


def _show_engines(console: Console, status: Status) -> None:
    numbers = ("pid", "memory", "pending", "restarts")
    engines = table("engine", "state", "device", *numbers, "tasks", right=numbers, wrap=("tasks",))
    for engine in status.engines:
        engines.add_row(
            engine.name,
            Text(engine.state.lower(), style=ENGINE_STYLES.get(engine.state, "")),
            Text(engine.device or "-", style="yellow" if engine.shortfall else ""),
            str(engine.pid or "-"),
            format_bytes(engine.resident_bytes),
            str(engine.pending),
            str(engine.restarts),
            ", ".join(engine.tasks),
        )
    print_trimmed(console, engines)
    for engine in status.engines:
        if engine.problem:
            print_trimmed(console, Text.assemble((f"{engine.name}: ", "red"), engine.problem))


def _show_examples(console: Console, examples: ExamplesStatus) -> None:
    if not (examples.collect or sum(examples.retained.values()) or examples.outbox_segments):
        print_trimmed(console, "no examples are kept: 'examples.collect' in agent.yaml names no task")
        return
    consents = ", ".join(f"{task} ({consent})" for task, consent in sorted(examples.collect.items()))
    retained = ", ".join(f"{number} {name}" for name, number in sorted(examples.retained.items()) if number) or "none"
    print_trimmed(
        console,
        f"examples of {consents or 'no task any more'}; kept here: {retained}; {format_bytes(examples.spool_bytes)}",
    )
    sealed = f"{counted(examples.outbox_segments, 'segment')}, {format_bytes(examples.outbox_bytes)}"
    print_trimmed(console, f"sealed, waiting for receipts: {sealed}")
    print_trimmed(console, _review_text(examples))
    _show_losses(console, examples.counters)


def _redaction_text(state: RedactionState) -> str:
    readers = (
        f"redaction: {state.model} and the rules read" if state.model else f"redaction: {state.task} does not answer"
    )
    read, passed = state.counts.get("read_by_model", 0), state.counts.get("passed_by_rules", 0)
    dropped = state.counts.get("dropped_unredacted", 0)
    extras = f", {passed} passed by the rules alone" if passed else ""
    extras += f", {dropped} dropped unread" if dropped else ""
    message = f"{readers} what is captured or sent; {read} read{extras}, {state.waiting} waiting"
    if state.is_proved_otherwise:
        message += f"; its promise was proved with rules of version {state.proved_rules}, here are {state.rules}"
    return f"{message}{_audit_text(state.audit)}" if state.audit else message


def _audit_text(audit: RedactionAuditState) -> str:
    """Return the results of the redaction audit; empty if it has drawn nothing."""
    waiting = f"; {counted(audit.waiting, 'text')} to audit" if audit.waiting else ""
    if audit.share is None:
        return waiting
    promise = f", {100 * audit.target:g}% promised" if audit.target is not None else ""
    return (
        f"; {audit.missed} of {audit.values} audited values remained ({100 * audit.low:.1f}% to"
        f" {100 * audit.high:.1f}%{promise}){waiting}"
    )


def _show_losses(console: Console, counters: Mapping[str, int]) -> None:
    losses = {name: number for name, number in counters.items() if number and name.startswith(_LOSSES)}
    if losses:
        counts = ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in sorted(losses.items()))
        print_trimmed(console, f"given up so far: {counts}")


def _review_text(examples: ExamplesStatus) -> Text:
    """Return what waits for review, and the progress of the random audit."""
    waiting = ", ".join(f"{number} {stream}" for stream, number in sorted(examples.review_waiting.items()) if number)
    audit = examples.audit
    line = Text(f"to review: {waiting or 'nothing'}; random audit: {audit.drawn} drawn, {audit.reviewed} reviewed")
    if audit.lost:
        line.append(f", {audit.lost} lost unjudged: what was reviewed need not be like all answers", "yellow")
    return line


def _show_uplink(console: Console, uplink: UplinkStatus, now: datetime) -> None:
    """Print the state of the uplink and its problems."""
    destination = f" to {uplink.upstream}" if uplink.upstream else ""
    line = Text.assemble(f"uplink{destination}: ", (uplink.state.lower(), LINK_STYLES.get(uplink.state, "")))
    if uplink.since and uplink.state != "SILENT":
        line.append(f" for {duration((now - uplink.since).total_seconds())}")
    if uplink.last_contact:
        line.append(f", last contact {duration((now - uplink.last_contact).total_seconds())} ago")
    if uplink.retry_at and uplink.state == "OFFLINE":
        line.append(f", tried again in {duration((uplink.retry_at - now).total_seconds())}")
    print_trimmed(console, line)
    waiting = f"{counted(uplink.waiting_segments, 'segment')}, {format_bytes(uplink.waiting_bytes)}"
    print_trimmed(console, f"waiting to go up: {waiting}")
    if uplink.downloads:
        state = (uplink.state if uplink.state == "SILENT" else uplink.downloads.state).lower()
        waiting = f"{counted(uplink.downloads.waiting_blobs, 'file')}, {format_bytes(uplink.downloads.waiting_bytes)}"
        print_trimmed(console, f"updates from {uplink.downloads.repository}: {state}; waiting to come down: {waiting}")
    for problem in uplink.problems:
        subject = f" ({problem.about})" if problem.about else ""
        problem_text = advice(f"{shorten_digests(problem.message + subject)}. {problem.remedy}")
        print_trimmed(console, Text.assemble(("uplink: ", "red"), problem_text))


def show_large_model(console: Console, large_model: LargeModel) -> None:
    """Print whether the large model is available, and its cost."""
    text = Text.assemble(
        "large model", f" {large_model.model}" if large_model.model else "", ": ", large_model_state(large_model)
    )
    if large_model.day_micros_max or large_model.month_micros_max or large_model.month_micros:
        day = _amount(large_model.day_micros, large_model.day_micros_max)
        text.append(f"; today {day}, this month {_amount(large_model.month_micros, large_model.month_micros_max)}")
    print_trimmed(console, text)
    if not large_model.tasks:
        print_trimmed(console, "  no task may ask it: set 'tasks' under 'escalation' in agent.yaml")
    if deferred := _deferred_questions(large_model):
        print_trimmed(console, f"  {deferred}")
    if large_model.problem:
        print_trimmed(console, Text.assemble(("large model: ", "red"), large_model.problem))


def _deferred_questions(large_model: LargeModel) -> str:
    """Return the state of background questions; empty = there were none."""
    labels = {"deferred": "put off", "audit": "to audit"}
    waiting = [
        f"{large_model.waiting[reason]} {label}" for reason, label in labels.items() if large_model.waiting.get(reason)
    ]
    parts = (
        f"{' and '.join(waiting)}, the oldest {duration(large_model.waiting_seconds)} ago" if waiting else "",
        f"{large_model.opinions} answered" if large_model.opinions else "",
        ", ".join(f"{number} {reason}" for reason, number in sorted(large_model.given_up.items()) if number),
    )
    text = "; ".join(filter(None, parts))
    return f"asked later: {text}" if text else ""


def _amount(micros: int, cap: int) -> str:
    return f"{micros / MICROS:.2f}" + (f" of {cap / MICROS:.2f}" if cap else "")


AS_PLANNED = "planned"
_MODE_MEANINGS = {
    "LOCAL": "the local model answers, and no other",
    "HYBRID": "the local model answers where it is confident, and the large one elsewhere",
    "SHADOW": "the large model answers; the local one runs next to it for comparison",
    "BOOTSTRAP": "the large model answers; the local one is not asked",
}
_MODE_ORIGINS = {
    "operator": "set by hand",
    "plan": "set by the plan",
    "configuration": "set in agent.yaml",
    "bundle": "its bundle has no local model",
    "alarm": "set by an alarm, as the plan allows: 'edge-agent status' shows which, and how to undo it",
}


def mode(
    ctx: typer.Context,
    task: TaskArgument,
    chosen: Annotated[
        str,
        typer.Argument(
            metavar="MODE", help=f"One of {', '.join(get_args(Mode))}; {AS_PLANNED} = the mode in the plan."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show or set which model answers a task: the local one, the large one, or both.

    A mode that you set holds until the plan names another mode than it does now. The large model is asked only about
    the tasks that 'tasks' under 'escalation' in agent.yaml names.

    Example: [bold]edge-agent mode pos-intent hybrid[/bold]
    """
    with target_of(ctx).admin() as admin:
        if chosen:
            modes: dict[str, Mode | None] = {**{name: name for name in get_args(Mode)}, AS_PLANNED: None}
            if chosen not in modes:
                raise typer.BadParameter(f"{chosen!r} is not one of {', '.join(modes)}", param_hint="MODE")
            current = admin.set_mode(task, modes[chosen])
        else:
            tasks = {each.name: each for each in admin.status().tasks}
            if task not in tasks:
                raise typer.BadParameter(f"there is no task {task!r}; there are: {', '.join(tasks) or 'none'}")
            current = tasks[task]
    if as_json:
        print_json({"task": task, "mode": current.mode, "set_by": current.mode_by}, indent=2)
        return
    meaning, origin = _MODE_MEANINGS.get(current.mode, ""), _MODE_ORIGINS.get(current.mode_by)
    out().print(f"'{task}' is in mode {current.mode.lower()}: {meaning}{f'; {origin}' if origin else ''}.")
