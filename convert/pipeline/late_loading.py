"""Loads modules that need the convert extra, when a command runs."""

from __future__ import annotations

import importlib
from typing import Any

from edge_agent.errors import RequirementUnmet


def load_module(module: str) -> Any:
    """Import a module of the conversion toolkit that needs the convert extra. Raises RequirementUnmet.

    The only late import of convert: a command loads these modules when it runs.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("convert", "edge_agent"):
            raise
        said = f"{module} needs the package {error.name}, which is not installed"
        raise RequirementUnmet(
            said,
            remedy="Install the extra 'convert': in a clone, pip install '.[convert]'; from a release, see"
            " docs/first-steps.md",
        ) from None
