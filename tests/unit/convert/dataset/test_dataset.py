"""Training data from collected examples: each lesson once, nothing measured on what was learnt, every format right."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from convert.cli import app
from convert.data.data_row import normalised
from convert.data.row_lines import read_rows
from convert.dataset.dataset_files import write
from convert.dataset.selection import DatasetSelection
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.errors import FileMissing, InvalidRequest
from edge_agent.formats.signed_document import format_timestamp
from tests.support.examples import NOW, feedback, opinion, prediction
from tests.support.segments import CentralTeam, Record, SealingSite

TEXTS = [
    "i want my money back for the toaster",
    "how much does a large filter coffee cost",
    "when do you close on sundays",
    "is the blue kettle in stock again",
    "please cancel order four hundred and two",
    "the receipt shows the wrong total",
    "can i pay with a gift card",
    "do you deliver to the island",
    "my parcel arrived with a broken lid",
    "which size fits a tall teenager",
]


def collected(root: Path, *sites: list[Record]) -> Path:
    """Collect what each site sealed; returns the folder."""
    for number, records in enumerate(sites, 1):
        SealingSite(root / "store", f"site-{number}").seal(records)
    central = CentralTeam(root)
    central.collect(root / "store")
    return central.out


DRAWN = {"review_stream": "audit", "sampling_probability": 0.25}


def corrected(number: int, text: str, label: str = "price", at: float = 0.0, **more: Any) -> list[Record]:
    """Return a prediction and the correction of it."""
    made = prediction(number, input=text, at=format_timestamp(NOW + 1000 * (at or number)), **more)
    return [made, feedback(number, value=label)]


def everything(root: Path, drawn: frozenset[int] = frozenset()) -> Path:
    """Collect ten corrected texts of one site, those with these numbers drawn by the audit."""
    texts = enumerate(TEXTS, 1)
    kept = [corrected(n, text, f"label-{n % 2}", **(DRAWN if n in drawn else {})) for n, text in texts]
    return collected(root, [record for records in kept for record in records])


def made(root: Path, folder: Path, purpose: str = "reviewed", **more: Any) -> dict[str, list[dict[str, Any]]]:
    """Write a dataset; returns the rows of each split, and the report under ''."""
    form = more.pop("form", "text-label")
    choice = DatasetSelection(folder, "pos-intent", purpose, **more)
    written = write(choice, form, root / "data", force=True)
    rows = {path.stem: read(path) for path in sorted((root / "data").glob("*.jsonl"))}
    assert written.rows == {split: len(lines) for split, lines in rows.items()}
    return rows


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def report(root: Path) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((root / "data" / "dataset.json").read_text())
    return plain


def texts(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    return [row["text"] for split in rows.values() for row in split]


# --- what is chosen ---------------------------------------------------------------------------------------------------


def test_the_newest_is_the_test(tmp_path: Path):
    """The audit calibrates, and tests in the newest stretch; the rest trains, but none as new as the test."""
    rows = made(tmp_path, everything(tmp_path, frozenset({3, 7, 10})))
    found = {split: [TEXTS.index(row["text"]) + 1 for row in lines] for split, lines in rows.items()}
    assert {"train": [1, 2, 4, 5, 6, 8], "calibration": [3, 7], "test": [10]} == found
    assert 1 == report(tmp_path)["left_out"]["not_drawn"]
    assert {"train": 0, "calibration": 2, "test": 1} == report(tmp_path)["audit"]["used"]


def test_only_the_audit_is_measured_on(tmp_path: Path):
    """What people chose to look at says nothing of all answers: without an audit everything trains."""
    rows = made(tmp_path, everything(tmp_path))
    assert {"train": 10, "calibration": 0, "test": 0} == {split: len(lines) for split, lines in rows.items()}


def test_a_row_carries_the_probability_with_which_it_was_drawn(tmp_path: Path):
    """The chance to be kept times the chance to be drawn; one of another stream has none."""
    kept = {"kept": {"because": "routine", "share": 0.5}}
    folder = collected(
        tmp_path,
        [*corrected(1, TEXTS[0], **DRAWN, **kept), *corrected(2, TEXTS[1], at=0.5, review_stream="uncertain", **kept)],
    )
    rows = made(tmp_path, folder, shares={"train": 0.6, "calibration": 0.4})
    (drawn,), (other,) = rows["calibration"], rows["train"]
    assert ("audit", 0.125) == (drawn["review_stream"], drawn["sampling_probability"])
    assert ("uncertain", False) == (other["review_stream"], "sampling_probability" in other)


def test_the_training_gives_way_to_the_audit(tmp_path: Path):
    """A text of the audit that was learnt, too, is left out of the training: the sample stays a random one."""
    long = " ".join(TEXTS[:3])
    folder = collected(
        tmp_path,
        [*corrected(1, long, at=0.5), *corrected(2, long + " ok", "stock", at=9, **DRAWN), *corrected(3, TEXTS[5])],
    )
    rows = made(tmp_path, folder)
    learnt, drawn = ([row["text"] for row in rows[split]] for split in ("train", "calibration"))
    assert ([TEXTS[5]], [long + " ok"]) == (learnt, drawn)
    assert 1 == report(tmp_path)["left_out"]["leaking"]


@pytest.mark.parametrize("answers", ["sure", "opinions"])
def test_no_model_s_label_is_measured_on(tmp_path: Path, answers: str):
    """An answer of the audit that only a model labelled trains at best."""
    folder = collected(
        tmp_path,
        [
            *corrected(1, TEXTS[0], **DRAWN),
            *(prediction(n, input=TEXTS[n], sure=True, **DRAWN) for n in (2, 3)),
            *(opinion(n) for n in (2, 3)),
        ],
    )
    rows = made(tmp_path, folder, answers, shares={"train": 0.5, "calibration": 0.5})
    assert (2, [TEXTS[0]]) == (len(rows["train"]), [row["text"] for row in rows["calibration"]])


def test_what_is_missing_of_the_audit_is_counted(tmp_path: Path):
    """Not reviewed, rejected without a better answer, and used: the data sheet has them, and the command says it."""
    folder = collected(
        tmp_path,
        [
            *corrected(1, TEXTS[0], **DRAWN),
            prediction(2, input=TEXTS[1], **DRAWN),
            *[prediction(3, input=TEXTS[2], **DRAWN), feedback(3, verdict="reject", value="")],
        ],
    )
    code, output = invoke(folder, "--format", "text-label", "--out", str(tmp_path / "data"))
    assert (0, True) == (code, "1 of 3 answers of the random audit are not reviewed" in " ".join(output.split()))
    names = ("drawn", "labelled", "unreviewed", "without_label", "probability_min")
    assert [3, 1, 1, 1, 0.25] == [report(tmp_path)["audit"][name] for name in names]


def test_the_recipe_reads_them(tmp_path: Path):
    """What is written is what a recipe's data section takes, in each of its formats."""
    folder = everything(tmp_path, frozenset({7, 8}))
    for form in ("text-label", "prompt-completion", "messages"):
        made(tmp_path, folder, form=form)
        rows = read_rows(tmp_path / "data" / "train.jsonl", form)
        assert TEXTS[:6] == [row.text for row in rows]
        assert ["label-1", "label-0"] == [row.label or row.completion for row in rows[:2]]
        drawn = read_rows(tmp_path / "data" / "calibration.jsonl", form)
        assert [("audit", 0.25)] * 2 == [(row.review_stream, row.sampling_probability) for row in drawn]


