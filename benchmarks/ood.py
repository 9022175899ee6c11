"""Detection of out-of-distribution inputs by the gate of a served bundle.

    python -m benchmarks.ood --data FOLDER [--json] [--only SECTION] [--work FOLDER] [--epochs N] [--margin W]
        [--head | --small]

    clinc       CLINC150: out-of-scope requests, with and without texts to learn from; what ordinary ones lose,
                also with calibration rows from the file that is asked
    left-out    ten of its 150 labels are left out, five times
    banking     BANKING77 against CLINC150 and back, also without CLINC150's labels about banks
    till        the till's task, trained as its example is, in other languages, noise, letters, other shops
    topic       ten labels of CLINC150 that appear at call 3,000: noticed, queued first, answered after retraining,
                once and again after 1,500 more calls; --draw FILE draws it

FOLDER has `clinc150/` (train, validation, out_of_scope_validation .jsonl) and `banking77/` (train, calibration), a
`text` and a `label` a line. Bundles are made by edge-convert's pipeline and asked through a daemon over gRPC. They stay
in the work folder (build/ood), so that a second run only asks; training all ten takes hours on two busy cores. --epochs
trains shorter, --margin W with `finetune.margin_weight: W`. --head trains the classification head alone, on the encoder
as it is published: minutes for a bundle, and another model, so its figures are reported as its own. --small trains on a
tenth of the rows for one epoch: it shows that everything runs, and its figures mean nothing.

What is measured was used for nothing before: the calibration rows are a tenth of the training file (in one part of
clinc the half of the validation file that is not asked), and the out-of-scope texts that a bundle is trained with are
the half that it is not asked.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import structlog
import yaml

from benchmarks.bars import Bar, main, option
from benchmarks.out_of_distribution import texts, topic
from benchmarks.out_of_distribution.answers import (
    OodAnswer,
    accuracy,
    ask,
    auroc,
    confident,
    held_up,
    p_values,
    share,
    standard_error,
)
from benchmarks.out_of_distribution.bundles import (
    CALIBRATION_SHARE,
    HELD_UP_MAX,
    BundleSpec,
    Effort,
    Row,
    build_bundle,
    read,
    recalibrate,
    split_by_hash,
)
from convert.pipeline.recipe import RiskSection

RESAMPLES, GATE_ROWS = 1000, 450
LEFT_OUT, TIMES = 10, 5
WORK = Path("build/ood")
CLINC = ("clinc150/train.jsonl", "clinc150/validation.jsonl")
EVERY = (*CLINC, "clinc150/out_of_scope_validation.jsonl", "banking77/train.jsonl", "banking77/calibration.jsonl")
DATA_OF: dict[str, Sequence[str]] = {"till": (), "clinc": EVERY[:3], "left-out": CLINC, "topic": CLINC}
"""What a section reads that is run alone; others read EVERY."""
BANK_LABELS = {
    "account_blocked",
    "apr",
    "application_status",
    "balance",
    "bill_balance",
    "bill_due",
    "card_declined",
    "credit_limit",
    "credit_limit_change",
    "credit_score",
    "damaged_card",
    "exchange_rate",
    "expiration_date",
    "freeze_account",
    "improve_credit_score",
    "interest_rate",
    "international_fees",
    "min_payment",
    "new_card",
    "order_checks",
    "pay_bill",
    "pin_change",
    "redeem_rewards",
    "replacement_card_duration",
    "report_fraud",
    "report_lost_card",
    "rewards_balance",
    "routing",
    "spending_history",
    "transactions",
    "transfer",
}
"""CLINC150's labels about banking, credit cards and exchange rates: many of BANKING77's messages have one of them."""
TILL = Path(__file__).parent.parent / "examples/pos-intent/data"


@dataclass(frozen=True)
class BenchmarkInputs:
    """The data folder, the work folder of the bundles, and how much is trained."""

    data: Path
    work: Path
    effort: Effort

    def rows(self, name: str) -> list[Row]:
        """Read a file of the data folder."""
        return read(self.data / name)

    def answers(self, spec: BundleSpec, sets: Mapping[str, Sequence[Row]]) -> dict[str, list[OodAnswer]]:
        """Build a bundle, and return its answers to each set of rows."""
        return ask(build_bundle(self.work, spec, self.effort), spec.name, sets)

    def recalibrated_answers(
        self, spec: BundleSpec, changed: BundleSpec, sets: Mapping[str, Sequence[Row]]
    ) -> dict[str, list[OodAnswer]]:
        """Calibrate the bundle of `spec` again as `changed`, without another training, and return its answers."""
        return ask(recalibrate(self.work, spec, changed, self.effort), spec.name, sets)


def _clinc_spec(inputs: BenchmarkInputs, name: str, outliers: Sequence[str] = ()) -> BundleSpec:
    calibration, train = split_by_hash(inputs.rows("clinc150/train.jsonl"), CALIBRATION_SHARE)
    return BundleSpec(name, train, calibration, _test(inputs.rows("clinc150/validation.jsonl")), outliers)


def _test(rows: Sequence[Row]) -> list[Row]:
    """Return the tenth of the rows on which a run of edge-convert measures a bundle; the figures are the daemon's."""
    return list(rows)[::10]


