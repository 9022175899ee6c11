"""The pages and parts of docs/ that are made from the code: `scripts/docs` writes them, `--check` only compares."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.support import api_page, decision_table, errors_page

Pages = Mapping[Path, Callable[[], str]]
ROOT = Path(__file__).parents[2]
RUNBOOK, PACKED_RUNBOOK = ROOT / "docs" / "runbook.md", ROOT / "edge_agent" / "doctor" / "runbook.md"
"""The page, and its copy in the package, which `edge-agent help` prints."""
PAGES: Pages = {
    **{made.PAGE: made.page for made in (api_page, errors_page, decision_table)},
    PACKED_RUNBOOK: lambda: RUNBOOK.read_text(encoding="utf-8"),
}


def stale(pages: Pages = PAGES) -> Iterator[tuple[Path, str, str]]:
    """Yield each stale page: its text, and the text that the code gives."""
    for path, page in pages.items():
        was, made = path.read_text(encoding="utf-8"), page()
        if made != was:
            yield path, was, made


def main(check: bool, pages: Pages = PAGES) -> int:
    """Write the stale pages; or show how they differ, and return 1."""
    code = 0
    for path, was, made in stale(pages):
        if check:
            code = 1
            names = (f"docs/{path.name}", "as it should be")
            lines = difflib.unified_diff(was.splitlines(True), made.splitlines(True), *names, n=0)
            sys.stdout.writelines(lines)
        else:
            path.write_text(made, encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
