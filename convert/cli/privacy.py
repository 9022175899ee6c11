"""`edge-convert privacy lineage|consent|purge|log`: what the central team owes the people behind the data."""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from convert.cli import progress_output, repository_options
from convert.cli.collect import StoreOption, store_options
from convert.dataset import lineage
from convert.dataset.lineage import LineageUse
from convert.fleet import accountability
from convert.pipeline.stage import load_module
from convert.publish.publisher import Publisher
from convert.publish.repository_storage import open_storage
from edge_agent.cli.terminal import say, write_exactly
from edge_agent.durable.atomic_files import is_dir
from edge_agent.errors import InvalidRequest
from edge_agent.formatting import counted

app = typer.Typer(
    no_args_is_help=True, help="Answer for personal data: lineage, consent, retention, and the log of decisions."
)
_RECORD = re.compile(r"[a-z0-9-]+/[A-Za-z0-9:_-]{1,100}")
_DAMAGED = 1
_SHOWN_MAX = 50

Records = Annotated[list[str] | None, typer.Argument(metavar="RECORD", help="SITE/PREDICTION_ID. Repeatable.")]
Collected = Annotated[
    Path, typer.Option("--collected", metavar="FOLDER", help="Folder that 'edge-convert collect' writes.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@app.command("lineage")
def show_lineage(
    collected: Collected,
    record: Records = None,
    erased: Annotated[bool, typer.Option("--erased", help="All records that sites have erased.")] = False,
    work: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="Also look in this work folder of a recipe. Repeatable.")
    ] = None,
    repo: Annotated[
        str, typer.Option(metavar="PLACE", help="Also show which of the bundles are signed there, and in the plan.")
    ] = "",
    keys: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="--repo: the folder with the fleet's root.json.")
    ] = None,
    store_option: StoreOption = None,
    as_json: AsJson = False,
) -> None:
    """Show which datasets and bundles learned from records, and which bundles to retire.

    A bundle whose weights learned from a record, or that carries its text as a golden case, is to be retired: train
    again without the record, publish that, revoke the old version. A bundle that was only measured with it can stay.

    Example: [bold]edge-convert privacy lineage clinic-1/4b1f7c1e --collected collected[/bold]
    """
    for folder in (collected, *(work or ())):
        _require_folder(folder)
    record_ids = _requested_records(collected, record or [], erased)
    uses = lineage.trace(lineage.documents(collected, work or ()), record_ids)
    unread = lineage.unread(collected, work or ())
    published = _published_bundles(repo, keys or [], store_options(store_option)) if repo else None
    if as_json:
        plain = [{**use.plain(), **_publication_state(use, published)} for use in uses]
        content = {"records": len(record_ids), "uses": plain, "unread": list(map(str, unread))}
        write_exactly(json.dumps(content, ensure_ascii=False))
        return
    _show_uses(uses, published)
    retire = sum(use.consequence == "retire" for use in uses)
    nothing = "no dataset or bundle here has any of them"
    say(f"{counted(len(record_ids), 'record')}: {counted(retire, 'bundle')} to retire" if uses else nothing)
    _warn_of_unread(unread)


def _requested_records(collected: Path, records: list[str], erased: bool) -> frozenset[str]:
    """Return the records that are asked for. Raises InvalidRequest."""
    requested = _check_records(records)
    if erased:
        requested += load_module("convert.collect.collection").erased_records(collected)
    elif not requested:
        raise InvalidRequest("no record is named", remedy="Name SITE/PREDICTION_ID, or --erased.")
    return frozenset(requested)


def _show_uses(uses: Sequence[LineageUse], published: dict[str, bool] | None) -> None:
    console = progress_output.out()
    for use in uses:
        states = "".join(f", {key}" for key, holds in _publication_state(use, published).items() if holds)
        style = "bold red" if use.consequence == "retire" else "bold"
        console.print(Text.assemble((f"{use.document.kind} {use.document.name}{states}", style)))
        console.print(Text(f"  {use.sentence()}"))


def _warn_of_unread(unread: Sequence[Path]) -> None:
    """Warn of documents that cannot be read."""
    for path in unread:
        message = f"{path} cannot be read, so it can have them: restore it from a backup, or use a newer edge-convert"
        say(f"warning: {message}", err=True)


@app.command()
def consent(
    collected: Collected,
    record: Records = None,
    basis: Annotated[
        str, typer.Option(metavar="TEXT", help="Where the consent is filed, such as the number of a form; no name.")
    ] = "",
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Withdraw the consent.")] = False,
) -> None:
    """Record that the person behind a record agreed that its text travels in bundles, or withdraw that.

    'edge-convert dataset' marks such rows, and a recipe with 'golden_cases: consented' can make golden cases of them as
    they are. The log keeps who recorded it and when.

    Example: [bold]edge-convert privacy consent clinic-1/4b1f7c1e --basis form-118 --collected collected[/bold]
    """
    records = _check_records(record or [])
    if not records:
        raise InvalidRequest("no record is named", remedy="Name SITE/PREDICTION_ID.")
    if not (basis.strip() or withdraw):
        raise InvalidRequest("the consent has no basis", remedy="Name where it is filed: --basis form-118.")
    _require_folder(collected)
    action: accountability.Action = "consent withdrawn" if withdraw else "consent recorded"
    accountability.record(collected, action, records, basis=basis)
    say(f"{action} for {counted(len(records), 'record')}, in {collected / accountability.FILE_NAME}")
    if withdraw and (uses := lineage.trace(lineage.documents(collected), records)):
        subject = "1 dataset or bundle has" if len(uses) == 1 else f"{len(uses)} datasets or bundles have"
        say(f"{subject} them: see 'edge-convert privacy lineage'")


