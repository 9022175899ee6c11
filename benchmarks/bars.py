"""A bar: a measured figure with its limit, printed as one JSON object a line or as a table."""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Bar:
    """One figure. `better` is the side of `limit` on which it must be; the limit itself passes."""

    bar: str
    value: float
    limit: float | None
    """None = the figure is reported and not judged."""
    better: Literal["lower", "higher"]
    ok: bool = field(init=False)

    def __post_init__(self) -> None:
        """Judge. What is not finite was not measured: it meets no limit."""
        met = self.limit is None or (math.isfinite(self.judged) and self._meets(self.judged, self.limit))
        object.__setattr__(self, "ok", met)

    @property
    def judged(self) -> float:
        """What is held against the limit."""
        return self.value

    def plain(self) -> dict[str, object]:
        """Return it as JSON has it, which has neither NaN nor infinity: null is what could not be measured."""
        return {name: _finite(each) for name, each in asdict(self).items()}

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


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def median(values: list[float]) -> float:
    """Return the middle value."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def quotient(value: float, of: float) -> float:
    """Return value / of, for a bar that has to be low; infinite where `of` is not above zero: nothing was measured."""
    return value / of if of > 0 else math.inf


def option(name: str, default: str = "") -> str:
    """Return the value after an option on the command line; exit if there is none."""
    words = sys.argv[1:]
    if name not in words:
        return default
    after = words[words.index(name) + 1 :]
    if not after or after[0].startswith("--"):
        sys.exit(f"{name} needs a value.")
    return after[0]


def run_sections(sections: Mapping[str, Callable[[], Iterable[Bar]]]) -> Iterator[Bar]:
    """Run every section, or the one that `--only` names."""
    only = option("--only")
    if only and only not in sections:
        sys.exit(f"There is no section {only!r}; there are: {', '.join(sections)}.")
    return (bar for name, section in sections.items() if only in ("", name) for bar in section())


def main(measure: Callable[[], Iterable[Bar]]) -> int:
    """Measure, print each bar when it is ready, and return the exit code of `printed`. --help only prints help."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(sys.modules["__main__"].__doc__)  # noqa: T201 - its output
        return 0
    return printed(measure, as_json="--json" in sys.argv[1:])


def printed(measure: Callable[[], Iterable[Bar]], *, as_json: bool) -> int:
    """Print each bar when it is ready; return 0 if all are met, 1 if one is missed or there is none, 130 after Ctrl-C.

    SIGTERM ends the program as Ctrl-C does: with the daemons that it has started.
    """
    met: list[bool] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        for bar in measure():
            print(json.dumps(bar.plain()) if as_json else bar.line(), flush=True)  # noqa: T201 - its output
            met.append(bar.ok)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)  # noqa: T201 - beside its output
        return 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)
    if not met:
        print("Nothing was measured.", file=sys.stderr)  # noqa: T201 - beside its output
    return 0 if met and all(met) else 1
