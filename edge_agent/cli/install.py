"""`edge-agent install`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from edge_agent.cli.output import err, out
from edge_agent.cli.site import site_of
from edge_agent.client import Bundle, BundleRef


def run(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A bundle directory, or one uncompressed tar of it.")],
    no_activate: Annotated[bool, typer.Option("--no-activate", help="Copy it into the store; change nothing.")] = False,
) -> None:
    """Verify a bundle, copy it into the store and let it answer.

    The version that answered before stays, for 'edge-agent rollback'.

    Example: [bold]edge-agent install /media/usb/pos-intent-1.2.0.tar[/bold]
    """
    with site_of(ctx).admin() as admin, err().status(f"Installing {path.name}: verifying, copying, loading the model"):
        bundle, new = admin.install(path, activate=not no_activate)
        name = bundle.ref.version if bundle.active else _unique(bundle.ref, admin.bundles(bundle.ref.task))
    out().print(f"{'Installed' if new else 'Already installed:'} {named(bundle)}.")
    if bundle.active:
        out().print(f"It answers '{bundle.ref.task}' now.")
        if bundle.confidence_blocker:
            said = f"no answer of it is confident: {bundle.confidence_blocker}. Convert it to another format."
            out().print(Text.assemble(("warning: ", "yellow"), said))
        if bundle.gate == "none" and bundle.kind in ("CLASSIFY", "EXTRACT"):
            out().print("gate: none; nothing recognizes inputs that are unlike its training data.")
    else:
        out().print(f"To let it answer: edge-agent activate {bundle.ref.task} {name}")


def _unique(ref: BundleRef, installed: list[Bundle]) -> str:
    """Return the version, or the start of the digest where another installed bundle has the same version."""
    same = {other.ref.digest for other in installed if other.ref.version == ref.version}
    return ref.version if same <= {ref.digest} else ref.digest[:12]


def named(bundle: Bundle) -> str:
    """Say which bundle."""
    return f"{bundle.ref.task} {bundle.ref.version} ({bundle.ref.digest[:12]}{'' if bundle.signed else ', unsigned'})"
