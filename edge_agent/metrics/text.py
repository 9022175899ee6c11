"""The page that Prometheus reads: text format 0.0.4, piece by piece.

Written here and not by a library: with 100 tasks this takes a twentieth of the time, in which the interpreter does
nothing else (docs/decisions/0025-metrics-without-a-library.md). The tests read it with Prometheus' own parser.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from edge_agent.metrics.catalogue import Metric
from edge_agent.metrics.counting import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LABEL_CHARACTERS_MAX = 100
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Sample(NamedTuple):
    """A number, or a histogram; `labels` in the order of the catalogue's. The name stands without its prefix."""

    name: str
    value: float | Histogram
    labels: tuple[str, ...] = ()


def page(samples: Iterable[Sample], catalogue: Mapping[str, Metric]) -> Iterator[str]:
    """Yield the page in short pieces: each metric once, in the order of the catalogue.

    Raises:
        KeyError: a sample that the catalogue does not know.
    """
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(f"edge_agent_{sample.name}", []).append(sample)
    if unknown := found.keys() - catalogue.keys():
        raise KeyError(f"not in the catalogue: {', '.join(sorted(unknown))}")
    for name, metric in catalogue.items():
        if name in found:
            yield f"# HELP {name} {metric.means}\n# TYPE {name} {metric.kind}\n"
            for sample in found[name]:
                yield _sample(metric, sample)


def _sample(metric: Metric, sample: Sample) -> str:
    labels = [f'{key}="{_escaped(value)}"' for key, value in zip(metric.labels, sample.labels, strict=True)]
    if isinstance(sample.value, Histogram):
        return _histogram(metric.name, ",".join(labels), sample.value)
    return f"{metric.name}{_braced(','.join(labels))} {_number(sample.value)}\n"


def _histogram(name: str, labels: str, histogram: Histogram) -> str:
    counted = histogram.cumulative
    start = f'{name}_bucket{{{labels},le="'
    lines = [f'{start}{bound:g}"}} {count}\n' for bound, count in zip(histogram.bounds, counted, strict=False)]
    inside = _braced(labels)
    lines.append(f'{start}+Inf"}} {counted[-1]}\n')
    lines.append(f"{name}_sum{inside} {_number(histogram.total)}\n{name}_count{inside} {counted[-1]}\n")
    return "".join(lines)


def _braced(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(value: str) -> str:
    return value[:LABEL_CHARACTERS_MAX].translate(_ESCAPES)
