"""Training data from collected examples: no duplicates, no learned text in calibration or test, every format."""

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
    """Collect the segments of each site; return the folder."""
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
    """Collect ten corrected texts of one site; the audit drew those with the numbers in `drawn`."""
    texts = enumerate(TEXTS, 1)
    kept = [corrected(n, text, f"label-{n % 2}", **(DRAWN if n in drawn else {})) for n, text in texts]
    return collected(root, [record for records in kept for record in records])


def made(root: Path, folder: Path, purpose: str = "reviewed", **more: Any) -> dict[str, list[dict[str, Any]]]:
    """Write a dataset; return the rows of each split."""
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


def test_newest_audit_rows_are_the_test_split(tmp_path: Path):
    """The audit's newest rows are the test split; no training row is as new as the test."""
    rows = made(tmp_path, everything(tmp_path, frozenset({3, 7, 10})))
    found = {split: [TEXTS.index(row["text"]) + 1 for row in lines] for split, lines in rows.items()}
    assert {"train": [1, 2, 4, 5, 6, 8], "calibration": [3, 7], "test": [10]} == found
    assert 1 == report(tmp_path)["left_out"]["not_drawn"]
    assert {"train": 0, "calibration": 2, "test": 1} == report(tmp_path)["audit"]["used"]


def test_without_an_audit_all_rows_are_for_training(tmp_path: Path):
    """Reviews of answers that people chose do not represent all answers, so they only train."""
    rows = made(tmp_path, everything(tmp_path))
    assert {"train": 10, "calibration": 0, "test": 0} == {split: len(lines) for split, lines in rows.items()}


def test_audit_row_has_its_sampling_probability(tmp_path: Path):
    """It is the share of kept examples times the draw probability; rows of another stream have none."""
    kept = {"kept": {"because": "routine", "share": 0.5}}
    folder = collected(
        tmp_path,
        [*corrected(1, TEXTS[0], **DRAWN, **kept), *corrected(2, TEXTS[1], at=0.5, review_stream="uncertain", **kept)],
    )
    rows = made(tmp_path, folder, shares={"train": 0.6, "calibration": 0.4})
    (drawn,), (other,) = rows["calibration"], rows["train"]
    assert ("audit", 0.125) == (drawn["review_stream"], drawn["sampling_probability"])
    assert ("uncertain", False) == (other["review_stream"], "sampling_probability" in other)


def test_training_row_similar_to_an_audit_row_is_left_out(tmp_path: Path):
    """An audit row stays and its near duplicate leaves training, so that the audit stays a random sample."""
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
def test_audit_row_with_only_a_model_label_is_for_training(tmp_path: Path, answers: str):
    """Calibration has only audit rows that people labelled."""
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


def test_report_counts_unlabelled_audit_answers(tmp_path: Path):
    """The report counts unreviewed and rejected audit answers; the command prints the unreviewed ones."""
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


def test_written_rows_are_read_by_a_recipe(tmp_path: Path):
    """The rows of text-label, prompt-completion and messages are read as a recipe reads them."""
    folder = everything(tmp_path, frozenset({7, 8}))
    for form in ("text-label", "prompt-completion", "messages"):
        made(tmp_path, folder, form=form)
        rows = read_rows(tmp_path / "data" / "train.jsonl", form)
        assert TEXTS[:6] == [row.text for row in rows]
        assert ["label-1", "label-0"] == [row.label or row.completion for row in rows[:2]]
        drawn = read_rows(tmp_path / "data" / "calibration.jsonl", form)
        assert [("audit", 0.25)] * 2 == [(row.review_stream, row.sampling_probability) for row in drawn]


def test_unreviewed_answers_require_the_sure_option(tmp_path: Path):
    """Unreviewed answers are taken only with `sure`, and only those that reached the threshold."""
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


def test_teacher_labels_require_the_opinions_option(tmp_path: Path):
    """With `opinions`, the large model's answers and later labels are taken unless a person's label differs."""
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