def test_only_what_people_said_unless_the_model_may(tmp_path: Path):
    """Unreviewed answers are taken with `sure` only, and only those that reached the threshold."""
    folder = collected(
        tmp_path,
        [
            *corrected(1, TEXTS[0]),
            prediction(2, input=TEXTS[1], sure=True),
            prediction(3, input=TEXTS[2], sure=False),
            prediction(4, input=TEXTS[3], sure=True),
            feedback(4, verdict="reject", value=""),
        ],
    )
    assert [TEXTS[0]] == texts(made(tmp_path, folder))
    assert 3 == report(tmp_path)["left_out"]["not_wanted"]
    assert {TEXTS[0], TEXTS[1]} == set(texts(made(tmp_path, folder, "sure")))


def test_the_large_model_may_teach(tmp_path: Path):
    """With `opinions`: what it answered, and what it said later; but never against a person's word."""
    folder = collected(
        tmp_path,
        [
            *corrected(1, TEXTS[0]),
            opinion(1),
            prediction(2, input=TEXTS[1]),
            opinion(2),
            prediction(3, input=TEXTS[2], route="upstream", model="big-1", output="hours"),
            prediction(4, input=TEXTS[3], sure=True),
            prediction(5, input=TEXTS[4]),
            feedback(5, verdict="reject", value=""),
            opinion(5),
            prediction(6, input=TEXTS[0] + "!"),
            opinion(6),
        ],
    )
    rows = made(tmp_path, folder, "opinions")
    assert {(TEXTS[0], "price"), (TEXTS[1], "stock"), (TEXTS[2], "hours")} == {
        (row["text"], row["label"]) for split in rows.values() for row in split
    }
    assert {TEXTS[0]} == set(texts(made(tmp_path, folder)))
    assert {TEXTS[0], TEXTS[3]} == set(texts(made(tmp_path, folder, "sure")))


