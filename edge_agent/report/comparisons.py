"""Charts of how the model here compares with the large one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from edge_agent.report import svg
from edge_agent.report.chart import QUARTERS, Chart, Said, chart, month_and_day, upright
from edge_agent.report.judgement import Judgement
from edge_agent.report.readiness import LabelState, Level, Takes
from edge_agent.report.shares import Share
from edge_agent.report.svg import Sheet
from edge_agent.report.words import count, counted, interval, percent

LABELS_DRAWN_MAX = 12
_ROW = 22.0
_UPPER = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_FEW = 3
"""Points that a band between them would be too little for."""


def takes(judged: Judgement, name: str) -> Chart | None:
    """Draw how often people or the large model say otherwise, over the share that the model here would take."""
    found, target = judged.takes, judged.figures.target
    if not found.levels:
        return None
    most = max(target, *(level.risk for level in found.levels))
    sheet = Sheet(left=50, right=22, y_max=min(1.0, svg.round_up(1.3 * most)))
    bound = [(sheet.x(level.taken.value or 0.0), sheet.y(level.bound)) for level in found.levels]
    risk = [(sheet.x(level.taken.value or 0.0), sheet.y(level.risk)) for level in found.levels]
    drawn = svg.axis(sheet, [(part * sheet.y_max, percent(part * sheet.y_max)) for part in QUARTERS])
    drawn += upright(sheet)
    drawn += [svg.area(bound, risk, "band"), svg.path(risk, "line a"), *_dots(risk, found.levels)]
    drawn.append(svg.line((sheet.left, svg.WIDTH - sheet.right), (sheet.y(target),) * 2, "target"))
    if found.above is not None:
        drawn.append(svg.line((sheet.x(found.share.value or 0.0),) * 2, (sheet.top, sheet.y(0)), "mark"))
    said = Said(
        "What the model here could take",
        could_take(judged),
        (
            ("a", found.levels[-1].judges),
            ("band", "up to what is proved"),
            ("target", f"wanted: {percent(target)} at most"),
        ),
        ("confidence from", "of all", "compared", "by people", "otherwise", "proved bound", "holds"),
        tuple(_level(level) for level in found.levels),
    )
    return chart(name, said, sheet, drawn)


def could_take(judged: Judgement) -> str:
    """Say what the model here could take at the wanted risk."""
    found, target = judged.takes, judged.figures.target
    wanted = f"at a risk of {percent(target)}"
    if found.above is not None and (level := found.resting_on):
        return (
            f"It could take {interval(found.share)} of the inputs {wanted}: those from a confidence of"
            f" {found.above:.2f} on. Of these {level.judges} on {percent(found.risk)}. {measured_by(found)}"
        )
    if found.more is None:
        return f"Nothing is proved {wanted}, and more of the same would not help: the model has to become better."
    return f"Nothing is proved {wanted} yet: about {counted(found.more, 'more input')} to compare."


def measured_by(takes: Takes) -> str:
    """Say whose word what it could take rests on; empty = nothing was compared."""
    level = takes.resting_on
    if level is None:
        return ""
    if not level.reviewed:
        return "The large model's answers count as right here, and it errs itself: no person has looked at these."
    rest = level.rows - level.reviewed
    return (
        f"What people say counts, of {counted(level.reviewed, 'answer')}; of the other {count(rest)} it is what the"
        " large model says, which errs itself."
    )


def agreement(judged: Judgement, name: str) -> Chart | None:
    """Draw how often both models said the same, over time."""
    found = judged.agreement_by_day
    if not found:
        return None
    dates, shares = zip(*found, strict=True)
    floor, marks = (0.5, _UPPER) if min(share.low for share in shares) > 0.5 else (0.0, QUARTERS)
    sheet = Sheet(left=50, right=24, x_max=max(1, len(found) - 1), y_min=floor)
    at = [float(place) for place in range(len(found))] if len(found) > 1 else [0.5]
    drawn = svg.axis(sheet, [(part, percent(part)) for part in marks])
    drawn += _banded([sheet.x(x) for x in at], shares, sheet)
    for x, date, share in zip(at, dates, shares, strict=True):
        drawn.append(svg.dot(sheet.x(x), sheet.y(share.value or 0.0), "a", f"{date}: {interval(share)}", 3.0))
    drawn += svg.below(sheet, [(x, month_and_day(date)) for x, date in zip(at, dates, strict=True)])
    said = Said(
        "Agreement with the large model",
        f"Both models said the same on {interval(judged.agreement)} of {counted(judged.agreement.rows, 'input')}.",
        (("a", "said the same"), ("band", "95 % interval")),
        ("from (UTC)", "compared", "the same", "95 % interval"),
        tuple((date, *_shares(share)) for date, share in found),
    )
    return chart(name, said, sheet, drawn)


def _banded(across: Sequence[float], shares: Sequence[Share], sheet: Sheet) -> Iterator[str]:
    """Draw a line of shares in the band of their intervals; of a few points each interval by itself."""
    upper, lower = ([sheet.y(share.high) for share in shares], [sheet.y(share.low) for share in shares])
    yield svg.area(list(zip(across, upper, strict=True)), list(zip(across, lower, strict=True)), "band")
    yield svg.path([(x, sheet.y(share.value or 0.0)) for x, share in zip(across, shares, strict=True)], "line a")
    for x, high, low in zip(across, upper, lower, strict=True) if len(across) < _FEW else ():
        yield svg.line((x, x), (high, low), "whisker")


def labels(judged: Judgement, name: str) -> Chart | None:
    """Draw how often both models said the same, label by label."""
    compared = [label for label in judged.labels if label.agreement.rows]
    if not compared:
        return None
    shown = compared[:LABELS_DRAWN_MAX]
    sheet = Sheet(height=40 + _ROW * len(shown), left=118, right=22, top=8)
    drawn = upright(sheet)
    for at, label in enumerate(shown):
        drawn += _label(sheet, sheet.top + _ROW * at + 12, label)
    worst = min(compared, key=lambda label: label.agreement.value or 0.0)
    sentence = f"Least often the same: '{worst.name}', {interval(worst.agreement)} of {count(worst.agreement.rows)}."
    if len(compared) > len(shown):
        sentence += f" The {len(shown)} most frequent of {len(compared)} labels are drawn."
    said = Said(
        "Agreement by label",
        sentence,
        (("a", "said the same as the large model"), ("whisker", "95 % interval")),
        ("label", "examples", "compared", "the same", "95 % interval", "in the last week", "95 % interval"),
        tuple(
            (label.name, count(label.examples), *_shares(label.agreement), *_shares(label.recent)[1:])
            for label in judged.labels
        ),
    )
    return chart(name, said, sheet, drawn)


def _label(sheet: Sheet, y: float, label: LabelState) -> Iterator[str]:
    share = label.agreement
    yield svg.text(sheet.left - 8, y + 4, svg.cut(label.name, 16), "tick", "end")
    yield svg.line((sheet.x(share.low), sheet.x(share.high)), (y, y), "whisker")
    yield svg.dot(sheet.x(share.value or 0.0), y, "a", f"{label.name}: {interval(share)}")


def _dots(places: Iterable[tuple[float, float]], levels: Iterable[Level]) -> Iterator[str]:
    for place, level in zip(places, levels, strict=True):
        said = f"from {level.above:.2f} on: {percent(level.taken.value)} of all, {percent(level.risk)} otherwise"
        yield svg.dot(*place, "a", said, 3.0)


def _level(level: Level) -> tuple[str, ...]:
    part, holds = percent(level.taken.value), "yes" if level.holds else "no"
    rows = count(level.rows), count(level.reviewed)
    return f"{level.above:.2f}", part, *rows, percent(level.risk), percent(level.bound), holds


def _shares(share: Share) -> tuple[str, str, str]:
    between = f"{percent(share.low)} to {percent(share.high)}" if share.rows else "-"
    return count(share.rows), percent(share.value), between
