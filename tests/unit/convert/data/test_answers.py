"""Rows of a decide task: how JSONL and CSV are read, which rows are refused, and the warnings."""

import codecs
import json
from pathlib import Path

import pytest
import yaml

from convert.data import row_files
from convert.data.data_row import DataRow, RowAnswer, main_question, output_names, rows_of
from convert.data.row_lines import read_rows
from convert.pipeline import recipe
from convert.pipeline import task_file as tasks
from convert.training.training_loop import train_validation_split
from edge_agent.errors import InvalidRequest

QUESTIONS = [
    {"name": "intent", "type": "choice", "instructions": "What is it?", "labels": ["refund", "price"]},
    {"name": "urgent", "type": "predicate", "instructions": "It cannot wait."},
    {"name": "severity", "type": "score", "instructions": "How bad?", "labels": ["low", "middle", "high"]},
]
NAMES = ("intent", "urgent", "severity")


def row(text: str, **answers: object) -> str:
    return json.dumps({"text": text, "answers": answers}) + "\n"


ANSWERED = [("a b", "refund", "yes", "low"), ("c d", "price", "no", "high"), ("e f", "price", "no", "middle")]
TRAIN = "".join(row(text, intent=i, urgent=u, severity=s) for text, i, u, s in ANSWERED)
MEASURED = row("g h", intent="refund", urgent="no") + row("i j", intent="price")


def recipe_of(folder: Path, **files: str) -> recipe.Recipe:
    """Write a decide recipe; a file's name is `split` or `split_csv`."""
    files = {
        "train": TRAIN,
        "calibration": MEASURED,
        "test": MEASURED.replace("g h", "k l").replace("i j", "m"),
    } | files
    task = {"name": "desk", "kind": "decide", "questions": QUESTIONS}
    (folder / "task.yaml").write_text(yaml.safe_dump({"version": "1.0.0", "runtime": "onnx", "task": task}))
    data = {"format": "text-answers"}
    for name, text in files.items():
        split, suffix = (name.removesuffix("_csv"), "csv") if name.endswith("_csv") else (name, "jsonl")
        data[split] = f"{split}.{suffix}"
        (folder / data[split]).write_text(text)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"source": {"checkpoint": "m"}, "data": data}))
    return recipe.read(folder)


def test_row_can_answer_some_of_the_questions(tmp_path: Path):
    """An answer is a label or a distribution; an absent, null or empty answer counts as no answer."""
    file = tmp_path / "rows.jsonl"
    file.write_text(row("t", intent="refund", urgent=None, severity={"low": 0.2, "high": 0.8}, other=""))
    soft = RowAnswer("severity", "high", (("low", 0.2), ("high", 0.8)))
    assert [DataRow("t", answers=(RowAnswer("intent", "refund"), soft))] == read_rows(file, "text-answers")


def test_csv_has_a_column_for_each_question(tmp_path: Path):
    """The reader accepts Excel's byte order mark, quoted cells, empty cells, distributions and additional columns."""
    file = tmp_path / "rows.csv"
    lines = [
        "text,severity,intent,note,family,urgent",
        '"a, ""b""\nc",low,refund,x,f1,',
        'd,"{""low"": 1}",,,,no',
        ",,,,,",
    ]
    file.write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8", newline="")
    first = DataRow('a, "b"\nc', family="f1", answers=(RowAnswer("intent", "refund"), RowAnswer("severity", "low")))
    second = DataRow("d", answers=(RowAnswer("urgent", "no"), RowAnswer("severity", "low", (("low", 1.0),))))
    assert [first, second] == read_rows(file, "text-answers", questions=NAMES)
    assert ["rows.csv:2", "rows.csv:4"] == [
        Path(each.place).name for each in read_rows(file, "text-answers", questions=NAMES)
    ]


def test_empty_columns_of_a_spreadsheet_are_ignored(tmp_path: Path):
    """Excel saves empty columns without a name; the reader ignores them."""
    file = tmp_path / "rows.csv"
    file.write_text("text,label,,\nmy money,refund,,\n", encoding="utf-8-sig")
    assert [("my money", "refund")] == [(row.text, row.label) for row in read_rows(file, "text-label")]


def test_byte_order_mark_before_jsonl_is_ignored(tmp_path: Path):
    """Windows programs write a byte order mark at the start of a file; in another line it is an error."""
    file = tmp_path / "rows.jsonl"
    line = b'{"text": "my money", "label": "refund"}\n'
    file.write_bytes(codecs.BOM_UTF8 + line + line)
    assert ["my money"] * 2 == [row.text for row in read_rows(file, "text-label")]
    file.write_bytes(line + codecs.BOM_UTF8 + line)
    with pytest.raises(InvalidRequest, match=r"rows\.jsonl:2 is not JSON"):
        read_rows(file, "text-label")


def test_csv_of_a_classify_task_is_read(tmp_path: Path):
    """CSV cells of `synthetic` and `sampling_probability` get the types that they have in JSON."""
    file = tmp_path / "rows.csv"
    file.write_text("text,label,synthetic,sampling_probability\nhi,refund,TRUE,0.5\n")
    assert [DataRow("hi", label="refund", synthetic=True, sampling_probability=0.5)] == read_rows(file, "text-label")


