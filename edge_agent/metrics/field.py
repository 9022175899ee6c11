"""How bundles do in the field, as numbers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from edge_agent.formats.site_status import Alarm
from edge_agent.metrics.text import Sample
from edge_agent.monitoring.figures import Headline, Standing

JUDGES = ("people", "large-model")


def samples(
    headlines: Iterable[Headline], serving: Mapping[str, str], alarms: Mapping[str, list[tuple[Standing, bool]]]
) -> Iterator[Sample]:
    """Return the figures of the bundles that answer.

    Args:
        headlines: of all bundles that anything is counted of.
        serving: the digest of the bundle that answers, by task.
        alarms: what stands against it, by task, and whether that put the task into shadow.
    """
    for one in headlines:
        if serving.get(one.task) == one.digest:
            yield from _bundle(one, alarms.get(one.task, []))


def _bundle(one: Headline, alarms: list[tuple[Standing, bool]]) -> Iterator[Sample]:
    task, standing = one.task, {alarm.alarm for alarm, _ in alarms}
    for name in get_args(Alarm):
        yield Sample("field_alarm", name in standing, (task, name))
    yield Sample("field_demoted", any(demoted for _, demoted in alarms), (task,))
    yield Sample("field_pairs_total", one.pairs, (task,))
    yield Sample("field_agreed_total", one.agreed, (task,))
    for judge in JUDGES if one.promise else ():
        found = one.evidence[judge]
        yield Sample("field_judged_total", found.judged, (task, judge))
        yield Sample("field_wrong_total", found.wrong, (task, judge))
        yield Sample("field_evidence_ratio", found.peak / one.promise.limit if one.promise else 0.0, (task, judge))
