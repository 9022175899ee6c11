"""How collect joins records: which label takes precedence, what is deleted, and what is a duplicate."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.formats.signed_document import format_timestamp
from tests.support.examples import NOW, feedback, opinion, prediction, tombstone
from tests.support.segments import CentralTeam, Record, SealingSite

OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
WORDS = "SELECT verdict, truth, reviewer, conflict, len(reviews) FROM examples"


class CollectedSite:
    """One site and one central team."""

    def __init__(self, root: Path) -> None:
        self.store, self.central = root / "store", CentralTeam(root)
        self.site = SealingSite(self.store)

    def after(self, *segments: list[Record], query: str) -> list[tuple[Any, ...]]:
        """Seal segments, collect after each, and ask."""
        for records in segments:
            self.site.seal(records)
            self.report = self.central.collect(self.store)
        return self.central.query(query)


@pytest.fixture
def scene(tmp_path: Path) -> CollectedSite:
    return CollectedSite(tmp_path)


# --- what the large model said later ---------------------------------------------------------------------------------

THOUGHT = "SELECT opinion, opinion_why, opinion_model, truth, verdict FROM examples"


@pytest.mark.slow
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_teacher_label_has_its_own_columns_next_to_a_review(scene: CollectedSite, order: tuple[int, ...]):
    """In any order of the records, `truth` is the person's label, and the teacher label has columns of its own."""
    records = [prediction(1), feedback(1), opinion(1)]
    rows = scene.after(*([records[place]] for place in order), query=THOUGHT)
    assert [("stock", "deferred", "oracle-1", "price", "corrected")] == rows
    assert (1, 1, 1) == tuple(getattr(scene.report.tasks[0], name) for name in ("opinions", "reviewed", "with_truth"))


def test_teacher_label_alone_is_not_a_truth(scene: CollectedSite):
    """A teacher label without a review is counted once, however often it arrived, and does not wait for its
    prediction."""
    rows = scene.after([prediction(1), opinion(1)], [opinion(1), opinion(2)], query=THOUGHT)
    assert [("stock", "deferred", "oracle-1", None, None)] == rows
    assert (1, 0, 0) == tuple(getattr(scene.report.tasks[0], name) for name in ("opinions", "with_truth", "waiting"))


def test_tombstone_erases_the_teacher_label(scene: CollectedSite):
    """A tombstone also erases the teacher label of its prediction if that label arrives later."""
    kinds = "SELECT DISTINCT type FROM records"
    assert [("tombstone",)] == scene.after([prediction(1), opinion(1)], [tombstone(1)], [opinion(1)], query=kinds)


def test_large_model_probabilities_have_columns(scene: CollectedSite):
    """The probabilities of the large model's answer and of its later label have columns of their own, null if
    absent."""
    taught = {
        "route": "upstream",
        "model": "big-1",
        "output": "price",
        "teacher_scores": [["price", 0.75], ["stock", 0.25]],
    }
    records = [prediction(1, **taught), prediction(2), opinion(2, scores=[["stock", 1.0]])]
    query = "SELECT teacher_scores, opinion_scores FROM examples ORDER BY prediction_id"
    assert [
        ([{"label": "price", "score": 0.75}, {"label": "stock", "score": 0.25}], None),
        (None, [{"label": "stock", "score": 1.0}]),
    ] == scene.after(records, query=query)


def test_large_model_that_answered_is_recorded(scene: CollectedSite):
    """The column `model` names the large model if it gave the answer, and is empty otherwise."""
    rows = scene.after(
        [prediction(1, route="upstream", model="big-1"), prediction(2)], query="SELECT model FROM examples"
    )
    assert {("big-1",), ("",)} == set(rows)


# --- whose word counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([{"verdict": "accept", "value": ""}], ("accept", "refund", "anna", False, 1)),
        ([{"verdict": "reject", "value": "", "reason": "nonsense"}], ("reject", None, "anna", False, 1)),
        ([{"value": "price"}, {"value": "stock"}], ("corrected", "stock", "anna", False, 2)),
        ([{"value": "price"}, {"value": "price", "reviewer": "ben"}], ("corrected", "price", "ben", False, 2)),
        ([{"value": "price"}, {"value": "stock", "reviewer": "ben"}], ("corrected", None, "ben", True, 2)),
        ([{"value": "price"}, {"verdict": "reject", "value": "", "reviewer": "ben"}], ("reject", None, "ben", True, 2)),
        ([{"value": "refund"}, {"verdict": "accept", "reviewer": "ben"}], ("accept", "refund", "ben", False, 2)),
        (
            [{"value": "price"}, {"value": "stock", "reviewer": "ben"}, {"value": "stock"}],
            ("corrected", "stock", "anna", False, 3),
        ),
    ],
)
def test_last_review_of_each_reviewer_counts(scene: CollectedSite, said: list[dict], expected: tuple):
    """Only the last review of each reviewer counts; if reviewers disagree, there is a conflict and no truth."""
    words = [feedback(1, record_id=f"f:{turn}", feedback_id=f"f-{turn}", **each) for turn, each in enumerate(said)]
    assert [expected] == scene.after([prediction(1), *words], query=WORDS)


