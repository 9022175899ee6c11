"""Detection of out-of-distribution inputs by the gate of a served bundle.

    python -m benchmarks.ood --data FOLDER [--json] [--only SECTION] [--work FOLDER] [--epochs N] [--margin W]
        [--head | --small]

    clinc       CLINC150: out-of-scope requests, with and without texts to learn from; what ordinary ones lose
    left-out    ten of its 150 labels are left out, five times
    banking     BANKING77 against CLINC150 and back
    till        the till's task, trained as its example is, in other languages, noise, letters, other shops
    topic       ten labels of CLINC150 that appear at call 3,000: noticed, queued first, answered after retraining,
                once and again after 1,500 more calls; --draw FILE draws it

FOLDER has `clinc150/` (train, validation, out_of_scope_validation .jsonl) and `banking77/` (train, calibration), a
`text` and a `label` a line. Bundles are made by edge-convert's pipeline and asked through a daemon over gRPC. They stay
in the work folder (build/ood), so that a second run only asks; training all ten takes hours on two busy cores. --epochs
trains shorter, --margin W with `finetune.margin_weight: W`. --head trains the classification head alone, on the encoder
as it is published: minutes for a bundle, and another model, so its figures are reported as its own. --small trains on a
tenth of the rows for one epoch: it shows that everything runs, and its figures mean nothing.

What is measured was used for nothing before: the calibration rows are a tenth of the training file, and the
out-of-scope texts that a bundle learns from are the half that it is not asked.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
import yaml

from benchmarks.bars import Bar, main, option
from benchmarks.strangers import texts, topic
from benchmarks.strangers.answers import (
    Asked,
    accuracy,
    ask,
    auroc,
    confident,
    held_up,
    p_values,
    share,
    standard_error,
)
from benchmarks.strangers.bundles import (
    CALIBRATION_SHARE,
    HELD_UP_MAX,
    Effort,
    Row,
    Wanted,
    made,
    parted,
    read,
    with_gate,
)
from convert.pipeline.recipe import RiskSection

RESAMPLES, GATE_ROWS = 1000, 450
LEFT_OUT, TIMES = 10, 5
WORK = Path("build/ood")
CLINC = ("clinc150/train.jsonl", "clinc150/validation.jsonl")
EVERY = (*CLINC, "clinc150/out_of_scope_validation.jsonl", "banking77/train.jsonl", "banking77/calibration.jsonl")
DATA_OF: dict[str, Sequence[str]] = {"till": (), "clinc": EVERY[:3], "left-out": CLINC, "topic": CLINC}
"""What a section reads that is run alone; others read EVERY."""
TILL = Path(__file__).parent.parent / "examples/pos-intent/data"


@dataclass(frozen=True)
class Ground:
    """The folders of data and bundles."""

    data: Path
    work: Path
    effort: Effort

    def rows(self, name: str) -> list[Row]:
        """Read a file of the data folder."""
        return read(self.data / name)

    def asked(self, wanted: Wanted, sets: dict[str, Sequence[Row]]) -> dict[str, list[Asked]]:
        """Make a bundle and ask it."""
        return ask(made(self.work, wanted, self.effort), wanted.name, sets)


def _clinc_wanted(ground: Ground, name: str, outliers: Sequence[str] = ()) -> Wanted:
    calibration, train = parted(ground.rows("clinc150/train.jsonl"), CALIBRATION_SHARE)
    return Wanted(name, train, calibration, _test(ground.rows("clinc150/validation.jsonl")), outliers)


def _test(rows: Sequence[Row]) -> list[Row]:
    """Return what a run of edge-convert measures itself on: a tenth, for the figures are those of the daemon."""
    return list(rows)[::10]


def clinc(ground: Ground) -> Iterable[Bar]:
    """Send out-of-scope texts to a bundle trained without them, and to two trained with half of them."""
    ordinary, strange = ground.rows("clinc150/validation.jsonl"), ground.rows("clinc150/out_of_scope_validation.jsonl")
    wanted = _clinc_wanted(ground, "clinc")
    bare = ground.asked(wanted, {"ordinary": ordinary, "strange": strange})
    sets = {"ordinary": ordinary, "strange": strange}
    plain, usual = (
        ask(with_gate(ground.work, wanted, held_up, ground.effort), wanted.name, sets)
        for held_up in (0, RiskSection().held_up_max)
    )
    halves = parted(strange, 0.5)
    taught: list[dict[str, list[Asked]]] = []
    for name, learnt, kept in (("clinc-first", *halves), ("clinc-second", *halves[::-1])):
        pair = _clinc_wanted(ground, name, [row.text for row in learnt])
        taught.append(ground.asked(pair, {"ordinary": ordinary, "strange": kept}))
    yield from _scope(bare, taught)
    yield from _ordinary(bare["ordinary"], plain["ordinary"], [each["ordinary"] for each in taught])
    default = f"with the default of {RiskSection().held_up_max:.0%} held up"
    yield Bar(f"in scope, confident, {default}", confident(usual["ordinary"]), 0.94, "higher")
    yield Bar(
        f"CLINC150: out of scope, confident, no outlier texts, {default}", confident(usual["strange"]), None, "lower"
    )


def _scope(bare: dict[str, list[Asked]], taught: Sequence[dict[str, list[Asked]]]) -> Iterable[Bar]:
    best = np.mean([auroc(each["ordinary"], each["strange"]) for each in taught])
    through = share([asked.confident for each in taught for asked in each["strange"]])
    yield Bar("CLINC150: AUROC, no outlier texts", auroc(bare["ordinary"], bare["strange"]), None, "higher")
    yield Bar("CLINC150: AUROC, outlier texts", float(best), 0.98, "higher")
    yield Bar("CLINC150: out of scope, confident, no outlier texts", confident(bare["strange"]), 0.11, "lower")
    yield Bar("CLINC150: out of scope, confident, outlier texts", through, 0.08, "lower")


def _ordinary(gated: Sequence[Asked], plain: Sequence[Asked], taught: Sequence[Sequence[Asked]]) -> Iterable[Bar]:
    mean, error = held_up(-p_values(gated), HELD_UP_MAX, RESAMPLES, min(GATE_ROWS, len(gated) // 2))
    rows = len(gated)
    once = share([each.p_value <= HELD_UP_MAX for each in gated])
    yield Bar("in scope, held up over 1,000 resamples", mean, HELD_UP_MAX + 2 * error, "lower")
    yield Bar(
        "in scope, held up by this bundle", once, HELD_UP_MAX + 3 * standard_error(HELD_UP_MAX, GATE_ROWS), "lower"
    )
    before = accuracy(plain)
    yield Bar(
        "in scope, accuracy lost with gate and floor", before - accuracy(gated), standard_error(before, rows), "lower"
    )
    lost = before - float(np.mean([accuracy(each) for each in taught]))
    yield Bar("in scope, accuracy lost by outlier texts", lost, standard_error(before, rows), "lower")
    yield Bar("in scope, confident", confident(gated), 0.94, "higher")
    yield Bar("in scope, confident without gate and floor", confident(plain), None, "higher")
    yield Bar(
        "in scope, wrong among the confident", 1 - accuracy([each for each in gated if each.confident]), 0.05, "lower"
    )


def left_out(ground: Ground) -> Iterable[Bar]:
    """Leave ten labels out, and ask for them."""
    labels = sorted({row.label for row in ground.rows("clinc150/train.jsonl")})
    found = []
    for turn in range(TIMES):
        gone = set(random.Random(turn).sample(labels, LEFT_OUT))  # noqa: S311 - no secret
        calibration, train = parted(ground.rows("clinc150/train.jsonl"), CALIBRATION_SHARE)
        strange, ordinary = _by_label(ground.rows("clinc150/validation.jsonl"), gone)
        learnt, held_out = (_by_label(rows, gone)[1] for rows in (train, calibration))
        wanted = Wanted(f"clinc-without-{turn}", learnt, held_out, _test(ordinary))
        said = ground.asked(wanted, {"ordinary": ordinary, "strange": strange})
        found.append(auroc(said["ordinary"], said["strange"]))
        yield Bar(f"ten labels left out, turn {turn + 1}: AUROC", found[-1], None, "higher")
    yield Bar("ten labels left out: AUROC, mean of five", float(np.mean(found)), 0.92, "higher")


def _by_label(rows: Sequence[Row], gone: set[str]) -> tuple[list[Row], list[Row]]:
    return [row for row in rows if row.label in gone], [row for row in rows if row.label not in gone]


def banking(ground: Ground) -> Iterable[Bar]:
    """Ask each bundle for the other's inputs."""
    requests, messages = ground.rows("clinc150/validation.jsonl"), ground.rows("banking77/calibration.jsonl")
    calibration, train = parted(ground.rows("banking77/train.jsonl"), CALIBRATION_SHARE)
    said = ground.asked(Wanted("banking", train, calibration, _test(messages)), {"own": messages, "other": requests})
    yield Bar("BANKING77: AUROC against CLINC150", auroc(said["own"], said["other"]), 0.98, "higher")
    said = ground.asked(_clinc_wanted(ground, "clinc"), {"own": requests, "other": messages})
    yield Bar("CLINC150: AUROC against BANKING77", auroc(said["own"], said["other"]), 0.98, "higher")