def test_each_row_says_who_labelled_it(tmp_path: Path):
    """A person's confirmation or correction at the site or in Label Studio, the large model, or the bundle."""
    large = {"route": "upstream", "model": "big-1", "output": "hours"}
    folder = collected(
        tmp_path,
        [
            *corrected(1, TEXTS[0]),
            prediction(2, input=TEXTS[1]),
            feedback(2, verdict="accept", value="", reviewer="label-studio:ben@shop"),
            prediction(3, input=TEXTS[2], **large),
            prediction(4, input=TEXTS[3]),
            opinion(4),
            prediction(5, input=TEXTS[4], sure=True),
        ],
    )

    def sources(purpose: str) -> dict[str, tuple[str, str]]:
        rows = made(tmp_path, folder, purpose)
        return {
            row["prediction_id"]: (row["label_source"], row["labeled_by"]) for split in rows.values() for row in split
        }

    people = {"p-1": ("corrected", "anna"), "p-2": ("reviewed", "label-studio:ben@shop")}
    assert people == sources("reviewed")
    assert {**people, "p-3": ("teacher", "big-1"), "p-4": ("teacher", "oracle-1")} == sources("opinions")
    assert {**people, "p-5": ("model", f"pos-intent 1.0.0 {'ab' * 6}")} == sources("sure")
    counted = report(tmp_path)["label_sources"]
    assert {"corrected": 1, "reviewed": 1, "model": 1} == {s: n for each in counted.values() for s, n in each.items()}


@pytest.mark.parametrize("purpose", ["sure", "opinions"])
@pytest.mark.parametrize("by", ["time", "site"])
def test_calibration_and_test_take_what_people_labelled(tmp_path: Path, purpose: str, by: Any):
    """What a model labelled trains; where the test is, it is left out, and so is a text that people labelled."""

    def text(number: int) -> str:
        return " ".join(f"{number * prime:x}" for prime in (7919, 104729, 1299709, 15485863))

    sites = []
    for site in range(4):
        numbers = range(1 + 9 * site, 10 + 9 * site)
        people = [record for n in numbers[::3] for record in corrected(n, text(n), at=n % 9 + 1, **DRAWN)]
        machine = [n for n in numbers if (n - 1) % 3]
        when = {n: format_timestamp(NOW + 1000 * (n % 9 + 1)) for n in machine}
        sure = [prediction(n, input=text(n), sure=True, at=when[n]) for n in machine]
        sites.append([*people, *sure, *map(opinion, machine)])
    rows = made(tmp_path, collected(tmp_path, *sites), purpose, by=by)
    measured = [row["label_source"] for split in ("calibration", "test") for row in rows[split]]
    assert {"corrected"} == set(measured)
    assert all(rows.values())
    assert {"teacher", "model"} & {row["label_source"] for row in rows["train"]}
    counts = report(tmp_path)["left_out"]
    assert 36 == sum(map(len, rows.values())) + sum(
        counts[why] for why in ("duplicates", "leaking", "machine_labelled")
    )


