"""`edge-agent bundles`, `install`, `activate`, `rollback` and `remove`: the bundles of a site, and on a disk."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from edge_agent.cli.daemon_target import TaskArgument, target_of
from edge_agent.cli.output import (
    AsJson,
    YesOption,
    confirm,
    no_threshold,
    out,
    plain,
    print_done,
    print_facts,
    print_json,
    print_trimmed,
    progress,
)
from edge_agent.cli.terminal import advice, table
from edge_agent.client import AdminClient, Bundle, BundleRef, Status
from edge_agent.errors import FileMissing, HashMismatch, UnknownBundle, UnknownTask
from edge_agent.errors.base import first_task_remedy
from edge_agent.formats.calibration import Threshold
from edge_agent.formats.manifest import Manifest, digest_of, parse
from edge_agent.formatting import DIGEST_SHOWN, counted, format_bytes, percent
from edge_agent.store import bundle_archive
from edge_agent.store.bundle_archive import StoreLimits

DIGEST_LISTED = 8
"""Characters of a digest in lists; commands accept this abbreviation."""
LABELS_SHOWN = 12

app = typer.Typer(no_args_is_help=True, help="List, show, inspect and allow bundles.")
BundleArgument = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="A version, a digest, or at least 8 characters of its start.")
]


@app.command("list")
def list_bundles(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Only this task.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the installed bundles, by task and then newest first.

    Example: [bold]edge-agent bundles list pos-intent[/bold]
    """
    with target_of(ctx).admin() as admin:
        bundles = _installed_bundles(admin, task)
        site = "" if bundles or as_json else admin.status().site
    if as_json:
        print_json([plain(bundle) for bundle in bundles], indent=2)
        return
    if not bundles:
        print_trimmed(out(), advice(f"Nothing is installed. {first_task_remedy(site)}"))
        return
    columns = ("task", "version", "digest", "use", "gate", "signed", "size", "installed")
    listing = table(*columns, right=("size",), wrap=("task",))
    for bundle in bundles:
        listing.add_row(
            bundle.ref.task,
            bundle.ref.version,
            bundle.ref.digest[:DIGEST_LISTED],
            _use_cell(bundle),
            bundle.gate or "-",
            _signature_cell(bundle),
            format_bytes(bundle.size_bytes),
            f"{bundle.install_time:%Y-%m-%d}",
        )
    print_trimmed(out(), listing)


@app.command("show")
def show_bundle(ctx: typer.Context, task: TaskArgument, bundle: BundleArgument = "", as_json: AsJson = False) -> None:
    """Show one installed bundle; without BUNDLE the active one.

    Example: [bold]edge-agent bundles show pos-intent 1.2.0[/bold]
    """
    with target_of(ctx).admin() as admin:
        bundles = _installed_bundles(admin, task)
        matches = [each for each in bundles if (_matches(each, bundle) if bundle else each.active)]
        if len(matches) != 1:
            number = "more than one" if matches else "no"
            message = f"the task '{task}' has {number} bundle {bundle or 'that is active'}"
            raise UnknownBundle(message, remedy=f"'edge-agent bundles list {task}' lists them with their digests.")
    (installed,) = matches
    if as_json:
        print_json(installed, indent=2)
        return
    facts: dict[str, str | Text] = {
        "task": installed.ref.task,
        "version": installed.ref.version,
        "digest": installed.ref.digest,
        "kind": installed.kind.lower(),
        "runtime": installed.runtime,
        "use": _use_cell(installed),
        "signed": _signature_cell(installed),
        "gate": installed.gate,
        "confident answers": f"none: {installed.confidence_blocker}" if installed.confidence_blocker else "",
        "size": format_bytes(installed.size_bytes),
        "installed": f"{installed.install_time:%Y-%m-%d %H:%M} UTC",
    }
    print_facts(out(), facts)