def test_order_of_reviews_does_not_depend_on_the_site_clock(scene: CollectedSite):
    """A second review is the later one although the clock went back a year in between."""
    second = feedback(1, record_id="f:2", feedback_id="f-2", value="stock", at=format_timestamp(NOW - 365 * 86400))
    assert [("stock",)] == scene.after([prediction(1), feedback(1)], [second], query="SELECT truth FROM examples")


def test_feedback_waits_for_its_prediction(scene: CollectedSite):
    """Feedback without its prediction is counted as waiting and joined when the prediction arrives."""
    assert [(1,)] == scene.after([feedback(1)], query="SELECT count(*) FROM records")
    assert [(0, 1)] == [(task.examples, task.waiting) for task in scene.report.tasks]
    assert [("price",)] == scene.after([prediction(1)], query="SELECT truth FROM examples")
    assert [(1, 0)] == [(task.examples, task.waiting) for task in scene.report.tasks]


def test_equal_ids_of_two_sites_are_two_predictions(tmp_path: Path):
    """The same ids at two sites are two predictions, each with its own feedback."""
    central = CentralTeam(tmp_path)
    for number, value in ((1, "price"), (2, "stock")):
        site = SealingSite(tmp_path / "store", f"site-{number}")
        site.seal([prediction(1), feedback(1, value=value)])
    central.collect(tmp_path / "store")
    assert [("site-1", "price"), ("site-2", "stock")] == central.query("SELECT site, truth FROM examples ORDER BY ALL")


def test_months_and_tasks_are_folders(scene: CollectedSite):
    """Examples are divided into folders by task and month; a date ten years ahead has a month folder of its own."""
    ahead = prediction(2, at="2036-02-29T23:59:59.123456Z")
    rows = scene.after([prediction(1), ahead, prediction(3, task="other")], query="FROM examples SELECT task, month")
    assert {("pos-intent", "2026-09"), ("pos-intent", "2036-02"), ("other", "2026-09")} == set(rows)


# --- what is forgotten ------------------------------------------------------------------------------------------------


def held(scene: CollectedSite) -> bytes:
    """Return the bytes of all collected files."""
    return b"".join(scene.central.files().values())


@pytest.mark.parametrize("order", ["together", "later", "before"])
def test_tombstone_erases_a_prediction_from_every_file(scene: CollectedSite, order: str):
    """The records of the prediction are removed from raw files and examples, whether the tombstone arrives with them,
    later or before."""
    told = [prediction(1, input="zebra crossing"), feedback(1, value="quagga"), prediction(2)]
    segments = {"together": [[*told, tombstone(1)]], "later": [told, [tombstone(1)]], "before": [[tombstone(1)], told]}
    rows = scene.after(*segments[order], query="SELECT prediction_id FROM examples")
    assert ([("p-2",)], 2) == (rows, scene.report.records_erased)
    columns = "SELECT DISTINCT type FROM records WHERE prediction_id = 'p-1'"
    assert [("tombstone",)] == scene.central.query(columns)
    assert (False, False) == (b"zebra" in held(scene), b"quagga" in held(scene))
    # The segments still count as received: nothing asks for them again.
    assert [(1, len(segments[order]))] == scene.site.received()


def test_folder_of_an_erased_task_is_removed(scene: CollectedSite):
    """After its only prediction was erased, a task has no folder, also if the prediction arrives again."""
    scene.after([prediction(1), prediction(2, task="other")], [tombstone(1)], query="FROM records")
    assert ["task=other"] == [path.name for path in (scene.central.out / "examples").iterdir()]
    scene.after([prediction(1)], query="FROM records")
    assert ["task=other"] == [path.name for path in (scene.central.out / "examples").iterdir()]


def test_tombstone_applies_to_its_own_site_only(tmp_path: Path):
    """A site cannot make the central team erase the records of another site."""
    SealingSite(tmp_path / "store", "site-1").seal([prediction(1)])
    SealingSite(tmp_path / "store", "site-2", key=OTHER_KEY).seal([prediction(1), tombstone(1)])
    central = CentralTeam(tmp_path)
    assert 1 == central.collect(tmp_path / "store").records_erased
    assert [("site-1", "p-1")] == central.query("SELECT site, prediction_id FROM examples")


# --- what counts as the same ------------------------------------------------------------------------------------------


def test_repeated_record_counts_once(tmp_path: Path):
    """A record that arrives in several segments, and also on a USB drive, is in the examples once."""
    for name in ("store", "drive"):
        site = SealingSite(tmp_path / name, epoch={"store": "0" * 16, "drive": "1" * 16}[name])
        site.seal([prediction(1), feedback(1)])
        site.seal([feedback(1), prediction(1)])
    central = CentralTeam(tmp_path)
    central.collect(tmp_path / "store", tmp_path / "drive")
    assert [("p-1", 1)] == central.query("SELECT prediction_id, len(reviews) FROM examples")