def _held_up(asked: Sequence[Asked]) -> float:
    return share([each.p_value <= HELD_UP_MAX for each in asked])


def till(ground: Ground) -> Iterable[Bar]:
    """Send texts unlike the training data to the till's task."""
    train, calibration, test = (read(TILL / f"{split}.jsonl") for split in ("train", "calibration", "test"))
    sets: dict[str, Sequence[str]] = {
        "German": texts.GERMAN,
        "French": texts.FRENCH,
        "keyboard noise": texts.keyboard_noise(),
        "single letters": texts.LETTERS,
        "other shops": texts.OTHER_SHOPS,
    }
    asked: dict[str, Sequence[Row]] = {name: [Row(text, "") for text in some] for name, some in sets.items()}
    recipe = yaml.safe_load((TILL.parent / "encoder/recipe.yaml").read_text(encoding="utf-8"))
    wanted = Wanted("till", train, calibration, test, finetune=recipe["finetune"])
    said = ground.asked(wanted, {**asked, "ordinary": test})
    for name in sets:
        yield Bar(f"till: not confident, {name}", 1 - confident(said[name]), None, "higher")
        yield Bar(f"till: held up by the gate, {name}", _held_up(said[name]), None, "higher")
    every = [each for name in sets for each in said[name]]
    yield Bar("till: not confident, all of these", 1 - confident(every), 0.95, "higher")
    # A bundle whose answers are never confident says nothing about strange texts.
    yield Bar("till: confident, its own test rows", confident(said["ordinary"]), 0.01, "higher")
    yield Bar("till: held up by the gate, its own test rows", _held_up(said["ordinary"]), None, "lower")