@app.command("inspect")
def inspect_bundle(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A bundle directory, or one uncompressed tar of it.")],
    as_json: AsJson = False,
) -> None:
    """Check a bundle on a disk, file by file, and show what it is. Needs no daemon and installs nothing.

    It checks each file against the manifest. Signatures are checked when the daemon installs the bundle.

    Example: [bold]edge-agent bundles inspect /media/usb/pos-intent-1.2.0.tar[/bold]
    """
    with progress(ctx, f"Reading {path.name}"), bundle_archive.open_bundle(path, StoreLimits()) as members:
        raw = bundle_archive.manifest_bytes(members)
        manifest = parse(raw)
        _check_files(manifest, members)
    if as_json:
        print_json({"digest": digest_of(raw), "manifest": manifest.model_dump(mode="json", by_alias=True)}, indent=2)
        return
    print_facts(out(), _manifest_facts(manifest, digest_of(raw)))
    out().print()
    files = table("file", "role", "size", right=("size",), wrap=("file",))
    for artifact in manifest.artifacts:
        files.add_row(artifact.path, artifact.role, format_bytes(artifact.size_bytes))
    print_trimmed(out(), files)


def install(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A bundle directory, or one uncompressed tar of it.")],
    no_activate: Annotated[
        bool, typer.Option("--no-activate", help="Only copy it into the store, and do not activate it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify a bundle, copy it into the store and activate it.

    The version that answered before stays, for 'edge-agent rollback'.

    Example: [bold]edge-agent install /media/usb/pos-intent-1.2.0.tar[/bold]
    """
    with (
        target_of(ctx).admin() as admin,
        progress(ctx, f"Installing {path.name}: verifying, copying, loading the model"),
    ):
        bundle, is_new = admin.install(path, activate=not no_activate)
        name = bundle.ref.version if bundle.active else _unique_name(bundle.ref, admin.bundles(bundle.ref.task))
    if as_json:
        print_json({"newly_installed": is_new, "bundle": plain(bundle)}, indent=2)
        return
    print_done(ctx, f"{'Installed' if is_new else 'Already installed:'} {describe_bundle(bundle)}.")
    if not bundle.active:
        print_done(ctx, f"To let it answer: edge-agent activate {bundle.ref.task} {name}")
        return
    print_done(ctx, f"It answers '{bundle.ref.task}' now.")
    if bundle.confidence_blocker:
        message = f"no answer of it is confident: {bundle.confidence_blocker}. Convert it to another format."
        print_done(ctx, Text.assemble(("warning: ", "yellow"), message))
    if bundle.gate == "none" and bundle.kind in ("CLASSIFY", "EXTRACT"):
        print_done(ctx, "It has no gate: it does not recognize inputs unlike its training data.")


def activate(ctx: typer.Context, task: TaskArgument, bundle: BundleArgument, as_json: AsJson = False) -> None:
    """Let an installed bundle answer its task.

    Example: [bold]edge-agent activate pos-intent 1.2.0[/bold]
    """
    with target_of(ctx).admin() as admin, progress(ctx, f"Activating {task} {bundle}: loading the model"):
        active = admin.activate(task, bundle)
    if as_json:
        print_json(active, indent=2)
    else:
        print_done(ctx, f"{describe_bundle(active)} answers '{task}' now.")
        _warn_of_revoked(ctx, active)


def rollback(ctx: typer.Context, task: TaskArgument, as_json: AsJson = False) -> None:
    """Go back to the bundle that answered before.

    It stays active until the plan names another bundle for the task than it does now.

    Example: [bold]edge-agent rollback pos-intent[/bold]
    """
    with target_of(ctx).admin() as admin, progress(ctx, f"Rolling back {task}: loading the model"):
        active = admin.rollback(task)
    if as_json:
        print_json(active, indent=2)
    else:
        print_done(ctx, f"{describe_bundle(active)} answers '{task}' again.")
        _warn_of_revoked(ctx, active)


def remove(
    ctx: typer.Context,
    task: TaskArgument,
    bundle: Annotated[
        str | None,
        typer.Argument(metavar="BUNDLE", help="A version or digest; without it the whole task, active bundle too."),
    ] = None,
    yes: YesOption = False,
    as_json: AsJson = False,
) -> None:
    """Remove a bundle that neither answers nor is kept for rollback, or a whole task.

    Asks for confirmation. A script gives --yes: without a terminal and without --yes the command refuses.

    Example: [bold]edge-agent remove pos-intent 1.0.0[/bold]
    """
    if bundle == "":  # an empty variable in a script meant one bundle, not the whole task
        raise typer.BadParameter("it is empty; leave it out to remove the whole task", param_hint="BUNDLE")
    bundle = bundle or ""
    with target_of(ctx).admin() as admin:
        installed = admin.bundles(task)
        if bundle:
            consequence, recovery = _loss_of_bundle(task, bundle, installed)
        else:
            consequence, recovery = _loss_of_task(task, installed, admin.status())
        confirm(
            f"Remove {task} {bundle}?" if bundle else f"Remove the task {task}?", f"{consequence} {recovery}", yes=yes
        )
        freed = admin.remove(task, bundle)
    if as_json:
        print_json({"task": task, "bundle": bundle, "freed_bytes": freed}, indent=2)
        return
    print_done(ctx, f"Removed {f'{task} {bundle}' if bundle else f'the task {task}'}; {format_bytes(freed)} freed.")
    if not bundle:
        print_done(ctx, f"Nothing answers '{task}' now. {recovery}")


def allow(ctx: typer.Context, task: TaskArgument, as_json: AsJson = False) -> None:
    """Let the version of the central team's plan answer a task again.

    For a task that somebody removed here, or for which somebody chose another version. The steps that are due begin at
    once; files that are not on this machine come by the uplink or on a USB drive.

    Example: [bold]sudo edge-agent bundles allow pos-intent[/bold]
    """
    with target_of(ctx).admin() as admin, progress(ctx, f"Allowing the planned version of {task}"):
        update, was_held = admin.allow(task)
    if as_json:
        print_json({"task": plain(update), "was_held": was_held}, indent=2)
        return
    version = update.candidate.version if update.candidate else ""
    print_done(ctx, "Allowed." if was_held else f"Nobody here had chosen otherwise for '{task}'; nothing changed.")
    state = update.state.lower().replace("_", " ")
    print_done(ctx, f"{task} {version}: {state}{f': {update.message}' if update.message else ''}.")


app.command("allow")(allow)


def _loss_of_bundle(task: str, name: str, installed: list[Bundle]) -> tuple[str, str]:
    """Return the consequence of removing one bundle, and how to undo it."""
    matches = [bundle for bundle in installed if _matches(bundle, name)]
    active = next((bundle for bundle in installed if bundle.active), None)
    answers = (
        f" {task} {active.ref.version} continues to answer." if active and matches and active not in matches else ""
    )
    return f"The site loses {task} {name}.{answers}", _recovery_text(matches)


def _loss_of_task(task: str, installed: list[Bundle], status: Status) -> tuple[str, str]:
    """Return the consequence of removing a whole task, and how to undo it."""
    active = next((bundle.ref.version for bundle in installed if bundle.active), "")
    versions, size = ", ".join(each.ref.version for each in installed), sum(each.size_bytes for each in installed)
    stops = f"Version {active} stops answering '{task}', and nothing else answers it: calls of the task fail. "
    loss = f"The site loses {counted(len(installed), 'bundle')} of it ({versions}; {format_bytes(size)})."
    loss = loss if installed else f"The site loses every bundle of '{task}'; this agent can read none."
    others = sorted(other.name for other in status.tasks if other.name != task)
    others_text = f" Other tasks continue: {', '.join(others)}." if others else ""
    on_drive = f", or 'sudo edge-agent bundles allow {task}' with an uplink" if _is_planned(task, status) else ""
    return f"{stops if active else ''}{loss}{others_text}", _recovery_text(installed, on_drive)


def _is_planned(task: str, status: Status) -> bool:
    """Return whether the central team's plan names a task."""
    return status.updates is not None and any(each.candidate for each in status.updates.tasks if each.task == task)


def _recovery_text(bundles: list[Bundle], on_drive: str = "") -> str:
    """Return how to restore bundles: signed ones from the central team, others from their files."""
    if bundles and all(each.signed for each in bundles):
        return f"The way back: 'sudo edge-agent media import' of the USB drive that brought it{on_drive}."
    return "The way back: 'edge-agent install PATH' of its file."


def describe_bundle(bundle: Bundle) -> str:
    """Return the name, version and digest of a bundle as a sentence names it."""
    signature = "" if bundle.signed else ", unsigned"
    return f"{bundle.ref.task} {bundle.ref.version} ({bundle.ref.digest[:DIGEST_SHOWN]}{signature})"


def _installed_bundles(admin: AdminClient, task: str) -> list[Bundle]:
    """Return the bundles of one task, or of all. Raises UnknownTask when the task has none."""
    bundles = admin.bundles(task)
    if task and not bundles:
        tasks = sorted({bundle.ref.task for bundle in admin.bundles()})
        what_exists = f"installed tasks: {', '.join(tasks)}" if tasks else "nothing is installed"
        remedy = "'edge-agent bundles list' lists every bundle; 'edge-agent install PATH' installs one."
        raise UnknownTask(f"the task '{task}' has no bundle; {what_exists}", remedy=remedy)
    return bundles


def _matches(bundle: Bundle, name: str) -> bool:
    """Return whether a version, or a digest or its abbreviation, names a bundle."""
    return name == bundle.ref.version or (len(name) >= DIGEST_LISTED and bundle.ref.digest.startswith(name))


def _use_cell(bundle: Bundle) -> Text:
    if bundle.active:
        return Text("active", "green")
    return Text("previous" if bundle.previous else "-")


def _warn_of_revoked(ctx: typer.Context, bundle: Bundle) -> None:
    if bundle.revoked:
        message = "the central team has revoked this bundle. Ask them which one to use."
        print_done(ctx, Text.assemble(("warning: ", "yellow"), message))


def _signature_cell(bundle: Bundle) -> Text:
    if bundle.revoked:
        return Text("revoked", "yellow")
    return Text("yes") if bundle.signed else Text("no", "yellow")


def _unique_name(ref: BundleRef, installed: list[Bundle]) -> str:
    """Return the version, or the start of the digest where another installed bundle has the same version."""
    same_version = {other.ref.digest for other in installed if other.ref.version == ref.version}
    return ref.version if same_version <= {ref.digest} else ref.digest[:DIGEST_SHOWN]


def _check_files(manifest: Manifest, members: dict[str, bundle_archive.BundleMember]) -> None:
    """Compare each file with the manifest. Raises FileMissing, HashMismatch."""
    for artifact in manifest.artifacts:
        member = members.get(artifact.path)
        if member is None:
            raise FileMissing(f"{artifact.path} does not exist, though the manifest names it", path=artifact.path)
        digest = hashlib.sha256()
        for chunk in member.chunks():
            digest.update(chunk)
        if digest.hexdigest() != artifact.sha256:
            raise HashMismatch(f"{artifact.path} is not the file that the manifest names", path=artifact.path)


def _manifest_facts(manifest: Manifest, digest: str) -> dict[str, str | Text]:
    task = manifest.task
    hidden = len(task.labels) - LABELS_SHOWN
    labels = ", ".join(task.labels[:LABELS_SHOWN]) + (f", and {hidden} more" if hidden > 0 else "")
    if task.kind == "decide":
        threshold = "\n".join(f"{each.name}: {_threshold_text(manifest, each.name)}" for each in task.questions)
    else:
        threshold = _threshold_text(manifest, task.name)
    return {
        "task": task.name,
        "version": manifest.version,
        "digest": digest,
        "kind": task.kind,
        "runtime": manifest.runtime,
        "labels": labels,
        "record fields": ", ".join(task.record_fields) if task.kind == "extract" else "",
        "input limit": f"{task.limits.input_tokens_max} tokens",
        "threshold": threshold,
        "gate": manifest.gate_name,
        "base model": manifest.provenance.base,
        "licence": manifest.provenance.licence,
        "memory": format_bytes(manifest.requires.memory_bytes) if manifest.requires.memory_bytes else "",
        "size": format_bytes(manifest.size_bytes),
        "files": Text("all as the manifest names them", "green"),
    }


def _threshold_text(manifest: Manifest, question: str) -> str:
    confidence = manifest.confidence_of(question)
    if not isinstance(confidence, Threshold):
        return f"none ({no_threshold(manifest.no_threshold_reason(question))}); no answer counts as confident"
    guarantee = (
        f"at most {confidence.target_risk:.1%} wrong at or above it, with {percent(1 - confidence.delta)} certainty"
    )
    return f"{confidence.confidence_min:.2f}; {guarantee}"
