"""`edge-convert fleet`."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convert.cli import progress_output
from convert.cli.collect import StoreOption, store_options
from convert.collect.sources import open_source
from convert.fleet import rollout_progress
from convert.fleet.rollout_progress import FleetReport, RolloutState, SiteAlarm, SiteRedaction, TaskProgress
from convert.fleet.site_registry import FILE_NAME, SiteRegistry
from edge_agent.cli.terminal import EscapedTable, table, write_exactly
from edge_agent.durable.atomic_files import is_file
from edge_agent.errors import InvalidRequest, PlanInvalid
from edge_agent.formats.plan import FILE_NAME as PLAN_NAME
from edge_agent.formats.plan import PLAN_BYTES_MAX, RolloutPlan, parse

_HALT = 1
_SHOWN_MAX = 10
_ON_THE_WAY: tuple[RolloutState, ...] = ("fetching", "staged", "testing", "switching")


@dataclass
class FleetCommand:
    """Compare the status of the sites with the plan: which sites run what, how far each wave is, where it failed and
    why.

    Reads the status objects that the sites' uplinks write to the store of their examples. Recommends a halt if more of
    the sites that tried a bundle failed than the plan allows.

    Exit code 1: a halt is recommended.

    Example: [bold]edge-convert fleet s3://fleet/examples --plan plan.json --collected collected[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help="Folders, or URLs of object stores: s3:// gs:// az://")
    ]
    plan: Annotated[Path, typer.Option(metavar="FILE", help="The plan, as printed by 'edge-convert plan show --json'.")]
    collected: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of 'collect', which contains the registry of sites.")
    ] = None
    sites: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The registry of sites. Without this and --collected no signature is checked."
        ),
    ] = None
    silent_hours: Annotated[
        int, typer.Option(min=1, metavar="N", help="List sites without a status for this many hours.")
    ] = 48
    store_option: StoreOption = None
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False

    def __post_init__(self) -> None:
        """Run the command."""
        options, sites = store_options(self.store_option), self._registry()
        sources = [open_source(source, options) for source in self.sources]
        plan = _read_plan(self.plan)
        with progress_output.bar() as advance:
            statuses = rollout_progress.read(sources, sites, advance)
        report = rollout_progress.report(
            plan, statuses, time.time(), silent_seconds=3600.0 * self.silent_hours, known=sites.names() if sites else ()
        )
        if self.as_json:
            write_exactly(json.dumps(report.plain(), ensure_ascii=False))
        else:
            _print(progress_output.out(), report, proven=sites is not None)
        if report.halts:
            raise typer.Exit(_HALT)

    def _registry(self) -> SiteRegistry | None:
        if self.collected and self.sites:
            raise InvalidRequest("name either --collected or --sites", remedy="Name the folder that 'collect' writes.")
        path = self.sites or (self.collected / FILE_NAME if self.collected else None)
        if path and not is_file(path):
            raise InvalidRequest(f"{path} is not a file", remedy="Name the registry that 'collect' or 'sites' wrote.")
        return SiteRegistry(path) if path else None


def _read_plan(path: Path) -> RolloutPlan:
    with path.open("rb") as file:
        raw = file.read(PLAN_BYTES_MAX + 1)
    try:
        return parse(raw)
    except PlanInvalid as error:
        message = f"{path} is not a plan as the sites receive it: {error.message.removeprefix(f'{PLAN_NAME}: ')}"
        raise InvalidRequest(message, remedy=f"Write it again: edge-convert plan show --json … > {path}") from None


def _print(console: Console, report: FleetReport, *, proven: bool) -> None:
    proof = "" if proven else "; their signatures were not checked: name --collected or --sites"
    console.print(f"plan {report.plan_version}: {report.with_newest_plan} of {report.sites} sites have read it{proof}")
    if report.tasks:
        console.print(_overview(report.tasks))
    for task in report.tasks:
        _print_task(console, task)
    _print_alarms(console, report.alarms)
    _print_redaction(console, report.redaction)
    _list(console, "refused the latest update", report.problems)
    _list(console, "runs a revoked bundle", report.revoked)
    _list(console, "silent", {site: f"since {at}" for site, at in report.silent.items()})
    _list(console, "clock is ahead", {site: f"its status is of {at}" for site, at in report.ahead.items()})
    _list(console, "no status yet", dict.fromkeys(report.unheard, ""))
    _list(console, "refused", report.refused)
    for trouble in report.troubles:
        console.print(Text.assemble(("failed: ", "bold red"), trouble))
    for task in report.halts:
        sentence = (
            f"{task.task} on {task.channel}: {task.failed:,} of the {task.tried:,} sites that tried it failed"
            f" ({task.failure_percent:.1f}%; the plan allows {task.failure_percent_max}%)"
        )
        console.print(Text.assemble(("halt recommended: ", "bold red"), sentence))