def new_topic(ground: Ground) -> Iterable[Bar]:
    """Let texts of ten labels arrive at a site whose bundle lacks these labels."""
    every = ground.rows("clinc150/train.jsonl")
    gone = set(random.Random(0).sample(sorted({row.label for row in every}), LEFT_OUT))  # noqa: S311 - no secret
    known, called = parted(every, 0.45)
    strange, ordinary = (list(rows) for rows in _by_label(called, gone))
    chance = random.Random(1)  # noqa: S311 - no secret
    chance.shuffle(strange)
    chance.shuffle(ordinary)
    half = len(strange) // 2
    # Of the topic, what is no part of the calls of the first bundle: the rows that it would have learnt from.
    later, learnt = (list(some) for some in _by_label(known, gone))
    random.Random(2).shuffle(later)  # noqa: S311 - no secret
    rows = topic.Rows(learnt, ordinary, strange[:half], later, strange[half:])
    test = _test(ground.rows("clinc150/validation.jsonl"))
    found = topic.walk(rows, test, lambda wanted: made(ground.work, wanted, ground.effort))
    if picture := option("--draw"):
        topic.draw(Path(picture), found)
    yield from topic.bars(found, gone)


SECTIONS: dict[str, Callable[[Ground], Iterable[Bar]]] = {
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
    ground = Ground(Path(data), work.absolute(), effort)
    return (bar for name, section in SECTIONS.items() if only in ("", name) for bar in section(ground))


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
