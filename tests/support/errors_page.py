"""docs/errors.md's tables, made from the tree of errors; `scripts/docs` regenerates them."""

from __future__ import annotations

from pathlib import Path

from edge_agent import errors
from edge_agent.errors import BY_REASON, EdgeAgentError
from edge_agent.server.error_status import code_of

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
BEGIN, END = "<!-- made by scripts/docs -->", "<!-- end -->"
HEAD = ("reason", "status", "cause", "remedy", "again")


def families() -> list[type[EdgeAgentError]]:
    """Return the families in the order in which the tree is drawn."""
    found = {cls.__mro__[-5] for cls in BY_REASON.values()}
    drawn = errors.__doc__ or ""
    return sorted(found, key=lambda cls: drawn.index(f"── {cls.__name__} "))


def row(cls: type[EdgeAgentError]) -> str:
    """Return the table row of one reason."""
    error = cls("x")
    cells = (f"`{cls.reason}`", code_of(error).name, cls.__doc__ or "", error.remedy, "yes" if cls.retryable else "no")
    return f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |"


def section(family: type[EdgeAgentError]) -> str:
    """Write a family: who acts, and its reasons in the order of the tree."""
    drawn = (errors.__doc__ or "").split()
    leaves = [cls for cls in BY_REASON.values() if issubclass(cls, family)]
    rows = map(row, sorted(leaves, key=lambda cls: [word.rstrip(",") for word in drawn].index(cls.__name__)))
    table = "\n".join([f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}", *rows])
    return f"## {family.__name__}\n\n{family.__doc__}\n\n{table}\n"


def page() -> str:
    """Return the page with the tables of today in it."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    made = "\n".join(map(section, families()))
    return f"{before}{BEGIN}\n\n{made}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
