"""`edge-agent demo`: bundles compared on labelled messages, their scores and the tables."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from edge_agent.cli import demo_questions
from edge_agent.cli.demo_questions import DemoAnswer, DemoScore, LabelledMessage
from edge_agent.client import BundleRef, Classification, Failure, Timings
from edge_agent.errors import FileMissing, InvalidRequest
from edge_agent.formats.manifest import Manifest, parse
from edge_agent.statistics import share

ROWS = [
    LabelledMessage("money back", "refund"),
    LabelledMessage("how much", "price"),
    LabelledMessage("hello", "other"),
]


def manifest(name: str, *, sha256: str = "a", size: int = 1000, calibrated: bool = False) -> Manifest:
    """A classify bundle with one file of its own and one whose hash is given."""
    threshold = {"policy": "threshold", "temperature": 1.0, "threshold": 0.8, "target_risk": 0.05, "delta": 0.1}
    rest = {"n": 100, "bound": 0.04, "coverage": 0.5}
    plain = {
        "schema": "edge-agent/bundle/v1",
        "version": "1.0.0",
        "runtime": "llama",
        "task": {"name": name, "kind": "classify", "labels": ["refund", "price", "other"]},
        "artifacts": [
            {"role": "weights", "path": "w.gguf", "sha256": sha256 * 64, "size_bytes": 90_000_000},
            {"role": "adapter", "path": "a.gguf", "sha256": f"{len(name):x}".rjust(64, "f"), "size_bytes": size},
        ],
        "confidence": threshold | rest if calibrated else {"policy": "always_escalate"},
        "provenance": {"base": f"model of {name}"},
    }
    return parse(json.dumps(plain).encode())


def said(*labels: str, sure: bool = False, milliseconds: float = 2.0) -> list[DemoAnswer]:
    return [DemoAnswer(label, sure, milliseconds) for label in labels]


def shown(manifests: list[Manifest], answers: list[list[DemoAnswer]]) -> str:
    page = io.StringIO()
    demo_questions.show_comparison(Console(file=page, width=120), manifests, ROWS, answers)
    return page.getvalue()


def test_right_and_confident_answers_are_counted():
    """The score counts right answers and confident ones; a confident answer that is wrong lowers the share of right
    confident ones."""
    answers = [DemoAnswer("refund", True, 1.0), DemoAnswer("refund", True, 9.0), DemoAnswer("other", False, 2.0)]
    assert DemoScore(3, share(2, 3), 2, share(1, 2), 2.0) == demo_questions.score(ROWS, answers)


def test_messages_of_one_family_widen_the_interval():
    """The interval of a score is more than twice as wide if the errors fall into families of similar messages, because
    these are not independent."""
    alone = [LabelledMessage(str(number), "refund") for number in range(40)]
    kin = [LabelledMessage(str(number), "refund", f"family {number // 8}") for number in range(40)]
    answers = said(*["refund"] * 32, *["price"] * 8)
    first, second = (demo_questions.score(rows, answers).right for rows in (alone, kin))
    assert share(32, 40) == first
    assert first.value == second.value
    assert second.high - second.low > 2 * (first.high - first.low)


def test_sample_is_spread_and_deterministic():
    """The sample contains all rows if they are few enough, otherwise rows from the first to near the last."""
    rows = [LabelledMessage(str(number), "x") for number in range(10)]
    assert rows == demo_questions.sample(rows, 10) == demo_questions.sample(rows, 99)
    assert ["0", "3", "6"] == [row.text for row in demo_questions.sample(rows, 3)]


def test_bundle_without_one_of_the_labels_is_not_compared():
    """A bundle that lacks a label of the messages is not compared, because it could not answer correctly."""
    assert demo_questions.has_labels_for(manifest("pos-intent"), ROWS)
    assert not demo_questions.has_labels_for(manifest("pos-intent"), [*ROWS, LabelledMessage("when", "hours")])


def test_table_marks_answers_and_shortens_bundle_names():
    """The table has a column for each bundle, marks right and wrong answers, and drops the prefix that the bundles'
    names share."""
    page = shown(
        [manifest("pos-intent"), manifest("pos-intent-encoder")],
        [said("refund", "other", "other"), said("refund", "price", "other")],
    )
    assert "message     wants   pos-intent  encoder" in page
    assert "how much    price   ✗ other     ✓ price" in page
    assert "model of pos-intent " in page


def test_scores_are_shown_with_intervals():
    """The table shows a score of 2 of 3 with its wide interval, and figures for confident answers only for a bundle
    with a threshold."""
    page = shown([manifest("pos-intent")], [said("refund", "other", "other")])
    assert "67% ±45" in page
    assert "2.0 ms" in page
    assert "-                   -" in page
    sure = shown([manifest("pos-intent", calibrated=True)], [said("refund", "other", "other", sure=True)])
    assert "100%" in sure


def test_shared_file_is_not_counted_as_a_bundles_own_size():
    """A base model that two bundles share is not counted in either bundle's own size, so an adapter counts only
    itself."""
    one, other = manifest("pos-intent", size=2_000_000), manifest("few-shot", size=3_000_000)
    page = shown([one, other], [said("refund", "other", "other")] * 2)
    assert "2.0 MB" in page
    assert "3.0 MB" in page
    alone = manifest("pos-intent-encoder", sha256="b")
    assert "90.0 MB" in shown([one, alone], [said("refund", "other", "other")] * 2)


@pytest.mark.parametrize("content", ["", "[]\n", "nonsense\n", '{"text": "no label"}\n', "caf\xe9\n"])
def test_file_without_labelled_messages_is_refused(tmp_path: Path, content: str):
    """A file that is empty, not JSON lines, without labels or not UTF-8 is refused, and the error names it."""
    file = tmp_path / "rows.jsonl"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(InvalidRequest, match=r"rows\.jsonl must hold labelled messages"):
        demo_questions.read_labelled(file)


def test_labelled_messages_are_read(tmp_path: Path):
    """Other columns and blank lines in the file are ignored; a missing file and a folder are refused."""
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "money back", "label": "refund", "family": "x"}\n\n')
    assert (LabelledMessage("money back", "refund", "x"),) == demo_questions.read_labelled(file)
    with pytest.raises(FileMissing, match="does not exist"):
        demo_questions.read_labelled(tmp_path / "nothing.jsonl")
    with pytest.raises(FileMissing, match="is not a file"):
        demo_questions.read_labelled(tmp_path)


class ScriptedClient:
    """A client that has one answer for each known message and returns a failure for all others."""

    def __init__(self, answers: dict[str, tuple[str, bool]]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    def classify(
        self, task: str, texts: list[str], top_k: int, timeout_seconds: float
    ) -> list[Classification | Failure]:
        self.asked += texts
        return [self._answer(text) for text in texts]

    def _answer(self, text: str) -> Classification | Failure:
        if text not in self._answers:
            return Failure("INPUT_TOO_LONG", "too long", {})
        label, below = self._answers[text]
        return Classification(
            prediction_id="p",
            bundle=BundleRef("t", "1.0.0", "ab"),
            route="LOCAL",
            timings=Timings(0.0, 1.0, 0.0),
            device="cpu",
            degraded=(),
            input_tokens=1,
            output_tokens=0,
            label=label,
            confidence=0.9,
            threshold=0.8,
            below_threshold=below,
            scores=((label, 0.9),),
            label_mass=1.0,
        )


def test_each_message_is_sent_in_its_own_call():
    """Each message is one timed call; the first is sent once more beforehand, so that no time includes the connection
    setup."""
    client = ScriptedClient({"money back": ("refund", False), "how much": ("other", True), "hello": ("other", False)})
    counted: list[int] = []
    answers = demo_questions.classify_rows(client, "t", ROWS, counted.append)
    assert ["money back", "money back", "how much", "hello"] == client.asked
    assert [("refund", True), ("other", False), ("other", True)] == [(each.label, each.sure) for each in answers]
    assert [1, 2, 3] == counted
    assert all(each.milliseconds >= 0 for each in answers)


def test_refused_message_counts_as_wrong_and_not_confident():
    """A message that the daemon refuses counts as wrong and not confident, and the table shows the reason."""
    answers = demo_questions.classify_rows(
        ScriptedClient({"money back": ("refund", False)}), "t", ROWS, lambda _done: None
    )
    assert [("refund", True), ("INPUT_TOO_LONG", False), ("INPUT_TOO_LONG", False)] == [
        (each.label, each.sure) for each in answers
    ]
    assert "✗ INPUT_TOO_LONG" in shown([manifest("pos-intent")], [answers])


def test_table_shows_a_few_messages_of_many():
    """The table shows `SHOWN_ROWS` messages spread over all of them, while the score covers all."""
    rows = [LabelledMessage(f"message {number:03}", "refund") for number in range(100)]
    page = io.StringIO()
    answers = [said(*["refund"] * 100)]
    demo_questions.show_comparison(Console(file=page, width=120), [manifest("pos-intent")], rows, answers)
    assert demo_questions.SHOWN_ROWS == page.getvalue().count("message 0")
    assert "message 084" in page.getvalue()
    assert "100% ±2" in page.getvalue()


def test_scores_fit_80_columns():
    """In 80 columns the table shortens the model's description and wraps long headings, and no other word is broken or
    cut."""
    page, bundle = io.StringIO(), manifest("pos-intent-head", calibrated=True)
    answers = [said("refund", "price", "other", sure=True)]
    demo_questions.show_comparison(Console(file=page, width=80), [bundle], ROWS, answers)
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    words = page.getvalue().split()
    assert not {"task", "model", "confident", "median", "call", "own", "files", "MB", "pos-intent-head"} - {*words}
