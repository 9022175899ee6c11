"""Chooses the golden cases of a bundle: the rows that can become one, replaced values in them, and which bind.

A bundle goes to every site and cannot be changed, so `erase` does not reach its golden cases. By default they come from
test rows in which made-up values replace what the rules of redaction find; the recipe can ask for composed or
consented rows instead (`privacy.golden_cases`).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from convert.data import imported_rows
from convert.data.data_row import DataRow, output_names, rows_of
from convert.dataset.surrogates import RULE_SET, RowRedactor, SurrogateSettings
from convert.evaluate.predictions import QuestionView, ServedPrediction, views
from convert.evaluate.scoring import is_right
from convert.pipeline.recipe import GoldenRule, PrivacySection
from edge_agent.formats.golden_cases import TOLERANCE, GoldenAnswer, GoldenCase, could_flip
from edge_agent.formats.manifest import Kind, Manifest, TaskSpec
from edge_agent.formatting import counted

CASES_MAX = 200
PER_LABEL_MAX = 3
CASES_PER_QUESTION = 12
"""Largest number of cases of a question; with few labels there are more per label."""
_ROWS_PER_LABEL_MAX = 8
_DIGITS = 4


def choose_rows(task: TaskSpec, rows: Sequence[DataRow]) -> list[DataRow]:
    """Return the candidate rows: some of each label of each question, ordered by a hash of their text."""
    ordered = sorted(rows, key=lambda row: hashlib.sha256(row.key.encode()).hexdigest())
    if not task.questions_asked:
        return ordered[: PER_LABEL_MAX * _ROWS_PER_LABEL_MAX]
    indexes: dict[int, None] = {}
    for question in task.questions_asked:
        answering = rows_of(task, question, ordered)
        for label in question.outputs:
            indexes |= dict.fromkeys([index for index, row in answering if row.label == label][:_ROWS_PER_LABEL_MAX])
    return [ordered[index] for index in indexes]


def cases(manifest: Manifest, rows: Sequence[DataRow], predictions: Sequence[ServedPrediction]) -> list[GoldenCase]:
    """Return the cases from the rows of `choose_rows` and the finished bundle's answers.

    For each label of each question the most confident right answers come first; a label that the bundle never gets
    right shows its wrong answer. An answer that can differ on another processor is `report_only`.
    """
    answered = [pair for pair in zip(rows, predictions, strict=True) if not pair[1].failure]
    rows, predictions = [row for row, _ in answered], [prediction for _, prediction in answered]
    question_views = views(manifest)
    if question_views:
        indexes = _indexes_by_question(question_views, rows, predictions)[:CASES_MAX]
    else:
        kind = manifest.task.kind
        # Stable: equally good rows keep their order.
        indexes = sorted(range(len(rows)), key=lambda index: _rank(kind, rows[index], predictions[index]))
    return [case(manifest, rows[index].text, predictions[index]) for index in indexes]


def _indexes_by_question(
    question_views: Sequence[QuestionView], rows: Sequence[DataRow], predictions: Sequence[ServedPrediction]
) -> list[int]:
    """Return the places of rows that cover the labels of all questions; a row can cover several."""
    chosen: dict[int, None] = {}
    total = sum(len(view.question.outputs) for view in question_views)
    for view in question_views:
        per_label = max(PER_LABEL_MAX, math.ceil(CASES_PER_QUESTION / len(view.question.outputs)))
        cases_max = max(1, min(per_label, CASES_MAX // total))
        ranked = sorted(view.rows(rows), key=partial(_rank_answer, view, predictions))
        for label in view.question.outputs:
            best = [index for index, row in ranked if row.label == label]
            new = [index for index in best if index not in chosen]
            chosen |= dict.fromkeys(new[: max(0, cases_max - len(best) + len(new))])
    return list(chosen)


def _rank_answer(
    view: QuestionView, predictions: Sequence[ServedPrediction], pair: tuple[int, DataRow]
) -> tuple[bool, bool, bool]:
    """Rank a row by the answer to one question."""
    index, row = pair
    return _rank("classify", row, view.prediction(predictions[index]))


def labels_without_case(task: TaskSpec, cases: Sequence[GoldenCase]) -> list[str]:
    """Return the labels that are not the answer of any case; decide: as QUESTION/OUTPUT."""
    covered = {each.answer for each in cases} | {
        f"{name}/{label}" for each in cases for name, label in each.answers.items()
    }
    return [label for label in output_names(task) if task.questions_asked and label not in covered]


def _rank(kind: Kind, row: DataRow, prediction: ServedPrediction) -> tuple[bool, bool, bool]:
    """Rank right before wrong, then binding before others, then the team's own rows before those of sites."""
    wrong = kind != "embed" and not is_right(kind, row, prediction)
    return wrong, _could_flip(kind, prediction), bool(row.record)


def case(manifest: Manifest, text: str, prediction: ServedPrediction) -> GoldenCase:
    """Return the case of one text and its answer."""
    kind, answer = manifest.task.kind, answer_of(manifest, prediction)
    golden_case = GoldenCase(input=text, answer=answer.answer, tolerance=TOLERANCE)
    update: dict[str, Any] = {} if answer.ood_score is None else {"ood_score": answer.ood_score}
    if kind == "decide":
        update |= {"answers": dict(answer.answers), "question_scores": dict(answer.question_scores)}
    else:
        update |= {"scores": answer.scores, "report_only": _could_flip(kind, prediction)}
    return golden_case.model_copy(update=update)


