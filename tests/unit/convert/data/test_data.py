"""Rows of a recipe: how they are read, which are refused, and the warnings."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.data import row_files
from convert.data.data_row import ChatMessage, DataRow, TextSpan
from convert.data.row_lines import LINE_BYTES_MAX, format_of, read_rows
from edge_agent.errors import EdgeAgentError, FileMissing, InvalidRequest, ManifestInvalid
from tests.support.recipes import CALIBRATION, TEST, TRAIN, recipe_of, text_label


def labelled(source: str, by: str = "") -> str:
    """Return a row with a label of this source."""
    return json.dumps({"text": f"by {source}", "label": "price", "label_source": source, "labeled_by": by}) + "\n"


def test_each_format_is_read(tmp_path: Path):
    """A row of each format gives its text and its label, completion, conversation or spans."""
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    cases = [
        ("text-label", {"text": "t", "label": "l", "id": 7}, DataRow("t", label="l")),
        ("text-label", {"text": "t", "label": "l", "synthetic": True}, DataRow("t", label="l", synthetic=True)),
        ("text-label", {"text": "t", "label": "l", "family": "f"}, DataRow("t", label="l", family="f")),
        (
            "prompt-completion",
            {"prompt": "p", "completion": "c", "family": 7},
            DataRow("p", completion="c", family="7"),
        ),
        (
            "text-label",
            {"text": "t", "label": "l", "label_source": "teacher", "labeled_by": "large-1"},
            DataRow("t", label="l", label_source="teacher", labeled_by="large-1"),
        ),
        (
            "messages",
            {"messages": turns},
            DataRow(
                "u",
                completion="a",
                messages=(ChatMessage("system", "s"), ChatMessage("user", "u"), ChatMessage("assistant", "a")),
            ),
        ),
        (
            "text-spans",
            {"text": "ab cd", "spans": [{"start": 3, "end": 5, "label": "y"}, {"start": 0, "end": 2, "label": "x"}]},
            DataRow("ab cd", spans=(TextSpan(0, 2, "x"), TextSpan(3, 5, "y"))),
        ),
    ]
    for format_, plain, expected in cases:
        file = tmp_path / "rows.jsonl"
        file.write_text(f"\n{json.dumps(plain)}\n\n")
        assert read_rows(file, format_) == [expected]


def test_families_with_a_common_text_are_merged(tmp_path: Path):
    """All rows of a text get its family, and families with a common text become one, because each would count as
    separate evidence. Rows of other texts without a family stay without one."""
    rows = [("one", "b"), ("One.", None), ("two", "c"), ("two", "a"), ("three", "c"), ("four", None), ("five", "")]
    lines = (json.dumps({"text": text, "label": "l", "family": family}) + "\n" for text, family in rows)
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    found = [row.family for row in read_rows(tmp_path / "rows.jsonl", "text-label")]
    assert ["b", "b", "a", "a", "a", "", ""] == found


@pytest.mark.parametrize(
    ("format_", "line", "said"),
    [
        (
            "text-label",
            '{"text": "t", "label": "l", "family": ["f"]}',
            "rows.jsonl:2: 'family' must be text or a number",
        ),
        ("text-label", "{", "rows.jsonl:2 is not JSON"),
        ("text-label", '{"text": "\\ud83d", "label": "x"}', "rows.jsonl:2 is not JSON: a text holds half a character"),
        ("text-label", "[1]", "must be a JSON object"),
        ("text-label", '{"label": "x"}', "lacks 'text'"),
        ("text-label", '{"text": " ", "label": "x"}', "'text' must be text that is not empty"),
        ("text-label", '{"text": "t", "label": 3}', "'label' must be text"),
        ("text-label", '{"text": "t", "label": "x", "synthetic": "yes"}', "'synthetic' must be true or false"),
        ("text-label", '{"text": "t", "label": "x", "label_source": "me"}', "'label_source' must be one of reviewed, "),
        ("text-label", '{"text": "t", "label": "x", "label_source": ["model"]}', "'label_source' must be one of"),
        ("text-label", '{"text": "t", "label": "x", "labeled_by": 3}', "'labeled_by' must be text of at most 128"),
        ("prompt-completion", '{"prompt": "p"}', "lacks 'completion'"),
        ("messages", '{"messages": "hi"}', "must be a list"),
        ("messages", '{"messages": [{"role": "user", "content": "u"}]}', "must end with"),
        ("text-spans", '{"text": "t"}', "'spans' must be a list"),
        ("text-spans", '{"text": "t", "spans": [{"start": 0, "end": 2, "label": "x"}]}', "end <= 1"),
        ("text-spans", '{"text": "t", "spans": [{"start": true, "end": 1, "label": "x"}]}', "start < end"),
        (
            "text-spans",
            '{"text": "abc", "spans": [{"start": 0, "end": 2, "label": "x"}, {"start": 1, "end": 3, "label": "x"}]}',
            "overlap",
        ),
        ("text-label", '{"text": "' + "x" * LINE_BYTES_MAX + '"}', "more than 1048576 bytes"),
    ],
)
def test_invalid_row_is_named_by_file_and_line(tmp_path: Path, format_, line: str, said: str):
    """A line that is not a row of the format is refused with its place and a remedy."""
    file = tmp_path / "rows.jsonl"
    file.write_text(f"\n{line}\n")
    with pytest.raises(InvalidRequest, match=r"rows\.jsonl:2") as raised:
        read_rows(file, format_)
    assert said in raised.value.message
    assert raised.value.remedy


@pytest.mark.parametrize(
    ("format_", "line", "expected"),
    [
        ("text-label", {"text": "t", "label": "l"}, DataRow("t", label="l")),
        (
            "text-label",
            {"text": "t", "label": {"a": 0.25, "b": 0.75, "c": None}},
            DataRow("t", label="b", shares=(("a", 0.25), ("b", 0.75))),
        ),
        ("text-answers", {"text": "t", "answers": None}, DataRow("t")),
        ("text-answers", {"text": "t", "answers": {"q": {"a": None, "b": None}}}, DataRow("t")),
    ],
)
def test_null_key_counts_as_absent(tmp_path: Path, format_, line: dict, expected: DataRow):
    """pandas, datasets and DuckDB write every column into every row and every label into every distribution, with null
    as the missing value."""
    keys = ("label_source", "labeled_by", "family", "synthetic", "composed", "consented", "model", "site")
    others = (*keys, "prediction_id", "review_stream", "sampling_probability", "prompt", "messages", "spans")
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({**dict.fromkeys(others), **line}) + "\n")
    assert [expected] == read_rows(file, format_)
    if expected.label:
        assert format_of(file) == format_


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b'[\n{"text": "t", "label": "l"}\n]', "one JSON array"),
        (b'[{"text": "t", "label": "l"}]', "one JSON array"),
        (b"PAR1\x15\x04\xff\n", "Parquet"),
        (b"PK\x03\x04\x14\xff\n", "a workbook or a zip archive"),
        (gzip.compress(b'{"text": "t", "label": "l"}\n', mtime=0), "a gzip archive"),
        ('{"text": "t", "label": "l"}\n'.encode("utf-16"), "text in UTF-16"),
    ],
)
def test_file_type_other_than_jsonl_is_named(tmp_path: Path, content: bytes, kind: str):
    """The remedy names the file's apparent type, for example a JSON array, Parquet or UTF-16."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"rows\.jsonl:1") as raised:
        read_rows(file, "text-label")
    assert f"the file seems to be {kind}." in raised.value.remedy