_ALWAYS = ("sites", "due", "there", "failed")


def _overview(tasks: Iterable[TaskProgress]) -> Table:
    rows = [(task, _counts(task)) for task in tasks]
    # All counts do not fit a terminal of 80 columns: those that no task has are left out.
    names = [name for name in rows[0][1] if name in _ALWAYS or any(counts[name] for _, counts in rows)]
    overview = table("task", "channel", "wanted", *names, right=tuple(names), wrap=("task", "wanted"))
    for task, counts in rows:
        planned = " or ".join(dict.fromkeys(task.bundles.values())) + (", halted" if task.halted else "")
        overview.add_row(task.task, task.channel, planned, *(f"{counts[name]:,}" for name in names))
    return overview


def _counts(task: TaskProgress) -> dict[str, int]:
    return {
        "sites": task.sites,
        "due": task.due,
        "there": task.there,
        "in probation": task.states["probation"],
        "on the way": sum(task.states[state] for state in _ON_THE_WAY),
        "waiting": task.states["waiting"],
        "failed": task.failed,
        "held": task.states["held"],
        "unaware": task.states["unaware"],
    }


def _print_task(console: Console, task: TaskProgress) -> None:
    name = f"{task.task} on {task.channel}"
    if task.waves:
        waves = EscapedTable(f"waves of {name}", "", box=None, pad_edge=False)
        for title in ("sites", "there", "failed"):
            waves.add_column(title, justify="right")
        for wave in task.waves:
            preposition = "since" if wave.open else "from"
            counts = (f"{count:,}" for count in (wave.sites, wave.there, wave.failed))
            waves.add_row(f"{preposition} {wave.start[:16].replace('T', ' ')} UTC", f"up to {wave.percent}%", *counts)
        console.print(waves)
    for reason in task.reasons[:_SHOWN_MAX]:
        ellipsis = ", …" if reason.sites > len(reason.named) else ""
        count = f"{reason.sites:,} site{'s' if reason.sites > 1 else ''}"
        sentence = f"{name}, {count} ({', '.join(reason.named)}{ellipsis}), {reason.reason}: {reason.message}"
        console.print(Text.assemble((f"{reason.state}: ", "bold"), sentence))


def _print_alarms(console: Console, alarms: Sequence[SiteAlarm]) -> None:
    for each in alarms[:_SHOWN_MAX]:
        shadow = " In shadow there." if each.demoted else ""
        message = f"{each.site}, {each.task} {each.version}, {each.alarm} since {each.since[:10]}: {each.message}."
        console.print(Text.assemble(("alarm: ", "bold red"), f"{message}{shadow} {each.remedy}"))
    if len(alarms) > _SHOWN_MAX:
        console.print(f"alarm: {len(alarms) - _SHOWN_MAX:,} more, with --json")


def _print_redaction(console: Console, sites: Sequence[SiteRedaction]) -> None:
    for each in sites[:_SHOWN_MAX]:
        audit = each.report
        origin = f"{each.site}, {audit.model or 'no redaction bundle'}"
        target = "" if audit.target is None else f", {audit.target / 10_000:g}% promised"
        missed = f"{audit.missed} of {audit.values} values in {audit.texts} audited texts remained"
        interval = f"{audit.low / 10_000:.1f}% to {audit.high / 10_000:.1f}%"
        message = f"{origin}: {missed} ({interval}{target}); {audit.waiting} wait"
        if audit.is_proved_otherwise:
            message += f". It was proved with rules of version {audit.proved_rules}; the site has {audit.rules}"
        if audit.is_exceeded:
            message += ". More remains than promised: publish a bundle with a lower cut-off or a better model"
        console.print(Text.assemble(("redaction: ", "bold red" if each.is_alarming else "bold"), f"{message}."))
    if len(sites) > _SHOWN_MAX:
        console.print(f"redaction: {len(sites) - _SHOWN_MAX:,} more, with --json")


def _list(console: Console, title: str, sites: Mapping[str, str]) -> None:
    for site, detail in list(sites.items())[:_SHOWN_MAX]:
        console.print(Text.assemble((f"{title}: ", "bold"), f"{site} {detail}".strip()))
    if len(sites) > _SHOWN_MAX:
        console.print(f"{title}: {len(sites) - _SHOWN_MAX:,} more, with --json")
