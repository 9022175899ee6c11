"""The data of a report, the format of its numbers, and tables in Markdown. Pure.

The report shows these keys of the stages' reports in sections of their own; other plain values are listed:

    quantize   chosen (name); candidates: list of name, size_bytes, bits_per_weight, fallback_tensors, latency_ms {p50},
               agreement {value, low, high}, kl_mean, accuracy {value, low, high}, inside_budget
    calibrate  verdict, threshold, coverage, bound, target_risk, delta, temperature, rows {temperature, threshold},
               floor, gate {score, held_up_max, rows, why}, held_up {gate, floor, threshold, confident},
               walk: list of {threshold, rows, errors, verdict}; reliability {before, after}: {bins, calibration_error}
    evaluate   rows, families, accuracy, sure {coverage, wrong}, calibration, near_copies {rows}, without_near_copies,
               failed, latency_ms, per_label, confusion, fields, neighbours
    finetune   rows {train, validation, too_long}, epochs, best_epoch

Of a decide task calibrate and evaluate report `questions`: these keys for each question, by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convert.data.row_files import DataSummary
from convert.pipeline.recipe import Recipe
from convert.pipeline.workspace import StageRecord


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; all columns but the first are aligned to the right."""
    alignment = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(map(_line, (columns, alignment, *rows)))


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


UNKNOWN = "-"
JSON_NAME, TEXT_NAME = "report.json", "report.md"


def by_question(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a report by question, with the name of each; as it is, without a name, if it has no `questions`."""
    if "questions" in report:
        yield from report["questions"].items()
    else:
        yield "", report


@dataclass(frozen=True)
class RunSummary:
    """A run and the records of its finished stages."""

    recipe: Recipe
    task: str
    version: str
    data: DataSummary
    records: Sequence[StageRecord]
    question: str = ""
    """The question that the reports are about; empty = the task as a whole."""

    def report(self, stage: str) -> Mapping[str, Any]:
        """Return the report of a stage, for `question` if it is set; empty if the stage has not run."""
        stage_report: Mapping[str, Any] = next((record.report for record in self.records if record.stage == stage), {})
        questions = stage_report.get("questions", {})
        return questions.get(self.question, {}) if self.question and questions else stage_report

    @property
    def questions(self) -> list[str]:
        """The names of the questions of a decide task."""
        return list(self.report("calibrate").get("questions", {}))

    @property
    def seconds(self) -> float:
        """Seconds of work of all stages."""
        return sum(record.seconds for record in self.records)

    @property
    def memory_peak_bytes(self) -> int:
        """The highest peak of all stages."""
        return max((record.memory_peak_bytes for record in self.records), default=0)

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The chosen candidate; empty without one."""
        quantize = self.report("quantize")
        return next((each for each in quantize.get("candidates", ()) if each["name"] == quantize["chosen"]), {})


def column(rows: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    """Return one value of each row."""
    return [row[key] for row in rows]


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share as a percentage; a dash if it is not known."""
    return UNKNOWN if share is None else f"{100 * share:.{digits}f}%"


def exact_percent(share: float) -> str:
    """Return a share that somebody chose, such as the target risk, without rounding it to another guarantee."""
    return f"{100 * share:g}%"


def interval(plain: Mapping[str, float]) -> str:
    """Return a share with its interval, as `convert.clustered_statistics` reports it."""
    level = 100 * plain.get("level", 0.95)
    return f"{percent(plain['value'])} ({level:.0f}% interval {percent(plain['low'])} to {percent(plain['high'])})"


def brief(plain: Mapping[str, Any]) -> str:
    """Return a share with its interval for a table."""
    if plain["value"] is None:
        return UNKNOWN
    return f"{percent(plain['value'])} ({100 * plain['low']:.1f} to {100 * plain['high']:.1f})"


def duration(seconds: float) -> str:
    """Return a time in seconds, or in minutes and seconds."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def number(value: float) -> str:
    """Return a number with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}".replace(",", " ")