def test_json_array_is_recognized_only_in_the_first_line(tmp_path: Path):
    """json.dump writes all rows into one line, longer than a row may be; an array in a later line is an error of that
    line."""
    file, row = tmp_path / "rows.jsonl", {"text": "t", "label": "l"}
    file.write_text(json.dumps([row] * (LINE_BYTES_MAX // 20)))
    with pytest.raises(InvalidRequest, match="has more than") as raised:
        read_rows(file, "text-label")
    assert "the file seems to be one JSON array." in raised.value.remedy
    file.write_text(json.dumps(row) + "\n[]\n")
    with pytest.raises(InvalidRequest, match=r"rows\.jsonl:2 must be a JSON object") as raised:
        read_rows(file, "text-label")
    assert "seems" not in raised.value.remedy


@given(st.binary(max_size=200))
def test_any_bytes_give_rows_or_an_error_with_a_remedy(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    """No file content makes the reader raise another exception than EdgeAgentError."""
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_bytes(content)
    try:
        assert read_rows(file, "text-label")
    except EdgeAgentError as error:
        assert error.remedy


def test_missing_split_file_is_named(tmp_path: Path):
    """A split whose file is missing or is a folder is an error that names the file."""
    written = recipe_of(tmp_path)
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(FileMissing, match=r"train\.jsonl does not exist"):
        row_files.rows(written, "train")
    (tmp_path / "train.jsonl").mkdir()
    with pytest.raises(FileMissing, match=r"train\.jsonl is not a file"):
        row_files.rows(written, "train")


def test_recipe_without_a_required_split_is_refused(tmp_path: Path):
    """The error names the missing split; a missing importance split is replaced by the training split."""
    written = recipe_of(tmp_path, train="")
    with pytest.raises(InvalidRequest, match="names no train split"):
        row_files.rows(written, "train")
    whole = recipe_of(tmp_path)
    assert row_files.rows(whole, "importance") == row_files.rows(whole, "train")


@pytest.mark.parametrize("format_", ["prompt-completion", "messages"])
def test_completion_of_a_classify_row_is_its_label(tmp_path: Path, format_: str):
    """In the formats prompt-completion and messages, the stripped completion is the label."""
    plain = {
        "prompt-completion": '{"prompt": "Money!", "completion": " refund"}',
        "messages": '{"messages": [{"role": "user", "content": "!"}, {"role": "assistant", "content": "refund "}]}',
    }[format_]
    other = plain.replace("refund", "price")
    written = recipe_of(tmp_path, format_=format_, train=f"{plain}\n{other}\n")
    assert [row.label for row in row_files.rows(written, "train")] == ["refund", "price"]


@pytest.mark.parametrize("format_", ["prompt-completion", "messages"])
def test_encoder_that_extracts_requires_spans(tmp_path: Path, format_: str):
    """Completions name no spans, so every tag would be O, and the model would be right on all words except the wanted
    ones."""
    with pytest.raises(InvalidRequest, match=f"'{format_}' names no spans") as raised:
        row_files.rows(recipe_of(tmp_path, kind="extract", format_=format_), "train")
    assert raised.value.remedy.startswith("Use text-spans, or a decoder")


@pytest.mark.parametrize(
    ("changed", "said", "remedy"),
    [
        (
            {"train": text_label(("a", "refnd"), ("b", "price"))},
            "train.jsonl:1: label 'refnd', which the task lacks",
            "mean 'refund'",
        ),
        ({"train": text_label(("a", "zzz"), ("b", "price"))}, "label 'zzz'", "The task has: refund, price, other"),
        (
            {"test": text_label(("a", "price"), ("b", "price"))},
            "every row of the test split",
            "Divide the splits again",
        ),
        ({"calibration": "\n\n"}, "calibration.jsonl has no rows", "Add examples"),
        ({"test": TRAIN}, "3 texts are in both the train and the test split", "Remove them"),
        (
            {"calibration": text_label(("  HOW much  is it", "price"), ("x", "refund"))},
            "1 text is in both the train and the calibration split, such as '  HOW much  is it'",
            "Remove them",
        ),
        ({"importance": '{"text": "Price of milk"}\n'}, "both the importance and the test split", "Remove them"),
        (
            {"test": '{"text": "a", "label": "price", "synthetic": true}\n' + TEST},
            "1 row is synthetic; the test split accepts none",
            "figures must come from real texts",
        ),
        (
            {"test": labelled("teacher", "large-1") + labelled("model", "pos-intent 1.0.0") + TEST},
            "2 rows were labelled by a machine (1 by teacher large-1, 1 by model pos-intent 1.0.0);"
            " the test split accepts only labels of people",
            "have people review them",
        ),
        (
            {"calibration": labelled("model") + CALIBRATION},
            "the calibration split accepts only labels of people",
            "review",
        ),
    ],
)
def test_splits_that_would_falsify_figures_are_refused(tmp_path: Path, changed: dict[str, str], said: str, remedy: str):
    """Overlapping, single-class, empty and synthetic splits, unknown labels and machine labels are errors with a
    remedy."""
    with pytest.raises(InvalidRequest) as raised:
        row_files.check(recipe_of(tmp_path, **changed))
    assert said in raised.value.message
    assert remedy in raised.value.remedy


FULL = "finetune: {method: full}"


def test_outlier_that_is_in_a_split_is_refused(tmp_path: Path):
    """Outliers need no label; a text that is also in a split is refused, because the model would learn to doubt it."""
    apart = recipe_of(tmp_path, sections=FULL, outliers='{"text": "Who won the cup?"}\n')
    row_files.check(apart)
    assert ["Who won the cup?"] == [row.text for row in row_files.outliers(apart)]
    common = recipe_of(tmp_path, sections=FULL, outliers='{"text": "refund please!"}\n')
    with pytest.raises(InvalidRequest, match="1 text is in both the test and the outliers split"):
        row_files.check(common)
    assert [] == row_files.outliers(recipe_of(tmp_path))


@pytest.mark.parametrize("sections", ["", "finetune: {method: lora}"])
def test_outliers_require_an_encoder_that_is_fully_trained(tmp_path: Path, sections: str):
    """A recipe with outliers is refused if its run would not learn from them."""
    with pytest.raises(InvalidRequest, match="is for an encoder that is trained to classify") as raised:
        row_files.check(recipe_of(tmp_path, sections=sections, outliers='{"text": "Who won the cup?"}\n'))
    assert "add 'finetune: {method: full}'" in raised.value.remedy


def test_format_must_fit_the_kind_of_task(tmp_path: Path):
    """A generate task refuses rows with labels."""
    with pytest.raises(InvalidRequest, match="does not fit a task of kind generate"):
        row_files.rows(recipe_of(tmp_path, kind="generate"), "train")


def test_invalid_task_file_is_named(tmp_path: Path):
    """The error of an invalid task.yaml names the file and the key."""
    written = recipe_of(tmp_path)
    (tmp_path / "task.yaml").write_text("task: {name: t, kind: clasify}\n")
    with pytest.raises(ManifestInvalid, match=r"task\.yaml: kind: "):
        row_files.rows(written, "train")


def test_spans_are_checked_against_tags(tmp_path: Path):
    """A span of an extract task must have a label of the task's BIO tags."""
    line = '{"text": "flat white", "spans": [{"start": 0, "end": 4, "label": "%s"}]}\n'
    good = recipe_of(tmp_path, kind="extract", format_="text-spans", train=line % "item")
    assert row_files.rows(good, "train")[0].spans == (TextSpan(0, 4, "item"),)
    with pytest.raises(InvalidRequest, match="label 'size', which the task lacks"):
        row_files.rows(recipe_of(tmp_path, kind="extract", format_="text-spans", train=line % "size"), "train")


def test_embed_task_and_importance_split_need_only_texts(tmp_path: Path):
    """Rows of an embed task and of the importance split are read without labels."""
    bare = '{"text": "hello"}\n'
    assert row_files.rows(recipe_of(tmp_path, kind="embed", test=bare), "test") == [DataRow("hello")]
    assert row_files.rows(recipe_of(tmp_path, importance=bare), "importance") == [DataRow("hello")]


def test_rows_of_an_embed_task_keep_family_and_probability(tmp_path: Path):
    """In a test split, a row of an embed task keeps its family, and a row without a sampling probability is left
    out."""
    drawn = '{"text": "hello", "family": "f", "review_stream": "audit", "sampling_probability": 0.5}\n'
    chosen = '{"text": "good morning", "review_stream": "uncertain"}\n'
    found = row_files.rows(recipe_of(tmp_path, kind="embed", test=drawn + chosen), "test")
    assert [DataRow("hello", family="f", review_stream="audit", sampling_probability=0.5)] == found


def test_summary_counts_rows_and_warns(tmp_path: Path):
    """The summary counts rows, labels and synthetic rows, and warns of conflicts, repeated texts, missing labels and
    too few rows."""
    train = TRAIN + '{"text": "nice DAY!", "label": "price", "synthetic": true}\n'
    summary = row_files.check(recipe_of(tmp_path, train=train, test=TEST + TEST))
    assert summary.rows == {"train": 4, "calibration": 2, "test": 4}
    assert summary.labels["train"] == {"refund": 1, "price": 2, "other": 1}
    assert summary.synthetic == {"train": 1, "calibration": 0, "test": 0}
    assert summary.warnings == (
        "1 text of the train split has conflicting labels, such as 'Nice day':"
        f" see {tmp_path}/train.jsonl:3 and {tmp_path}/train.jsonl:4.",
        "2 rows of the test split repeat a text, so its figures seem more certain than they are.",
        "The calibration split has no row of: other.",
        "The test split has no row of: other.",
        "2 calibration rows cannot prove a risk of 0.05 even without an error among them: that needs 45."
        " The bundle will always escalate.",
    )


def test_family_in_two_splits_is_a_warning(tmp_path: Path):
    """A phrasing that the model saw in training is weak evidence for unseen phrasings."""
    shared = '{"text": "%s", "label": "price", "family": "price/how-much"}\n'
    summary = row_files.check(
        recipe_of(tmp_path, train=TRAIN + shared % "how much", test=TEST + shared % "what is that")
    )
    assert summary.warnings[0].startswith("1 family of rows, such as 'price/how-much', is in both the train and")


def test_merged_family_in_two_splits_is_a_warning(tmp_path: Path):
    """The warning also covers a family that the training split merged with another one under the other's name."""
    row = '{"text": "%s", "label": "price", "family": "%s"}\n'
    summary = row_files.check(
        recipe_of(
            tmp_path,
            train=TRAIN + row % ("how much", "price/how-much") + row % ("how much", "a-sum"),
            test=TEST + row % ("what is that", "price/how-much"),
        )
    )
    assert any("such as 'price/how-much', is in both the train and" in each for each in summary.warnings)


@given(st.text().map("x{}".format), st.sampled_from(["{}", " {}\t", "{}!", "{}. "]))
def test_key_ignores_outer_spaces_and_final_punctuation(text: str, around: str):
    """Texts that differ only in outer spaces and final punctuation are one text."""
    assert DataRow(around.format(text)).key == DataRow(text).key


def test_key_keeps_inner_signs_and_earlier_turns():
    """Signs inside a text and earlier turns make another text; case and character width do not."""
    assert DataRow("set to -5").key != DataRow("set to 5").key
    assert DataRow("?").key != DataRow("!").key
    assert DataRow("\uff21\uff22\uff23").key == DataRow("abc").key
    turns = (
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "yes?"),
        ChatMessage("user", "go"),
        ChatMessage("assistant", "ok"),
    )
    assert DataRow("go", messages=turns).key != DataRow("go").key


def test_labels_are_counted_by_their_source(tmp_path: Path):
    """Machine labels are allowed in training; a row without a label source counts as imported."""
    train = TRAIN + labelled("teacher", "large-1") + labelled("reviewed", "anna")
    summary = row_files.check(recipe_of(tmp_path, train=train))
    assert {"reviewed": 1, "teacher": 1, "imported": 3} == summary.label_sources["train"]
    assert {"imported": 2} == summary.label_sources["test"]