def test_classify_row_can_have_a_distribution(tmp_path: Path):
    """The likeliest label of a distribution is the row's label."""
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": "hi", "label": {"refund": 0.25, "price": 0.75}}) + "\n")
    assert [DataRow("hi", label="price", shares=(("refund", 0.25), ("price", 0.75)))] == read_rows(file, "text-label")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "t", "answers": ["refund"]}', "'answers' must be an object"),
        ('{"text": "t", "answers": {"intent": 3}}', "the answer to 'intent' must be text, or an object"),
        ('{"text": "t", "answers": {"intent": true}}', "the answer to 'intent' must be text, or an object"),
        ('{"text": "t", "answers": {"severity": {"low": NaN}}}', "is not JSON"),
        ('{"text": "t", "answers": {"severity": {"low": -0.5, "high": 1.5}}}', "probability of 'low' must be a number"),
        ('{"text": "t", "answers": {"severity": {"low": true}}}', "probability of 'low' must be a number"),
        ('{"text": "t", "answers": {"severity": {"low": 0.5, "high": 0.4}}}', "have the sum 0.9, which must be 1"),
        ('{"text": "t", "answers": {"severity": {}}}', "have the sum 0, which must be 1"),
    ],
)
def test_invalid_answer_is_named_by_file_and_line(tmp_path: Path, line: str, said: str):
    """The message has file and line, and the error has a remedy."""
    file = tmp_path / "rows.jsonl"
    file.write_text(f"\n{line}\n")
    with pytest.raises(InvalidRequest, match=r"rows\.jsonl:2") as raised:
        read_rows(file, "text-answers")
    assert said in raised.value.message
    assert raised.value.remedy


@pytest.mark.parametrize(
    ("content", "said", "remedy"),
    [
        ("text,intent,urgnt,severity\n", "the header lacks the column 'urgent'", "Rename the column 'urgnt'"),
        (
            "text;intent;urgent;severity\n",
            "the header lacks the column 'text'",
            "separated by ';': save the file with commas",
        ),
        ("text\tintent\n", "the header lacks the column 'text'", r"separated by '\t': save the file with commas"),
        ("", "the header lacks the column 'text'; it has none", "There must be a column 'text', and 'label' or one"),
        ("text,text,intent,urgent,severity\n", "the column 'text' twice", "Rename"),
        ("text,intent,urgent,severity\na,refund\n", "rows.csv:2 has 2 cells, and the header has 4", '"quotes"'),
        ('text,intent,urgent,severity\n"a,b\n', "is not CSV in UTF-8", "CSV, UTF-8"),
        ('text,intent,urgent,severity\na,,,"{low"\n', "rows.csv:2: the distribution in 'severity' is not JSON", "row"),
        ("text,intent,urgent,severity\n", "has no rows", "Add examples"),
        ("text,intent,urgent,severity\n,refund,yes,low\n", "rows.csv:2: lacks 'text'", "row"),
    ],
)
def test_invalid_csv_is_refused_with_a_remedy(tmp_path: Path, content: str, said: str, remedy: str):
    """A missing column, a row with another number of cells and an unclosed quote are refused."""
    file = tmp_path / "rows.csv"
    file.write_text(content)
    with pytest.raises(InvalidRequest) as raised:
        read_rows(file, "text-answers", questions=NAMES)
    assert said in raised.value.message
    assert remedy in raised.value.remedy


def test_csv_cell_over_1_mib_is_refused(tmp_path: Path):
    """A CSV text can be as long as in JSONL; a longer cell is usually a missing quote, which the remedy names."""
    file = tmp_path / "rows.csv"
    file.write_text(f"text,label\n{'a' * 500_000},refund\n")
    assert [500_000] == [len(row.text) for row in read_rows(file, "text-label")]
    file.write_text('text,label\n"' + "a\n" * 1_000_000)
    with pytest.raises(InvalidRequest, match="has a cell of more than 1048576 characters") as raised:
        read_rows(file, "text-label")
    assert '"quotes"' in raised.value.remedy


def test_csv_in_another_encoding_is_refused(tmp_path: Path):
    """CSV with bytes that are not UTF-8 is refused."""
    file = tmp_path / "rows.csv"
    file.write_bytes("text,label\ncaf\u00e9,price\n".encode("latin-1"))
    with pytest.raises(InvalidRequest, match="is not CSV in UTF-8"):
        read_rows(file, "text-label")


