"""demo: bundles compared on labelled messages; what is counted, and how it is shown."""

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


def test_right_and_sure_answers_are_counted():
    """A sure answer that is wrong counts against the sure ones."""
    answers = [DemoAnswer("refund", True, 1.0), DemoAnswer("refund", True, 9.0), DemoAnswer("other", False, 2.0)]
    assert DemoScore(3, share(2, 3), 2, share(1, 2), 2.0) == demo_questions.score(ROWS, answers)


def test_messages_of_a_family_say_less_than_others():
    """Answers that are right or wrong by family have a wider interval than as many on their own."""
    alone = [LabelledMessage(str(number), "refund") for number in range(40)]
    kin = [LabelledMessage(str(number), "refund", f"family {number // 8}") for number in range(40)]
    answers = said(*["refund"] * 32, *["price"] * 8)
    first, second = (demo_questions.score(rows, answers).right for rows in (alone, kin))
    assert share(32, 40) == first
    assert first.value == second.value
    assert second.high - second.low > 2 * (first.high - first.low)


def test_a_sample_is_spread_and_always_the_same():
    """All rows, if they are few enough; otherwise from the first to near the last."""
    rows = [LabelledMessage(str(number), "x") for number in range(10)]
    assert rows == demo_questions.sample(rows, 10) == demo_questions.sample(rows, 99)
    assert ["0", "3", "6"] == [row.text for row in demo_questions.sample(rows, 3)]


def test_a_bundle_without_one_of_the_labels_is_not_compared():
    """It could not be right."""
    assert demo_questions.has_labels_for(manifest("pos-intent"), ROWS)
    assert not demo_questions.has_labels_for(manifest("pos-intent"), [*ROWS, LabelledMessage("when", "hours")])


def test_the_table_marks_answers_and_names_the_models_apart():
    """Each message has a column per bundle, without what all names share."""
    page = shown(
        [manifest("pos-intent"), manifest("pos-intent-encoder")],
        [said("refund", "other", "other"), said("refund", "price", "other")],
    )
    assert "message     wants   pos-intent  encoder" in page
    assert "how much    price   ✗ other     ✓ price" in page
    assert "model of pos-intent " in page


def test_the_figures_have_intervals():
    """2 of 3 right says little, and the figure says so; without a threshold nothing is said of sure answers."""
    page = shown([manifest("pos-intent")], [said("refund", "other", "other")])
    assert "67% ±45" in page
    assert "2.0 ms" in page
    assert "-                   -" in page
    sure = shown([manifest("pos-intent", calibrated=True)], [said("refund", "other", "other", sure=True)])
    assert "100%" in sure


def test_a_file_that_bundles_share_is_nobodys_own():
    """An adapter over a base that another bundle uses as well costs its own size only."""
    one, other = manifest("pos-intent", size=2_000_000), manifest("few-shot", size=3_000_000)
    page = shown([one, other], [said("refund", "other", "other")] * 2)
    assert "2.0 MB" in page
    assert "3.0 MB" in page
    alone = manifest("pos-intent-encoder", sha256="b")
    assert "90.0 MB" in shown([one, alone], [said("refund", "other", "other")] * 2)


@pytest.mark.parametrize("content", ["", "[]\n", "nonsense\n", '{"text": "no label"}\n', "caf\xe9\n"])
def test_what_holds_no_labelled_messages_is_refused(tmp_path: Path, content: str):
    """The file is named."""
    file = tmp_path / "rows.jsonl"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(InvalidRequest, match=r"rows\.jsonl must hold labelled messages"):
        demo_questions.read_labelled(file)


def test_labelled_messages_are_read(tmp_path: Path):
    """Other columns and blank lines do not matter; a folder, or what is not there, is named."""
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "money back", "label": "refund", "family": "x"}\n\n')
    assert (LabelledMessage("money back", "refund", "x"),) == demo_questions.read_labelled(file)
    with pytest.raises(FileMissing, match="does not exist"):
        demo_questions.read_labelled(tmp_path / "nothing.jsonl")
    with pytest.raises(FileMissing, match="is not a file"):
        demo_questions.read_labelled(tmp_path)


class Answering:
    """A client that knows one answer to each message, and refuses what it does not know."""

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


def test_each_message_is_a_call_of_its_own():
    """The first one is asked once more before, so that no figure holds the connection's start."""
    client = Answering({"money back": ("refund", False), "how much": ("other", True), "hello": ("other", False)})
    counted: list[int] = []
    answers = demo_questions.classify_rows(client, "t", ROWS, counted.append)
    assert ["money back", "money back", "how much", "hello"] == client.asked
    assert [("refund", True), ("other", False), ("other", True)] == [(each.label, each.sure) for each in answers]
    assert [1, 2, 3] == counted
    assert all(each.milliseconds >= 0 for each in answers)


def test_a_refused_message_is_wrong_and_not_sure():
    """It is shown by its reason."""
    answers = demo_questions.classify_rows(Answering({"money back": ("refund", False)}), "t", ROWS, lambda _done: None)
    assert [("refund", True), ("INPUT_TOO_LONG", False), ("INPUT_TOO_LONG", False)] == [
        (each.label, each.sure) for each in answers
    ]
    assert "✗ INPUT_TOO_LONG" in shown([manifest("pos-intent")], [answers])


def test_no_more_than_a_screen_of_answers_is_shown():
    """Eight messages from all over, however many were asked."""
    rows = [LabelledMessage(f"message {number:03}", "refund") for number in range(100)]
    page = io.StringIO()
    answers = [said(*["refund"] * 100)]
    demo_questions.show_comparison(Console(file=page, width=120), [manifest("pos-intent")], rows, answers)
    assert demo_questions.SHOWN_ROWS == page.getvalue().count("message 0")
    assert "message 084" in page.getvalue()
    assert "100% ±2" in page.getvalue()


def test_the_figures_fit_a_terminal_of_eighty_columns():
    """The model's description and long headings give way, and no word is broken or cut."""
    page, bundle = io.StringIO(), manifest("pos-intent-head", calibrated=True)
    answers = [said("refund", "price", "other", sure=True)]
    demo_questions.show_comparison(Console(file=page, width=80), [bundle], ROWS, answers)
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    words = page.getvalue().split()
    assert not {"task", "model", "confident", "median", "call", "own", "files", "MB", "pos-intent-head"} - {*words}