def clinc(inputs: BenchmarkInputs) -> Iterable[Bar]:
    """Send out-of-scope texts to a bundle trained without them, and to two trained with half of them."""
    ordinary = inputs.rows("clinc150/validation.jsonl")
    out_of_scope = inputs.rows("clinc150/out_of_scope_validation.jsonl")
    spec = _clinc_spec(inputs, "clinc")
    sets = {"ordinary": ordinary, "out of scope": out_of_scope}
    gated = inputs.answers(spec, sets)
    ungated, default = (
        inputs.recalibrated_answers(spec, replace(spec, held_up_max=held_up_max), sets)
        for held_up_max in (0, RiskSection().held_up_max)
    )
    halves = split_by_hash(out_of_scope, 0.5)
    taught: list[dict[str, list[OodAnswer]]] = []
    for name, outliers, asked in (("clinc-first", *halves), ("clinc-second", *halves[::-1])):
        taught_spec = _clinc_spec(inputs, name, [row.text for row in outliers])
        taught.append(inputs.answers(taught_spec, {"ordinary": ordinary, "out of scope": asked}))
    yield from _out_of_scope_bars(gated, taught)
    yield from _in_scope_bars(gated["ordinary"], ungated["ordinary"], [answers["ordinary"] for answers in taught])
    label = f"with the default of {RiskSection().held_up_max:.0%} held up"
    yield Bar(f"in scope, confident, {label}", confident(default["ordinary"]), 0.94, "higher")
    yield Bar(
        f"CLINC150: out of scope, confident, no outlier texts, {label}",
        confident(default["out of scope"]),
        None,
        "lower",
    )
    yield from _same_source_bars(inputs, spec, ordinary, out_of_scope)


def _out_of_scope_bars(
    gated: dict[str, list[OodAnswer]], taught: Sequence[dict[str, list[OodAnswer]]]
) -> Iterable[Bar]:
    taught_auroc = np.mean([auroc(answers["ordinary"], answers["out of scope"]) for answers in taught])
    taught_confident = share([answer.confident for answers in taught for answer in answers["out of scope"]])
    yield Bar("CLINC150: AUROC, no outlier texts", auroc(gated["ordinary"], gated["out of scope"]), None, "higher")
    yield Bar("CLINC150: AUROC, outlier texts", float(taught_auroc), 0.98, "higher")
    yield Bar("CLINC150: out of scope, confident, no outlier texts", confident(gated["out of scope"]), 0.11, "lower")
    yield Bar("CLINC150: out of scope, confident, outlier texts", taught_confident, 0.08, "lower")