@pytest.mark.parametrize(
    ("train", "said", "remedy"),
    [
        (row("x", intnt="refund"), r"train\.jsonl:4: the task has no question 'intnt'", "Did you mean 'intent'?"),
        (row("x", intent="refunds"), r"train\.jsonl:4: 'refunds' is not an answer to 'intent'", "mean 'refund'?"),
        (
            row("x", urgent="maybe"),
            "'maybe' is not an answer to 'urgent'",
            "are: no, yes. Correct that row.",
        ),
        (row("x", severity={"huge": 1.0}), "'huge' is not an answer to 'severity'", ", or add it to task.yaml."),
    ],
)
def test_unknown_question_or_answer_is_refused(tmp_path: Path, train: str, said: str, remedy: str):
    """The error names the row and the nearest valid name."""
    with pytest.raises(InvalidRequest, match=said) as raised:
        row_files.check(recipe_of(tmp_path, train=TRAIN + train))
    assert remedy in raised.value.remedy


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (row("x", intent="refund") + row("y", intent="price"), "no row of the training split answers 'urgent'"),
        (TRAIN.replace('"yes"', '"no"'), "all 3 rows that answer 'urgent' have the answer 'no'"),
    ],
)
def test_question_without_two_different_answers_is_refused(tmp_path: Path, train: str, said: str):
    """A question without a labelled row, or with only one answer in all rows, cannot be learned."""
    with pytest.raises(InvalidRequest, match=said):
        row_files.rows(recipe_of(tmp_path, train=train), "train")


def test_decide_task_requires_the_text_answers_format(tmp_path: Path):
    """A decide task refuses rows in another format."""
    written = recipe_of(tmp_path)
    data = written.data.model_copy(update={"format": "text-label"})
    with pytest.raises(InvalidRequest, match="does not fit a task of kind decide"):
        row_files.rows(written.model_copy(update={"data": data}), "train")


def test_summary_counts_answers_and_warns_of_too_few_rows(tmp_path: Path):
    """The summary counts each answer, and warns of a question with too few calibration rows for its part of delta."""
    summary = row_files.check(recipe_of(tmp_path))
    assert {"intent/refund": 1, "intent/price": 2, "urgent/no": 2} == {
        name: count
        for name, count in summary.labels["train"].items()
        if name in ("intent/refund", "intent/price", "urgent/no")
    }
    # ln(0.1 / 3) / ln(0.95) is 66.3.
    proof = "cannot prove a risk of 0.05 even without an error among them: that needs 67."
    said = f"0 calibration rows that answer 'severity' {proof} 'severity' will always escalate."
    assert said in summary.warnings
    assert (
        "The calibration split has no row of: urgent/yes, severity/low, severity/middle, severity/high."
        in summary.warnings
    )


def test_task_with_only_open_questions_is_refused(tmp_path: Path):
    """With `open_questions` alone a bundle has no threshold: the message names the command that makes such a bundle."""
    empty = {split: row(f"{split} text") for split in ("train", "calibration", "test")}
    written = recipe_of(tmp_path, **empty)
    prompt = {"template": "{input}\n{question}\n"}
    task = {"name": "desk", "kind": "decide", "open_questions": True, "prompt": prompt}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({"version": "1.0.0", "runtime": "llama", "task": task}))
    with pytest.raises(InvalidRequest, match="takes its questions only from calls") as refused:
        row_files.check(written)
    assert "edge-convert assemble" in refused.value.remedy


def test_questions_without_enough_rows_take_no_part_of_delta(tmp_path: Path):
    """60 rows for each of two of three questions suffice, because the third question has too few rows to take a part of
    delta."""
    texts = [f"{first}{second}" for first in "abcdefgh" for second in "qrstuvwxyz"][:60]
    rows = "".join(row(f"wanted {text}", intent="refund", urgent="no") for text in texts)
    warnings = row_files.check(recipe_of(tmp_path, calibration=rows)).warnings
    unproved = [said for said in warnings if "cannot prove" in said]
    assert ["'severity'"] == [said.split()[5] for said in unproved]


def test_conflicting_labels_are_answers_to_the_same_question(tmp_path: Path):
    """Two rows with one text that answer different questions do not conflict."""
    more = row("n", urgent="yes") + row("n", intent="price")
    assert not any("conflicting" in said for said in row_files.check(recipe_of(tmp_path, train=TRAIN + more)).warnings)
    torn = TRAIN + more + row("n", intent="refund")
    assert (
        f"1 text of the train split has conflicting labels, such as 'n': see {tmp_path}/train.jsonl:5 and"
        f" {tmp_path}/train.jsonl:6." in row_files.check(recipe_of(tmp_path, train=torn)).warnings
    )


def test_question_gets_its_rows_with_the_answer_as_label(tmp_path: Path):
    """A question gets the rows that answer it, and the task's outputs are named QUESTION/OUTPUT."""
    written = recipe_of(tmp_path)
    task = tasks.of(tmp_path)
    rows = row_files.rows(written, "calibration")
    assert [(0, "no")] == [(place, each.label) for place, each in rows_of(task, task.questions_asked[1], rows)]
    assert ("intent/refund", "intent/price", "urgent/no") == output_names(task)[:3]
    assert "intent" == main_question(task).name


def test_validation_rows_are_drawn_by_the_first_answer():
    """Validation rows are stratified by the label of the first answer."""
    rows = [DataRow(f"t{n}", answers=(RowAnswer("urgent", "yes" if n % 4 else "no"),)) for n in range(40)]
    kept = train_validation_split(rows, 0.25, seed=1)
    assert (10, {"yes", "no"}) == (len(kept.validation), {each.answers[0].label for each in kept.validation})