LONG = "could you please send the parcel with the blue kettle back to where it came from"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"input": LONG}, {"input": LONG.upper() + " !"}, True),
        ({"input": LONG}, {"input": LONG + " now"}, True),
        ({"input": LONG}, {"input": "how much is the fish"}, False),
        ({"input": LONG}, {"input": LONG, "output": "price"}, False),
    ],
)
def test_near_duplicates_with_the_same_answer_are_marked(scene: CollectedSite, one: dict, other: dict, same: bool):
    """The later of two equal or similar texts with the same answer names the earlier one; another answer is not a
    duplicate."""
    rows = scene.after(
        [prediction(1, **one), prediction(2, **other)],
        query="SELECT duplicate_of, count(DISTINCT cluster) OVER () FROM examples ORDER BY prediction_id",
    )
    alike = other["input"] != "how much is the fish"
    assert [(None, 2 - alike), ("site-1/p-1" if same else None, 2 - alike)] == rows


def test_reviewed_example_represents_its_duplicates(scene: CollectedSite):
    """The duplicates name the reviewed example, so a review is never left out as a duplicate."""
    same = [prediction(number, input=LONG) for number in (1, 2, 3)]
    accepted = feedback(3, verdict="accept", value="")
    rows = scene.after([*same, accepted], query="SELECT duplicate_of FROM examples ORDER BY prediction_id")
    assert [("site-1/p-3",), ("site-1/p-3",), (None,)] == rows


# --- any records in any order -----------------------------------------------------------------------------------------

numbers = st.integers(1, 4)
records = st.one_of(
    st.builds(lambda n, text: ("prediction", n, text), numbers, st.sampled_from([LONG, LONG + "!", "short", "word"])),
    st.builds(
        lambda n, who, what: ("feedback", n, (who, what)),
        numbers,
        st.sampled_from(["anna", "ben"]),
        st.sampled_from(["accept", "reject", "price", "stock"]),
    ),
    st.builds(lambda n: ("tombstone", n, None), numbers),
)


def written(steps: list[tuple[str, int, Any]]) -> list[Record]:
    """Turn drawn steps into records; each prediction id has one prediction, and each feedback is a new record."""
    made: list[Record] = []
    for turn, (kind, number, more) in enumerate(steps):
        if kind == "prediction" and not any(each.record_id == f"prediction:p-{number}" for each in made):
            made.append(prediction(number, input=more))
        elif kind == "feedback":
            verdict = more[1] if more[1] in ("accept", "reject") else "corrected"
            value = more[1] if verdict == "corrected" else ""
            ids = {"record_id": f"f:{turn}", "feedback_id": f"f-{turn}"}
            made.append(feedback(number, reviewer=more[0], verdict=verdict, value=value, **ids))
        elif kind == "tombstone":
            made.append(tombstone(number))
    return made


def expected_of(made: list[Record]) -> dict[str, tuple[str | None, bool, int]]:
    """Return the expected truth, conflict and number of reviews of each prediction, computed in plain Python."""
    forgotten = {each.prediction_id for each in made if each.type == "tombstone"}
    answers = {each.prediction_id: each.output for each in made if each.type == "prediction"}
    found = {}
    for name in answers.keys() - forgotten:
        said = [each for each in made if each.type == "feedback" and each.prediction_id == name]
        last = {each.reviewer: each for each in said}
        claims = {
            {"accept": answers[name], "corrected": each.value, "reject": None}[each.verdict] for each in last.values()
        }
        found[name] = (claims.pop() if len(claims) == 1 else None, len(claims) > 1, len(said))
    return found


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(records, min_size=1, max_size=14), cuts=st.sets(st.integers(1, 13)), late=st.integers(0, 3))
def test_join_equals_plain_python_in_any_order(tmp_path_factory, steps, cuts, late):
    """The join does not depend on how records are spread over segments, or on which segment arrives late and twice."""
    made = written(steps)
    if not made:
        return
    root = tmp_path_factory.mktemp("any")
    site, central = SealingSite(root / "store"), CentralTeam(root)
    edges = [0, *sorted(cut for cut in cuts if cut < len(made)), len(made)]
    names = [site.seal(made[start:end]) for start, end in itertools.pairwise(edges)]
    held_back = names[late % len(names)]
    drive = SealingSite(root / "drive")
    for path in (site.sealed(held_back), site.manifest(held_back)):
        path.rename(drive.folder / "segments" / path.name)
    central.collect(root / "store")
    report = central.collect(root / "store", root / "drive")
    assert [] == report.gaps
    wanted = expected_of(made)
    rows = central.query("SELECT prediction_id, truth, conflict, len(reviews) FROM examples") if wanted else []
    assert wanted == {name: tuple(more) for name, *more in rows}
    assert len(wanted) == len(rows)
