"""The random audit of redaction: what is drawn and kept, what a person says of it, and how long the original stays."""

import json
from pathlib import Path

import pytest

from edge_agent.capture.person_erasure import ScanPlace
from edge_agent.capture.redact.model_findings import FoundValue, ModelFindings
from edge_agent.capture.redaction_audit import VALUES_MAX, MarkedSpan
from edge_agent.config import RedactionConfig
from edge_agent.errors import InvalidRequest, PredictionUnknown
from edge_agent.formats import status_object
from edge_agent.formats.calibration import MissedBound
from tests.support.site_cases import ASite, answered

TEXT = "a refund for Anna and Grün"
BOUND = MissedBound(target=0.02, delta=0.1, n=300, families=300, values=600, values_max=2, bound=0.02, rules="2")


@pytest.fixture
def site(tmp_path: Path) -> ASite:
    """A site that audits every text that the model has read, five at most."""
    return audited(ASite(tmp_path), audit_examples_max=5)


def audited(site: ASite, **settings: object) -> ASite:
    """Give a site a redaction model whose texts are audited."""
    redaction = RedactionConfig.model_validate({"task": "pii", "audit_share": 1.0, **settings})
    site.config = site.config.model_copy(update={"redaction": redaction})
    site.reopen()
    site.clock.draws = 0.0
    return site


def keep(site: ASite, prediction_id: str, text: str = TEXT) -> None:
    """Keep an answer in which the model found Anna."""
    start = text.index("Anna")
    findings = ModelFindings({text: (FoundValue(start, start + 4, "NAME"),)}, "pii@1.0.0")
    site.keep(answered(0, prediction_id=prediction_id, text=text, findings=findings))


def judge(site: ASite, prediction_id: str, *missed: MarkedSpan, wrong: tuple[int, ...] = ()) -> None:
    """Judge a drawn text in a transaction."""
    with site.worker.spool.transaction():
        site.worker.redaction_audit.judge(prediction_id, missed, wrong)


def waiting(site: ASite, *, judged: bool = False) -> list[str]:
    """Return the predictions whose texts are kept."""
    return [each.prediction_id for each in site.worker.redaction_audit.page(0, 100, judged=judged)]


def test_a_drawn_text_is_kept_with_its_original_and_counted_when_it_is_judged(site):
    """The record itself has placeholders; with a missed value the text stays for training, without one it goes."""
    keep(site, "p-1")
    keep(site, "p-2")
    first = site.worker.redaction_audit.page(0, 1, judged=False)[0]
    assert (TEXT, "a refund for [NAME_1] and Grün", "pii@1.0.0") == (
        first.drawn.text, first.drawn.redacted, first.drawn.model,
    )  # fmt: skip
    assert b"Anna" not in site.worker.spool.find_prediction("p-1").record
    judge(site, "p-1", MarkedSpan(22, 26, "NAME"))
    judge(site, "p-2")
    assert ([], ["p-1"]) == (waiting(site), waiting(site, judged=True))
    figures = site.worker.redaction_audit.figures("pii@1.0.0", BOUND)
    assert (2, 3, 1, 0) == (figures.texts, figures.values, figures.missed, figures.waiting)
    assert pytest.approx(1 / 3) == figures.share.value
    assert not figures.is_exceeded


def test_the_alarm_rises_when_certainly_more_remains_than_is_promised(site):
    """Text after text with a missed value refutes 2%; another bundle begins anew, and no promise gives no alarm."""
    for number in range(12):
        keep(site, f"p-{number}")
        judge(site, f"p-{number}", MarkedSpan(22, 26, "NAME"))
        site.worker.redaction_audit.erase(f"p-{number}")
    audit = site.worker.redaction_audit
    assert audit.figures("pii@1.0.0", BOUND).is_exceeded
    report = audit.figures("pii@1.0.0", BOUND).report(BOUND)
    assert (True, False, "2") == (report.is_exceeded, report.is_proved_otherwise, report.proved_rules)
    assert not audit.figures("pii@1.0.0", None).is_exceeded
    assert (0, 0.0, 1.0) == (
        audit.figures("pii@1.1.0", BOUND).texts,
        audit.figures("pii@1.1.0", BOUND).share.low,
        audit.figures("pii@1.1.0", BOUND).share.high,
    )


def test_what_is_not_personal_is_no_value(site):
    """A replaced value that the reviewer takes back does not make the missed share smaller."""
    keep(site, "p-1")
    judge(site, "p-1", MarkedSpan(22, 26, "NAME"), wrong=(0,))
    figures = site.worker.redaction_audit.figures("pii@1.0.0", None)
    assert (1, 1, VALUES_MAX) == (figures.values, figures.missed, 5)