@app.command()
def purge(
    collected: Collected,
    keep: Annotated[
        list[str],
        typer.Option(
            metavar="SITE/TASK=DAYS",
            help="How long examples are kept; '*' = every site or task, for which no other rule is more specific."
            " Repeatable.",
        ),
    ],
    yes: repository_options.Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count; delete nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete collected examples after the days that --keep sets for their site and task, with their reviews.

    Run it from a timer. Training rows and bundles made earlier are not changed: 'lineage' lists them.

    Example: [bold]edge-convert privacy purge --collected collected --keep '*/*=365' --keep 'clinic-1/*=90'[/bold]
    """
    module = load_module("convert.collect.collection")  # needs the extra, unlike other commands
    rules = [module.parse_retention_rule(rule) for rule in keep]
    result = module.purge(collected, rules, time.time(), dry_run=True)
    if result.predictions and not dry_run:
        repository_options.confirm(f"Delete {counted(result.predictions, 'example')}?", yes)
        counts = result.by_site_and_task
        accountability.record(
            collected, "records purged", counts, examples=result.predictions, keep=keep, counts=counts
        )
        result = module.purge(collected, rules, time.time(), dry_run=False)
    if as_json:
        write_exactly(json.dumps({**asdict(result), "dry_run": dry_run}))
        return
    for site_and_task, number in result.by_site_and_task.items():
        say(f"{site_and_task}: {number}")
    outcome = "would be deleted" if dry_run else "deleted"
    say(f"{counted(result.predictions, 'example')} {outcome}")


@app.command("log")
def show_log(
    collected: Collected,
    known: Annotated[
        str, typer.Option("--contains", metavar="HASH", help="Check that the log still has the line with this hash.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show the log of decisions, and verify its chain: who accepted a key, recorded consent, erased or purged what.

    Note the last hash elsewhere from time to time. With that hash, --contains shows that nothing before it was changed
    or removed since.

    Exit code 1: the chain is broken, or lacks the hash.

    Example: [bold]edge-convert privacy log --collected collected[/bold]
    """
    _require_folder(collected)
    path = collected / accountability.FILE_NAME
    verdict, entries = accountability.verify_chain(path, known), accountability.entries(collected)
    if as_json:
        write_exactly(json.dumps({**asdict(verdict), "log": [asdict(each) for each in entries]}, ensure_ascii=False))
    else:
        console = progress_output.out()
        for each in entries[-_SHOWN_MAX:]:
            details = ", ".join(f"{key} {value}" for key, value in each.details.items() if value not in ("", None))
            subjects, more = ", ".join(each.subjects[:3]), len(each.subjects) - 3
            others = f" and {more} more" if more > 0 else ""
            console.print(Text(f"{each.number}  {each.at}  {each.actor}  {each.action}: {subjects}{others}"))
            if details:
                console.print(Text(f"    {details}"))
        for problem in verdict.problems:
            console.print(Text.assemble(("broken: ", "bold red"), problem))
        message = f"{counted(verdict.entries, 'line')}, last hash {verdict.head}"
        say(f"{message}; the chain {'is broken' if verdict.problems else 'holds'}")
    if verdict.problems:
        raise typer.Exit(_DAMAGED)


def _check_records(records: list[str]) -> list[str]:
    for each in records:
        if not _RECORD.fullmatch(each):
            message = f"{each[:120]!r} is not a record"
            remedy = "Write SITE/PREDICTION_ID, as the rows of 'edge-convert dataset' have them."
            raise InvalidRequest(message, remedy=remedy)
    return list(records)


def _require_folder(folder: Path) -> None:
    """Raise InvalidRequest for a folder that is not there: nothing found in it would look like an all-clear."""
    if not is_dir(folder):
        remedy = "Name the folder that 'edge-convert collect' or 'run' writes."
        raise InvalidRequest(f"{folder} is not a folder", remedy=remedy)


def _published_bundles(repo: str, keys: list[Path], options: dict[str, str]) -> dict[str, bool]:
    """Return the digests that are signed in a repository, and whether the plan names them."""
    state = Publisher(open_storage(repo, options), repository_options.open_keys(keys, None), time.time).read_state()
    planned = state.plan.bundles()
    return {digest: digest in planned for digest in state.bundles()}


def _publication_state(use: LineageUse, published: dict[str, bool] | None) -> dict[str, bool]:
    if published is None or use.document.kind != "bundle":
        return {}
    digest = use.document.digest
    return {"published": digest in published, "in the plan": published.get(digest, False)}