def test_what_only_a_model_labelled_all_trains(tmp_path: Path):
    """A task that begins with a large model has no calibration yet, and a split for people alone is refused by name."""
    large = {"route": "upstream", "model": "big-1"}
    folder = collected(tmp_path, [prediction(n, input=text, **large) for n, text in enumerate(TEXTS)])
    rows = made(tmp_path, folder, "opinions")
    assert {"train": 10, "calibration": 0, "test": 0} == {split: len(lines) for split, lines in rows.items()}
    with pytest.raises(InvalidRequest, match="calibration and test take labels of people only"):
        made(tmp_path, folder, "opinions", shares={"calibration": 0.5, "test": 0.5})


def test_placeholders_become_values_that_stand_in_the_data_sheet(tmp_path: Path):
    """What a rule replaced is filled in, the same from one run to the next; what the caller wrote so stays."""
    counted = {"version": "1", "rules": ["email"], "counts": {"email": 1}}
    records = [
        *[prediction(1, input="write to [EMAIL_1] or [NOTE_1]", redaction=counted), feedback(1)],
        *[prediction(2, input="what is [CARD_1]?"), feedback(2)],
    ]
    folder = collected(tmp_path, records)
    first, second = made(tmp_path, folder, shares={"train": 1.0})["train"]
    address = first["text"].removeprefix("write to ").removesuffix(" or [NOTE_1]")
    assert ("[EMAIL_1]", 1) == (Redactor().start().text(address), first["surrogates"])
    assert ("what is [CARD_1]?", False) == (second["text"], "surrogates" in second)
    sheet = report(tmp_path)["surrogates"]
    assert {"EMAIL": 1} == sheet["filled"]
    assert {"NOTE": 1, "CARD": 1} == sheet["raw"]
    assert (["en_US"], "1", "filled") == (sheet["locales"], sheet["seed"], sheet["placeholders"])
    assert [first, second] == made(tmp_path, folder, shares={"train": 1.0})["train"]


def test_examples_of_an_older_collect_are_joined_anew(tmp_path: Path):
    """Without the columns of opinions nothing is guessed: it says to collect again."""
    folder = everything(tmp_path)
    (path,) = folder.glob("examples/*/*/examples.parquet")
    old = pq.read_table(path)
    pq.write_table(old.drop_columns([name for name in old.column_names if name.startswith("opinion")]), path)
    with pytest.raises(InvalidRequest, match="older edge-convert"):
        made(tmp_path, folder)


def test_each_lesson_is_there_once(tmp_path: Path):
    """Of the same and nearly the same texts with one answer, one stays, and the rest are counted."""
    long = " ".join(TEXTS[:3])
    folder = collected(
        tmp_path,
        [*corrected(1, long), *corrected(2, long.upper() + "!"), *corrected(3, long + " ok"), *corrected(4, TEXTS[5])],
    )
    assert {long, TEXTS[5]} == set(texts(made(tmp_path, folder)))
    assert 2 == report(tmp_path)["left_out"]["duplicates"]


def test_a_text_with_two_truths_teaches_nothing(tmp_path: Path):
    """People gave the same text different answers: both are left out and counted."""
    folder = collected(
        tmp_path, [*corrected(1, TEXTS[0], "price"), *corrected(2, TEXTS[0], "stock"), *corrected(3, TEXTS[1])]
    )
    assert [TEXTS[1]] == texts(made(tmp_path, folder))
    assert 2 == report(tmp_path)["left_out"]["contradicted"]


def test_people_overrule_the_model(tmp_path: Path):
    """The model's sure answer to a text that somebody corrected elsewhere is left out."""
    folder = collected(tmp_path, [prediction(1, input=TEXTS[0], sure=True), *corrected(2, TEXTS[0], "price")])
    rows = made(tmp_path, folder, "sure")
    assert [(TEXTS[0], "price")] == [(row["text"], row["label"]) for split in rows.values() for row in split]


