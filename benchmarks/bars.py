"""A bar: a measured figure beside its limit, printed as one JSON object a line or as a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Bar:
    """One figure. `better` says on which side of `limit` it has to be; the limit itself is good enough."""

    bar: str
    value: float
    limit: float | None
    """None = the figure is reported and not judged."""
    better: Literal["lower", "higher"]
    ok: bool = field(init=False)

    def __post_init__(self) -> None:
        """Judge."""
        object.__setattr__(self, "ok", self.limit is None or self._meets(self.judged, self.limit))

    @property
    def judged(self) -> float:
        """What is held against the limit."""
        return self.value

    def line(self) -> str:
        """Return it as a row of the table."""
        return f"{self.bar:<50} {self.value:>10.3f}  {self._verdict()}"

    def _meets(self, value: float, limit: float) -> bool:
        return value <= limit if self.better == "lower" else value >= limit

    def _verdict(self) -> str:
        if self.limit is None:
            return "(reported)"
        sign = "<=" if self.better == "lower" else ">="
        return f"{sign} {self.limit:<10g} {'ok' if self.ok else 'MISSED'}"


def median(values: list[float]) -> float:
    """Return the middle value."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def option(name: str, default: str = "") -> str:
    """Return what stands after an option on the command line."""
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv[:-1] else default


def run_sections(sections: Mapping[str, Callable[[], Iterable[Bar]]]) -> Iterator[Bar]:
    """Run every section, or the one that `--only` names."""
    only = option("--only")
    if only and only not in sections:
        sys.exit(f"There is no section {only!r}; there are: {', '.join(sections)}.")
    return (bar for name, section in sections.items() if only in ("", name) for bar in section())


def main(measure: Callable[[], Iterable[Bar]]) -> int:
    """Measure, print each bar as it comes, and return the exit code: 1 when a bar is missed. --help only tells."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(sys.modules["__main__"].__doc__)  # noqa: T201 - its output
        return 0
    met = True
    for bar in measure():
        print(json.dumps(asdict(bar)) if "--json" in sys.argv[1:] else bar.line(), flush=True)  # noqa: T201 - its output
        met = met and bar.ok
    return 0 if met else 1