def _in_scope_bars(
    gated: Sequence[OodAnswer], ungated: Sequence[OodAnswer], taught: Sequence[Sequence[OodAnswer]]
) -> Iterable[Bar]:
    mean, error = held_up(-p_values(gated), HELD_UP_MAX, RESAMPLES, min(GATE_ROWS, len(gated) // 2))
    yield Bar("in scope, held up over 1,000 resamples", mean, HELD_UP_MAX + 2 * error, "lower")
    yield Bar(
        "in scope, held up by this bundle",
        _held_up(gated),
        HELD_UP_MAX + 3 * standard_error(HELD_UP_MAX, GATE_ROWS),
        "lower",
    )
    before, error = accuracy(ungated), standard_error(accuracy(ungated), len(gated))
    yield Bar("in scope, accuracy lost with gate and floor", before - accuracy(gated), error, "lower")
    lost = before - float(np.mean([accuracy(answers) for answers in taught]))
    yield Bar("in scope, accuracy lost by outlier texts", lost, error, "lower")
    yield Bar("in scope, confident", confident(gated), 0.94, "higher")
    yield Bar("in scope, confident without gate and floor", confident(ungated), None, "higher")
    yield Bar("in scope, wrong among the confident", _wrong_among_confident(gated), 0.05, "lower")


def _same_source_bars(
    inputs: BenchmarkInputs, spec: BundleSpec, ordinary: Sequence[Row], out_of_scope: Sequence[Row]
) -> Iterable[Bar]:
    """Calibrate the same weights with half of the validation file, and send the other half: both ways.

    The promise is about inputs like the calibration rows. Those of the other bars are a tenth of the training file,
    whose texts are slightly easier than the validation file's.
    """
    halves = split_by_hash(ordinary, 0.5)
    answers: dict[str, list[OodAnswer]] = {"ordinary": [], "out of scope": []}
    aurocs = []
    for variant, calibration, asked in (("-half-1", *halves), ("-half-2", *halves[::-1])):
        changed = replace(spec, calibration=calibration, test=_test(asked), variant=variant)
        some = inputs.recalibrated_answers(spec, changed, {"ordinary": asked, "out of scope": out_of_scope})
        aurocs.append(auroc(some["ordinary"], some["out of scope"]))
        for name, rows in some.items():
            answers[name] += rows
    label = "calibrated with the other half of the same file"
    yield Bar(f"CLINC150, {label}: in scope, held up", _held_up(answers["ordinary"]), None, "lower")
    yield Bar(f"CLINC150, {label}: in scope, confident", confident(answers["ordinary"]), 0.94, "higher")
    wrong = _wrong_among_confident(answers["ordinary"])
    yield Bar(f"CLINC150, {label}: in scope, wrong among the confident", wrong, 0.05, "lower")
    yield Bar(f"CLINC150, {label}: AUROC", float(np.mean(aurocs)), None, "higher")
    yield Bar(f"CLINC150, {label}: out of scope, confident", confident(answers["out of scope"]), 0.11, "lower")


def left_out(inputs: BenchmarkInputs) -> Iterable[Bar]:
    """Leave ten labels out, and ask for them."""
    labels = sorted({row.label for row in inputs.rows("clinc150/train.jsonl")})
    aurocs = []
    for turn in range(TIMES):
        missing = set(random.Random(turn).sample(labels, LEFT_OUT))  # noqa: S311 - no secret
        calibration, train = split_by_hash(inputs.rows("clinc150/train.jsonl"), CALIBRATION_SHARE)
        unknown, ordinary = _by_label(inputs.rows("clinc150/validation.jsonl"), missing)
        known_train, known_calibration = (_by_label(rows, missing)[1] for rows in (train, calibration))
        spec = BundleSpec(f"clinc-without-{turn}", known_train, known_calibration, _test(ordinary))
        answers = inputs.answers(spec, {"ordinary": ordinary, "unknown": unknown})
        aurocs.append(auroc(answers["ordinary"], answers["unknown"]))
        yield Bar(f"ten labels left out, turn {turn + 1}: AUROC", aurocs[-1], None, "higher")
    yield Bar("ten labels left out: AUROC, mean of five", float(np.mean(aurocs)), 0.92, "higher")


def _by_label(rows: Sequence[Row], labels: set[str]) -> tuple[list[Row], list[Row]]:
    return [row for row in rows if row.label in labels], [row for row in rows if row.label not in labels]


def banking(inputs: BenchmarkInputs) -> Iterable[Bar]:
    """Send each bundle the other's inputs, and BANKING77's also to a bundle without labels about banks."""
    requests, messages = inputs.rows("clinc150/validation.jsonl"), inputs.rows("banking77/calibration.jsonl")
    calibration, train = split_by_hash(inputs.rows("banking77/train.jsonl"), CALIBRATION_SHARE)
    spec = BundleSpec("banking", train, calibration, _test(messages))
    answers = inputs.answers(spec, {"own": messages, "other": requests})
    yield Bar("BANKING77: AUROC against CLINC150", auroc(answers["own"], answers["other"]), 0.98, "higher")
    answers = inputs.answers(_clinc_spec(inputs, "clinc"), {"own": requests, "other": messages})
    yield Bar("CLINC150: AUROC against BANKING77", auroc(answers["own"], answers["other"]), 0.98, "higher")
    clinc_spec = _clinc_spec(inputs, "clinc-without-banks")
    spec = replace(
        clinc_spec,
        train=_by_label(clinc_spec.train, BANK_LABELS)[1],
        calibration=_by_label(clinc_spec.calibration, BANK_LABELS)[1],
        test=_by_label(clinc_spec.test, BANK_LABELS)[1],
    )
    answers = inputs.answers(spec, {"own": _by_label(requests, BANK_LABELS)[1], "other": messages})
    label = "CLINC150 without its 31 labels about banks"
    yield Bar(f"{label}: AUROC against BANKING77", auroc(answers["own"], answers["other"]), 0.98, "higher")
    yield Bar(f"{label}: BANKING77 confident", confident(answers["other"]), None, "lower")


def _held_up(answers: Sequence[OodAnswer]) -> float:
    return share([answer.p_value <= HELD_UP_MAX for answer in answers])


def _wrong_among_confident(answers: Sequence[OodAnswer]) -> float:
    return 1 - accuracy([answer for answer in answers if answer.confident])


def till(inputs: BenchmarkInputs) -> Iterable[Bar]:
    """Send texts unlike the training data to the till's task."""
    train, calibration, test = (read(TILL / f"{split}.jsonl") for split in ("train", "calibration", "test"))
    foreign: dict[str, Sequence[str]] = {
        "German": texts.GERMAN,
        "French": texts.FRENCH,
        "keyboard noise": texts.keyboard_noise(),
        "single letters": texts.LETTERS,
        "other shops": texts.OTHER_SHOPS,
    }
    sets: dict[str, Sequence[Row]] = {name: [Row(text, "") for text in some] for name, some in foreign.items()}
    recipe = yaml.safe_load((TILL.parent / "encoder/recipe.yaml").read_text(encoding="utf-8"))
    spec = BundleSpec("till", train, calibration, test, finetune=recipe["finetune"])
    answers = inputs.answers(spec, {**sets, "ordinary": test})
    for name in foreign:
        yield Bar(f"till: not confident, {name}", 1 - confident(answers[name]), None, "higher")
        yield Bar(f"till: held up by the gate, {name}", _held_up(answers[name]), None, "higher")
    every = [answer for name in foreign for answer in answers[name]]
    yield Bar("till: not confident, all of these", 1 - confident(every), 0.95, "higher")
    # A bundle whose answers are never confident says nothing about strange texts.
    yield Bar("till: confident, its own test rows", confident(answers["ordinary"]), 0.01, "higher")
    yield Bar("till: held up by the gate, its own test rows", _held_up(answers["ordinary"]), None, "lower")


def new_topic(inputs: BenchmarkInputs) -> Iterable[Bar]:
    """Let texts of ten labels arrive at a site whose bundle lacks these labels."""
    every = inputs.rows("clinc150/train.jsonl")
    missing = set(random.Random(0).sample(sorted({row.label for row in every}), LEFT_OUT))  # noqa: S311 - no secret
    known, called = split_by_hash(every, 0.45)
    of_topic, ordinary = (list(rows) for rows in _by_label(called, missing))
    chance = random.Random(1)  # noqa: S311 - no secret
    chance.shuffle(of_topic)
    chance.shuffle(ordinary)
    half = len(of_topic) // 2
    # Of the topic, what is no part of the calls of the first bundle: the rows that it would have been trained with.
    later, trained = (list(rows) for rows in _by_label(known, missing))
    random.Random(2).shuffle(later)  # noqa: S311 - no secret
    rows = topic.Rows(trained, ordinary, of_topic[:half], later, of_topic[half:])
    test = _test(inputs.rows("clinc150/validation.jsonl"))
    run = topic.run_topic(rows, test, lambda spec: build_bundle(inputs.work, spec, inputs.effort))
    if picture := option("--draw"):
        topic.draw(Path(picture), run)
    yield from topic.bars(run, missing)


SECTIONS: dict[str, Callable[[BenchmarkInputs], Iterable[Bar]]] = {
    "clinc": clinc,
    "left-out": left_out,
    "banking": banking,
    "till": till,
    "topic": new_topic,
}


def measure() -> Iterable[Bar]:
    """Run all sections, or the one named on the command line."""
    only, data = option("--only"), option("--data")
    if only and only not in SECTIONS:
        sys.exit(f"There is no section {only!r}; there are: {', '.join(SECTIONS)}.")
    if not data and only != "till":
        sys.exit("Name the folder with clinc150/ and banking77/: --data FOLDER")
    if absent := [name for name in DATA_OF.get(only, EVERY) if not (Path(data) / name).is_file()]:
        sys.exit(f"{data} has no {' and no '.join(absent)}.")
    effort, folder = _effort()
    work = Path(option("--work", str(WORK / folder)))
    inputs = BenchmarkInputs(Path(data), work.absolute(), effort)
    return (bar for name, section in SECTIONS.items() if only in ("", name) for bar in section(inputs))


def _effort() -> tuple[Effort, str]:
    """Return how much is trained, and the name of its folder."""
    if "--small" in sys.argv:
        return Effort(epochs=1, rows_max=1500), "small"
    if "--head" in sys.argv:
        return Effort(epochs=1, method="head"), "head"
    epochs, margin = int(option("--epochs", str(Effort().epochs))), float(option("--margin", "0"))
    return Effort(epochs, margin_weight=margin), f"epochs-{epochs}" + (f"-margin-{margin:g}" if margin else "")


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.exit(main(measure))