def test_each_row_names_its_label_source(tmp_path: Path):
    """The source is a person at the site or in Label Studio, the large model, or the bundle."""
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
def test_calibration_and_test_take_only_labels_of_people(tmp_path: Path, purpose: str, by: Any):
    """Machine labels only train; every row that is left out is counted with its reason."""

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


def test_rows_with_only_model_labels_are_all_for_training(tmp_path: Path):
    """A task that begins with a large model has no calibration; splits for people alone are refused."""
    large = {"route": "upstream", "model": "big-1"}
    folder = collected(tmp_path, [prediction(n, input=text, **large) for n, text in enumerate(TEXTS)])
    rows = made(tmp_path, folder, "opinions")
    assert {"train": 10, "calibration": 0, "test": 0} == {split: len(lines) for split, lines in rows.items()}
    with pytest.raises(InvalidRequest, match="calibration and test take labels of people only"):
        made(tmp_path, folder, "opinions", shares={"calibration": 0.5, "test": 0.5})


def test_placeholders_are_filled_and_counted_in_the_report(tmp_path: Path):
    """Placeholders of rules are filled, the same in each run; brackets that the caller wrote stay."""
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


def test_examples_of_an_older_collect_are_refused(tmp_path: Path):
    """If the columns of teacher labels are missing, the error names the older edge-convert."""
    folder = everything(tmp_path)
    (path,) = folder.glob("examples/*/*/examples.parquet")
    old = pq.read_table(path)
    pq.write_table(old.drop_columns([name for name in old.column_names if name.startswith("opinion")]), path)
    with pytest.raises(InvalidRequest, match="older edge-convert"):
        made(tmp_path, folder)


def test_near_duplicates_are_left_out(tmp_path: Path):
    """Of near duplicates with one answer, one row stays, and the others are counted."""
    long = " ".join(TEXTS[:3])
    folder = collected(
        tmp_path,
        [*corrected(1, long), *corrected(2, long.upper() + "!"), *corrected(3, long + " ok"), *corrected(4, TEXTS[5])],
    )
    assert {long, TEXTS[5]} == set(texts(made(tmp_path, folder)))
    assert 2 == report(tmp_path)["left_out"]["duplicates"]


def test_text_with_two_corrections_is_left_out(tmp_path: Path):
    """If people gave one text different answers, both rows are left out and counted."""
    folder = collected(
        tmp_path, [*corrected(1, TEXTS[0], "price"), *corrected(2, TEXTS[0], "stock"), *corrected(3, TEXTS[1])]
    )
    assert [TEXTS[1]] == texts(made(tmp_path, folder))
    assert 2 == report(tmp_path)["left_out"]["contradicted"]


def test_label_of_a_person_overrides_the_model(tmp_path: Path):
    """The model's confident answer is left out if a person corrected the same text elsewhere."""
    folder = collected(tmp_path, [prediction(1, input=TEXTS[0], sure=True), *corrected(2, TEXTS[0], "price")])
    rows = made(tmp_path, folder, "sure")
    assert [(TEXTS[0], "price")] == [(row["text"], row["label"]) for split in rows.values() for row in split]


def test_conflicting_reviews_are_left_out(tmp_path: Path):
    """An example on which reviewers disagree is not in the dataset."""
    other = feedback(1, record_id="f:9", feedback_id="f-9", reviewer="ben", value="stock")
    folder = collected(tmp_path, [*corrected(1, TEXTS[0]), other, *corrected(2, TEXTS[1])])
    assert [TEXTS[1]] == texts(made(tmp_path, folder))


def test_later_near_duplicate_of_an_earlier_split_is_left_out(tmp_path: Path):
    """A test text is left out if a near duplicate with another answer is in an earlier split."""
    long = " ".join(TEXTS[:3])
    records = [record for n, text in enumerate(TEXTS, 1) for record in corrected(n, text, **DRAWN)]
    late = corrected(12, long + " ok", "stock", at=99, **DRAWN)
    folder = collected(tmp_path, [*corrected(11, long, at=0.5, **DRAWN), *records, *late])
    rows = made(tmp_path, folder)
    assert long + " ok" not in [row["text"] for row in rows["test"]]
    assert (1, 11) == (report(tmp_path)["left_out"]["leaking"], len(texts(rows)))


