"""Drawing by hand: marks on a sheet with two axes, as SVG that follows the page's colours. Pure.

Every sheet is 420 wide, so that its letters can be read on a telephone. Colours are classes: the page says what they
are in the light, in the dark and on paper. All text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 420.0
TICKS = 4
_LETTER = 6.6
"""Width of a letter at the size that axes have, about."""


@dataclass(frozen=True)
class DrawingArea:
    """The area that is drawn in, between margins, and what its axes stand for."""

    height: float = 230.0
    left: float = 46.0
    right: float = 14.0
    top: float = 14.0
    bottom: float = 32.0
    x_max: float = 1.0
    y_min: float = 0.0
    y_max: float = 1.0

    def x(self, value: float) -> float:
        """Return where a value stands across."""
        return self.left + (WIDTH - self.left - self.right) * value / (self.x_max or 1.0)

    def y(self, value: float) -> float:
        """Return where a value stands, from above; what is off the sheet stands at its edge."""
        part = (min(max(value, self.y_min), self.y_max) - self.y_min) / ((self.y_max - self.y_min) or 1.0)
        return self.top + (self.height - self.top - self.bottom) * (1 - part)


def picture(name: str, title: str, said: str, sheet: DrawingArea, marks: Iterable[str]) -> str:
    """Return a whole picture, with its title and what it shows in words; `name` is unique on the page."""
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {sheet.height:g}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(said)}</desc>{"".join(marks)}</svg>'
    )


def text(x: float, y: float, said: str, kind: str = "", anchor: str = "start") -> str:
    """Return letters."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(said)}</text>'


def line(x: tuple[float, float], y: tuple[float, float], kind: str) -> str:
    """Return a stroke."""
    return f'<line x1="{x[0]:.1f}" x2="{x[1]:.1f}" y1="{y[0]:.1f}" y2="{y[1]:.1f}" class="{kind}"/>'


def bar(corner: tuple[float, float], size: tuple[float, float], kind: str, said: str = "") -> str:
    """Return a filled box; `said` shows when it is pointed at."""
    title = f"<title>{escape(said)}</title>" if said else ""
    place = f'x="{corner[0]:.1f}" y="{corner[1]:.1f}" width="{max(size[0], 0):.1f}" height="{max(size[1], 0):.1f}"'
    return f'<rect {place} class="{kind}">{title}</rect>'


def dot(x: float, y: float, kind: str, said: str = "", radius: float = 4.0) -> str:
    """Return a filled circle."""
    title = f"<title>{escape(said)}</title>" if said else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}">{title}</circle>'


def path(points: Sequence[tuple[float, float]], kind: str) -> str:
    """Return a line through points."""
    return f'<polyline points="{_points(points)}" class="{kind}"/>' if len(points) > 1 else ""


def area(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], kind: str) -> str:
    """Return the area between two lines."""
    return f'<polygon points="{_points([*upper, *reversed(lower)])}" class="{kind}"/>' if len(upper) > 1 else ""


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def axis(sheet: DrawingArea, values: Iterable[tuple[float, str]]) -> list[str]:
    """Return the lines across at some values, with what they are called."""
    across = (sheet.left, WIDTH - sheet.right)
    return [
        part
        for value, said in values
        for part in (
            line(across, (sheet.y(value),) * 2, "grid"),
            text(sheet.left - 6, sheet.y(value) + 4, said, "tick", "end"),
        )
    ]


def below(sheet: DrawingArea, values: Sequence[tuple[float, str]]) -> list[str]:
    """Return what stands below the sheet: as many names as have room, the first and the last among them."""
    room = max(
        1, int((WIDTH - sheet.left - sheet.right) / (_LETTER * max((len(s) for _, s in values), default=1) + 14))
    )
    step = max(1, math.ceil((len(values) - 1) / room)) if room < len(values) else 1
    shown = [values[at] for at in range(len(values) - 1, -1, -step)]
    return [text(sheet.x(value), sheet.height - sheet.bottom + 18, said, "tick", "middle") for value, said in shown]


def round_up(value: float) -> float:
    """Return the next number that axes like to end at, since its quarters are short numbers."""
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.2, 2, 4, 8, 12) if step * power >= value * (1 - 1e-9))


def cut(said: str, letters: int) -> str:
    """Return a name that fits; what was cut off is shown by a sign."""
    return said if len(said) <= letters else f"{said[: letters - 1]}…"
