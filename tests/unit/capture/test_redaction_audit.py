"""The random audit of redaction: which texts are drawn and stored, their review, and how long the original is kept."""

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
from tests.support.site_cases import SiteCase, answered

TEXT = "a refund for Anna and Grün"
BOUND = MissedBound(target=0.02, delta=0.1, n=300, families=300, values=600, values_max=2, bound=0.02, rules="2")


@pytest.fixture
def site(tmp_path: Path) -> SiteCase:
    """A site that audits every text that the model reads, with at most five stored."""
    return audited(SiteCase(tmp_path), audit_examples_max=5)


def audited(site: SiteCase, **settings: object) -> SiteCase:
    """Give a site a redaction model whose texts are audited."""
    redaction = RedactionConfig.model_validate({"task": "pii", "audit_share": 1.0, **settings})
    site.config = site.config.model_copy(update={"redaction": redaction})
    site.reopen()
    site.clock.draws = 0.0
    return site


def keep(site: SiteCase, prediction_id: str, text: str = TEXT) -> None:
    """Capture an answer in which the model found Anna."""
    start = text.index("Anna")
    findings = ModelFindings({text: (FoundValue(start, start + 4, "NAME"),)}, "pii@1.0.0")
    site.keep(answered(0, prediction_id=prediction_id, text=text, findings=findings))


def judge(site: SiteCase, prediction_id: str, *missed: MarkedSpan, wrong: tuple[int, ...] = ()) -> None:
    """Review a drawn text in a transaction."""
    with site.worker.spool.transaction():
        site.worker.redaction_audit.judge(prediction_id, missed, wrong)


def waiting(site: SiteCase, *, judged: bool = False) -> list[str]:
    """Return the predictions whose texts are stored."""
    return [each.prediction_id for each in site.worker.redaction_audit.page(0, 100, judged=judged)]


def test_drawn_text_is_stored_with_its_original(site):
    """The record has placeholders and the audit the original; after a review the text stays for training only if a
    value was missed."""
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


def test_alarm_is_raised_when_the_promised_miss_rate_is_refuted(site):
    """Missed values in text after text refute a promised 2%; another bundle starts anew, and without a promise there is
    no alarm."""
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


def test_value_that_is_not_personal_is_not_counted(site):
    """A redaction that the reviewer marks as wrong does not lower the missed share."""
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
def test_invalid_marks_are_refused(site, missed, wrong):
    """Marks outside the text, empty, overlapping, without a type, inside a redacted value or at an unknown position are
    refused."""
    keep(site, "p-1")
    with pytest.raises(InvalidRequest):
        judge(site, "p-1", *missed, wrong=wrong)
    assert ["p-1"] == waiting(site)


def test_text_can_be_reviewed_once(site):
    """A second review of a text raises PredictionUnknown."""
    keep(site, "p-1")
    judge(site, "p-1")
    with pytest.raises(PredictionUnknown):
        judge(site, "p-1")


def test_originals_are_limited_in_number_and_days(site):
    """While five originals wait no other is drawn, and after 30 calendar days they are deleted."""
    for number in range(7):
        keep(site, f"p-{number}")
    assert [f"p-{number}" for number in range(5)] == waiting(site)
    for _ in range(6):  # a clock that jumps counts as seven days at most
        site.clock.wall += 6 * 86_400
        site.clock.running += 6 * 86_400
        site.worker.do_housekeeping()
    assert [] == waiting(site)


def test_shorter_retention_of_the_task_applies_to_the_original(tmp_path):
    """An original is deleted with the retention of its task if that is shorter."""
    site = audited(SiteCase(tmp_path, retention_days={"pos-intent": 1}))
    keep(site, "p-1")
    site.clock.wall += 2 * 86_400
    site.clock.running += 2 * 86_400
    site.worker.do_housekeeping()
    assert [] == waiting(site)


def test_erasing_reaches_the_original(site):
    """Erasing by prediction or by a value deletes the original, whether redaction had missed or replaced the value."""
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
    """No original is stored by default, or if only the rules read the text."""
    site = audited(SiteCase(tmp_path), audit_share=0.0)
    keep(site, "p-1")
    assert [] == waiting(site)
    site = audited(site, without_model={"pos-intent": "rules"})
    site.keep(answered(2, text=TEXT, rules_suffice=True))
    assert [] == waiting(site)


def test_predictions_hold_no_original(site):
    """The rows of predictions, from which segments are made, have no value of a drawn text."""
    keep(site, "p-1")
    rows = site.worker.spool.db.rows("SELECT record FROM predictions")
    assert "Anna" not in json.dumps([bytes(each).decode() for (each,) in rows])


def test_status_object_has_the_figures_of_the_audit(site):
    """The signed status object has the reviewed, missed and promised numbers without any text; a bound that was proved
    with other rules is marked."""
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