def test_by_site_keeps_sites_apart(tmp_path: Path):
    """No site of the test split is in another split; a second run is equal; conflicting texts are left out."""
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


def test_too_few_sites_are_refused(tmp_path: Path):
    """One site cannot be divided into three splits by site."""
    with pytest.raises(InvalidRequest, match="1 site, and 3 splits"):
        made(tmp_path, everything(tmp_path), by="site")


words = st.lists(st.sampled_from(["red", "blue", "kettle", "cup", "how", "much", "is", "my"]), min_size=1, max_size=7)
row = st.tuples(words.map(" ".join), st.sampled_from(["price", "stock"]), st.integers(1, 50), st.integers(1, 3))


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(row, min_size=1, max_size=25), by=st.sampled_from(["time", "site"]))
def test_no_text_is_in_two_splits(tmp_path_factory: pytest.TempPathFactory, drawn, by):
    """For any examples, each row is a true label of one, and no text occurs twice or in two splits."""
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
    """Only a correction makes a preference pair; an accepted answer makes none."""
    accepted = [prediction(2, input=TEXTS[1]), feedback(2, verdict="accept", value="")]
    folder = collected(tmp_path, [*corrected(1, TEXTS[0]), *accepted])
    rows = made(tmp_path, folder, "corrected", form="preference")
    assert [("price", "refund")] == [
        (row["chosen"][0]["content"], row["rejected"][0]["content"]) for split in rows.values() for row in split
    ]


def test_unpaired_rows_are_all_judgements(tmp_path: Path):
    """Three accepted, corrected and rejected answers give four unpaired rows."""
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


def test_command_replaces_a_dataset_only_with_force(tmp_path: Path):
    """The command prints the rows; with --force it replaces a dataset, but no other folder."""
    folder, out = everything(tmp_path), tmp_path / "out"
    code, output = invoke(folder, "--format", "messages", "--out", str(out), "--shares", "train=3,test=1")
    assert (0, True) == (code, "train.jsonl: 10 rows" in output)
    assert ["dataset.json", "test.jsonl", "train.jsonl"] == sorted(path.name for path in out.iterdir())
    assert 2 == invoke(folder, "--format", "messages", "--out", str(out))[0]
    assert 0 == invoke(folder, "--format", "text-label", "--out", str(out), "--force")[0]
    assert "text" in read(out / "train.jsonl")[0]
    code, output = invoke(folder, "--format", "messages", "--out", str(tmp_path / "store"), "--force")
    assert (2, True) == (code, "does not replace" in output)


def test_command_warns_of_an_empty_split(tmp_path: Path):
    """The command warns of an empty split and lists the reasons for examples that are left out."""
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
def test_invalid_shares_are_refused(tmp_path: Path, shares: str):
    """--shares accepts only valid split names with shares above 0."""
    code, output = invoke(tmp_path, "--format", "messages", "--out", str(tmp_path / "out"), "--shares", shares)
    assert (2, True) == (code, "is not understood" in output)


def test_unknown_task_is_refused_with_the_known_ones(tmp_path: Path):
    """The error lists the tasks of the folder, and nothing is written."""
    with pytest.raises(FileMissing) as caught:
        write(DatasetSelection(everything(tmp_path), "pos-intents", "reviewed"), "messages", tmp_path / "out")
    assert "pos-intent" in caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_collection_without_reviews_is_refused(tmp_path: Path):
    """Without a review the command fails and leaves no partial folder."""
    folder = collected(tmp_path, [prediction(1)])
    with pytest.raises(InvalidRequest, match="no example that is reviewed, of 1"):
        made(tmp_path, folder)
    assert [] == list(tmp_path.glob("data*"))