def answer_of(manifest: Manifest, prediction: ServedPrediction) -> GoldenAnswer:
    """Return an answer in the form of a golden case."""
    kind, gate = manifest.task.kind, manifest.confidence.gate
    ood_score = round(gate.score_of(prediction.ood_score, prediction.label_mass), _DIGITS) if gate else None
    if kind == "decide":
        answers = {view.name: view.prediction(prediction) for view in views(manifest)}
        labels = {name: answer.answer for name, answer in answers.items()}
        question_scores = {name: scores("classify", answer) for name, answer in answers.items()}
        return GoldenAnswer("", (), ood_score, labels, question_scores)
    return GoldenAnswer("" if kind == "embed" else prediction.answer, scores(kind, prediction), ood_score)


def scores(kind: Kind, prediction: ServedPrediction) -> tuple[float, ...]:
    """Return the scores of an answer for a case, rounded so that the last bit of a sum does not matter."""
    plain = {
        "classify": prediction.scores,
        "extract": (prediction.confidence,),
        "redact": (prediction.confidence,),
        "embed": prediction.vector,
    }.get(kind, ())
    return tuple(round(each, _DIGITS) for each in plain)


def _could_flip(kind: Kind, prediction: ServedPrediction) -> bool:
    """Return whether a score difference within the tolerance could change the answer."""
    return kind != "embed" and could_flip(scores(kind, prediction))


PROVENANCE_KEY = "golden cases"
"""Key in provenance.converter: where the texts of the golden cases come from."""
_SEED = "golden cases"


@dataclass(frozen=True)
class GoldenCandidates:
    """Rows whose texts can travel in the bundle."""

    rule: GoldenRule
    rows: tuple[DataRow, ...]
    replaced: Mapping[str, Mapping[str, int]]
    """By text of a row: replaced values by the rule that found them."""
    unusable: int = 0
    """Rows left out because a span ends inside a replaced value, or because the redaction model fails on them."""
    finders: str = RULE_SET
    """The names of the rules and the bundle that found the values."""


@dataclass(frozen=True)
class GoldenOrigin:
    """Where the texts of a bundle's golden cases come from."""

    rule: GoldenRule
    cases: int
    samples: int
    """Of these, lines of samples.txt."""
    records: tuple[str, ...]
    """The records of sites from which cases were made, as SITE/PREDICTION_ID."""
    replaced_cases: int
    replaced: Mapping[str, int]
    """Replaced values by the rule that found them."""
    finders: str = RULE_SET
    """The names of the rules and the bundle that found them."""

    def plain(self) -> dict[str, Any]:
        """Return it for reports."""
        figures = {key: value for key, value in vars(self).items() if key != "records"}
        return figures | {"collected": len(self.records), "replaced": dict(self.replaced), "sentence": self.sentence()}

    def sentence(self) -> str:
        """Return it in words, for the manifest and for the people who sign."""
        if not self.cases:
            return "there are no golden cases"
        sources = f"{self.samples} of them from samples.txt, {len(self.records)} from records of sites"
        message = f"{counted(self.cases, 'case')}, {sources}"
        if self.rule == "surrogates":
            values = counted(sum(self.replaced.values()), "value")
            return (
                f"{message}; surrogates: {values} in {counted(self.replaced_cases, 'case')} replaced by made-up ones"
                f" ({self.finders}); what these do not find is still there"
            )
        marks = "composed" if self.rule == "composed" else "composed, or with recorded consent"
        return f"{message}; the rows are marked as {marks}; nothing was replaced"


def candidates(
    privacy: PrivacySection, task: TaskSpec, rows: Sequence[DataRow], bundle: Path | None = None
) -> GoldenCandidates:
    """Return some rows of each label that can become golden cases, with surrogates if the rule asks for them.

    A redaction bundle finds values in addition to the rules. Raises as `imported_rows.redact`.
    """
    rule = privacy.golden_cases
    if rule != "surrogates":
        allowed = [row for row in rows if row.composed or (rule == "consented" and row.consented)]
        return GoldenCandidates(rule, tuple(choose_rows(task, allowed)), {})
    redactor = RowRedactor(SurrogateSettings(locales=privacy.locales), _SEED, imported_rows.value_finder(bundle))
    chosen = choose_rows(task, rows)
    redactor.read(chosen)
    redacted_rows = [each for each in map(redactor.redact, chosen) if each is not None]
    replaced = {each.row.text: each.counts for each in redacted_rows if each.counts}
    kept_rows = tuple(each.row for each in redacted_rows)
    return GoldenCandidates(rule, kept_rows, replaced, len(chosen) - len(kept_rows), imported_rows.finder_names(bundle))


def origin_of(chosen: GoldenCandidates, cases: Sequence[GoldenCase], samples: int) -> GoldenOrigin:
    """Return the origin of the chosen cases, of which the first `samples` are lines of samples.txt."""
    record_of = {row.text: row.record for row in chosen.rows if row.record}
    replaced = [chosen.replaced[case.input] for case in cases[samples:] if case.input in chosen.replaced]
    total = Counter[str]()
    for counts in replaced:
        total.update(counts)
    records = tuple(record_of[case.input] for case in cases[samples:] if case.input in record_of)
    return GoldenOrigin(chosen.rule, len(cases), samples, records, len(replaced), dict(total), chosen.finders)