def test_a_conflict_is_no_truth(tmp_path: Path):
    """What reviewers disagree about is not learnt."""
    other = feedback(1, record_id="f:9", feedback_id="f-9", reviewer="ben", value="stock")
    folder = collected(tmp_path, [*corrected(1, TEXTS[0]), other, *corrected(2, TEXTS[1])])
    assert [TEXTS[1]] == texts(made(tmp_path, folder))


def test_what_was_learnt_is_not_measured_on(tmp_path: Path):
    """A later text that is nearly one of an earlier split, with another answer, is left out of the later split."""
    long = " ".join(TEXTS[:3])
    records = [record for n, text in enumerate(TEXTS, 1) for record in corrected(n, text, **DRAWN)]
    late = corrected(12, long + " ok", "stock", at=99, **DRAWN)
    folder = collected(tmp_path, [*corrected(11, long, at=0.5, **DRAWN), *records, *late])
    rows = made(tmp_path, folder)
    assert long + " ok" not in [row["text"] for row in rows["test"]]
    assert (1, 11) == (report(tmp_path)["left_out"]["leaking"], len(texts(rows)))


def test_sites_are_kept_apart(tmp_path: Path):
    """By site: nothing of the test's sites is learnt, the same seed deals alike, common texts are not shared."""
    sites = [
        [
            record
            for n, text in enumerate(TEXTS, 1)
            for record in corrected(n, f"{text} at branch {'abcde'[s] * 9}", **(DRAWN if n > 5 else {}))
        ]
        + corrected(99, "one and the same text everywhere", f"label-{s}")
        for s in range(5)
    ]
    folder = collected(tmp_path, *sites)
    rows = made(tmp_path, folder, by="site")
    homes = {split: {row["site"] for row in lines} for split, lines in rows.items()}
    assert (1, 4) == (len(homes["test"]), len(homes["train"]))
    assert set() == homes["test"] & (homes["train"] | homes["calibration"])
    assert all(rows.values())
    assert rows == made(tmp_path, folder, by="site")
    assert "one and the same text everywhere" not in texts(rows)


def test_too_few_sites_is_said(tmp_path: Path):
    """One site cannot be three splits."""
    with pytest.raises(InvalidRequest, match="1 site, and 3 splits"):
        made(tmp_path, everything(tmp_path), by="site")


words = st.lists(st.sampled_from(["red", "blue", "kettle", "cup", "how", "much", "is", "my"]), min_size=1, max_size=7)
row = st.tuples(words.map(" ".join), st.sampled_from(["price", "stock"]), st.integers(1, 50), st.integers(1, 3))


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(row, min_size=1, max_size=25), by=st.sampled_from(["time", "site"]))
def test_no_text_is_in_two_splits(tmp_path_factory: pytest.TempPathFactory, drawn, by):
    """Whatever the examples: every row is the truth of one, no text is twice or in two splits, nothing is made up."""
    root = tmp_path_factory.mktemp("any")
    sites: list[list[Record]] = [[], [], []]
    for number, (text, label, at, site) in enumerate(drawn, 1):
        sites[site - 1] += corrected(number, text, label, at=at, **(DRAWN if number % 2 else {}))
    folder = collected(root, *filter(None, sites))
    said = {(normalised(text), label) for text, label, _, _ in drawn}
    counts = Counter(text for text, _ in said)
    torn = {text for text in counts if counts[text] > 1}
    try:
        rows = made(root, folder, by=by, shares={"train": 0.7, "test": 0.3})
    except InvalidRequest:  # nothing to learn, or one site for two splits
        assert counts.keys() == torn or by == "site"
        return
    keys = [(normalised(row["text"]), row["label"]) for split in rows.values() for row in split]
    learnt = [text for text, _ in keys]
    assert set(keys) <= said
    assert len(set(learnt)) == len(learnt)
    assert not torn & set(learnt)


# --- formats ----------------------------------------------------------------------------------------------------------