@pytest.mark.parametrize(
    ("missed", "wrong"),
    [
        ([MarkedSpan(22, 99, "NAME")], ()),
        ([MarkedSpan(4, 4, "NAME")], ()),
        ([MarkedSpan(22, 26, "NAME"), MarkedSpan(24, 26, "NAME")], ()),
        ([MarkedSpan(22, 26, "")], ()),
        ([MarkedSpan(13, 17, "NAME")], ()),
        ([], (1,)),
    ],
)
def test_marks_that_no_reviewer_can_have_made_are_refused(site, missed, wrong):
    """Outside of the text, empty, overlapping, without a type, inside of what was replaced, an unknown place."""
    keep(site, "p-1")
    with pytest.raises(InvalidRequest):
        judge(site, "p-1", *missed, wrong=wrong)
    assert ["p-1"] == waiting(site)


def test_a_text_that_does_not_wait_is_unknown(site):
    """A text is judged once."""
    keep(site, "p-1")
    judge(site, "p-1")
    with pytest.raises(PredictionUnknown):
        judge(site, "p-1")


def test_the_originals_are_bounded_in_number_and_days(site):
    """While five wait no other is drawn; after 30 days of the calendar they are deleted."""
    for number in range(7):
        keep(site, f"p-{number}")
    assert [f"p-{number}" for number in range(5)] == waiting(site)
    for _ in range(6):  # a clock that jumps counts as seven days at most
        site.clock.wall += 6 * 86_400
        site.clock.running += 6 * 86_400
        site.worker.do_housekeeping()
    assert [] == waiting(site)


def test_a_shorter_retention_of_the_task_counts_for_the_original(tmp_path):
    """A task that keeps answers for a day keeps no original for longer."""
    site = audited(ASite(tmp_path, retention_days={"pos-intent": 1}))
    keep(site, "p-1")
    site.clock.wall += 2 * 86_400
    site.clock.running += 2 * 86_400
    site.worker.do_housekeeping()
    assert [] == waiting(site)


def test_erasing_reaches_the_original(site):
    """By prediction, and by a value of the text, whether redaction had missed or replaced it in the record."""
    keep(site, "p-1")
    keep(site, "p-2", "Anna from Zwickau")
    with site.worker.spool.transaction():
        site.worker.erasure.erase_answer("p-1")
    assert ["p-2"] == waiting(site)
    search, found = site.worker.erasure.search(["Zwickau"]), frozenset[str]()
    for table in ("predictions", "redaction_audit"):
        found |= search.scan(site.worker.spool, ScanPlace(table))[0]
    assert {"p-2"} == found
    with site.worker.spool.transaction():
        site.worker.erasure.erase_answer("p-2")
    assert [] == waiting(site)


def test_nothing_is_drawn_without_a_share_or_a_model(tmp_path):
    """The default keeps no original, and a text that only the rules have read is not drawn."""
    site = audited(ASite(tmp_path), audit_share=0.0)
    keep(site, "p-1")
    assert [] == waiting(site)
    site = audited(site, without_model={"pos-intent": "rules"})
    site.keep(answered(2, text=TEXT, rules_suffice=True))
    assert [] == waiting(site)


def test_what_travels_has_no_original(site):
    """The rows of predictions, from which segments are made, hold no value of a drawn text."""
    keep(site, "p-1")
    rows = site.worker.spool.db.rows("SELECT record FROM predictions")
    assert "Anna" not in json.dumps([bytes(each).decode() for (each,) in rows])


def test_the_central_team_reads_the_figures_of_the_audit_without_a_text(site):
    """The signed status document says what was judged, missed and promised; without a redaction model it says nothing.

    A bound that was proved with other rules than the site's is told as such.
    """
    keep(site, "p-1")
    judge(site, "p-1", MarkedSpan(22, 26, "NAME"))
    site.clock.redactor = "pii@1.0.0", BOUND.model_copy(update={"rules": "1"})
    site.reopen().write_status()
    raw = (site.config.outbox / status_object.FILE_NAME).read_bytes()
    found = status_object.verify(raw, None).body.redaction
    assert ("pii@1.0.0", 1, 2, 1, 20_000, "1") == (
        found.model, found.texts, found.values, found.missed, found.target, found.proved_rules,
    )  # fmt: skip
    assert found.is_proved_otherwise
    assert b"Anna" not in raw
    site.config = site.config.model_copy(update={"redaction": RedactionConfig()})
    site.reopen().write_status()
    assert (
        status_object.verify((site.config.outbox / status_object.FILE_NAME).read_bytes(), None).body.redaction is None
    )