def test_preferences_are_corrections(tmp_path: Path):
    """Only what somebody corrected makes a pair: an accepted answer prefers nothing to anything."""
    accepted = [prediction(2, input=TEXTS[1]), feedback(2, verdict="accept", value="")]
    folder = collected(tmp_path, [*corrected(1, TEXTS[0]), *accepted])
    rows = made(tmp_path, folder, "corrected", form="preference")
    assert [("price", "refund")] == [
        (row["chosen"][0]["content"], row["rejected"][0]["content"]) for split in rows.values() for row in split
    ]


def test_judgements_are_everything_that_was_said(tmp_path: Path):
    """Accepted, corrected and rejected: four judgements of three answers."""
    folder = collected(
        tmp_path,
        [
            *corrected(1, TEXTS[0]),
            *[prediction(2, input=TEXTS[1]), feedback(2, verdict="accept", value="")],
            *[prediction(3, input=TEXTS[2]), feedback(3, verdict="reject", value="", reason="nonsense")],
        ],
    )
    rows = made(tmp_path, folder, "judged", form="unpaired")
    assert Counter({True: 2, False: 2}) == Counter(row["label"] for split in rows.values() for row in split)


# --- the command ------------------------------------------------------------------------------------------------------


def invoke(folder: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["dataset", str(folder), "--task", "pos-intent", *arguments])
    return result.exit_code, result.output


def test_the_command_writes_a_folder_once(tmp_path: Path):
    """It says how many rows; what is there is replaced with --force only, and only if it is a dataset."""
    folder, out = everything(tmp_path), tmp_path / "out"
    code, output = invoke(folder, "--format", "messages", "--out", str(out), "--shares", "train=3,test=1")
    assert (0, True) == (code, "train.jsonl: 10 rows" in output)
    assert ["dataset.json", "test.jsonl", "train.jsonl"] == sorted(path.name for path in out.iterdir())
    assert 2 == invoke(folder, "--format", "messages", "--out", str(out))[0]
    assert 0 == invoke(folder, "--format", "text-label", "--out", str(out), "--force")[0]
    assert "text" in read(out / "train.jsonl")[0]
    code, output = invoke(folder, "--format", "messages", "--out", str(tmp_path / "store"), "--force")
    assert (2, True) == (code, "does not replace" in output)


def test_the_command_warns_of_a_split_without_rows(tmp_path: Path):
    """Of one example there is no test; what was left out is said in words."""
    folder = collected(
        tmp_path, [*corrected(1, TEXTS[0]), *corrected(2, TEXTS[0], at=3), prediction(4, input=TEXTS[1])]
    )
    code, output = invoke(folder, "--format", "text-label", "--out", str(tmp_path / "out"))
    assert 0 == code
    lines = output.splitlines()
    assert (
        "left out of 3 examples: 1 without the review that this format needs, 1 equal or nearly equal to"
        " another" in lines
    )
    assert ["1 row"] == [line.rpartition(": ")[2] for line in lines if line.endswith(" row")]
    assert 1 == sum(line.startswith("warning: ") and "without a row" in line for line in lines)


@pytest.mark.parametrize("shares", ["", "train", "train=0", "train=x", "../x=1", "train=nan"])
def test_shares_that_are_none_are_refused(tmp_path: Path, shares: str):
    """A name must be one and a share more than nothing."""
    code, output = invoke(tmp_path, "--format", "messages", "--out", str(tmp_path / "out"), "--shares", shares)
    assert (2, True) == (code, "is not understood" in output)


def test_an_unknown_task_names_the_known_ones(tmp_path: Path):
    """A typo in the task's name is answered with what there is."""
    with pytest.raises(FileMissing) as caught:
        write(DatasetSelection(everything(tmp_path), "pos-intents", "reviewed"), "messages", tmp_path / "out")
    assert "pos-intent" in caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_nothing_to_learn_is_said(tmp_path: Path):
    """Without a review there is no training set, and no half-made folder."""
    folder = collected(tmp_path, [prediction(1)])
    with pytest.raises(InvalidRequest, match="no example that is reviewed, of 1"):
        made(tmp_path, folder)
    assert [] == list(tmp_path.glob("data*"))
