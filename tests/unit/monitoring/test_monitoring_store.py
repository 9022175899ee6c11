"""Counts of answers and of feedback: once, by bundle and day, and limited."""

from datetime import UTC, datetime

import pytest

from edge_agent.formats.manifest import Manifest
from edge_agent.monitoring import monitoring_tables
from edge_agent.monitoring.monitoring_store import LARGE_MODEL, PEOPLE, HumanLabel, TeacherLabel
from tests.support.examples import DIGEST
from tests.support.site_cases import PREDICTION, SiteCase, answered, judgement, manifest

DAY = 86_400.0
CALIBRATED = {
    **{"policy": "threshold", "temperature": 1.0, "threshold": 0.9, "target_risk": 0.05, "delta": 0.1},
    **{"n": 400, "bound": 0.04, "coverage": 0.7, "novelty": {"label_mass_min": 0.2}},
}
SURE = {"scores": [("refund", 0.95), ("price", 0.05)], "confidence": 0.95, "sure": True, "reasons": ("SURE",)}
SHADOW = {**SURE, "route": "upstream", "reasons": ("MODE_SHADOW",), "model": "large-1"}


def calibrated(**changes) -> Manifest:
    return manifest().model_copy(update={"confidence": _confidence(**changes)})


def _confidence(**changes):
    plain = {**manifest().model_dump(by_alias=True), "confidence": {**CALIBRATED, **changes}}
    return Manifest.model_validate(plain).confidence


@pytest.fixture
def site(tmp_path) -> SiteCase:
    return SiteCase(tmp_path)


def sure(number: int, **changes):
    return answered(number, manifest=calibrated(), **{**SURE, **changes})


def shadowed(number: int, theirs: str, **changes):
    return answered(number, manifest=calibrated(), teacher_answer=theirs, **{**SHADOW, **changes})


def only(site: SiteCase):
    (series,) = site.worker.monitoring.report("pos-intent")
    return series


def standing(site: SiteCase) -> list[str]:
    return [alarm.alarm for alarm in site.worker.monitoring.active_alarms()]


def test_answers_are_counted_by_day_route_and_reason(site):
    """A day has its answers by route and reason; the next day begins with the clock."""
    site.keep(sure(1), answered(2, manifest=calibrated(), reasons=("BELOW_THRESHOLD",)))
    site.clock.wall += DAY
    site.keep(sure(3))
    first, second = only(site).days.values()
    assert {
        **{"answers": 2, "graded": 2, "confident": 1, "sure": 1, "route:local": 2},
        **{"reason:SURE": 1, "reason:BELOW_THRESHOLD": 1},
    } == first
    assert {"answers": 1, "graded": 1, "confident": 1, "sure": 1, "route:local": 1, "reason:SURE": 1} == second


def test_confident_answer_to_an_unusual_input_is_not_covered(site):
    """It counts as confident and not as below the threshold, although the risk guarantee does not cover it."""
    site.keep(sure(1, reasons=("SURE", "INPUT_LENGTH_UNUSUAL")))
    assert {
        **{"answers": 1, "graded": 1, "confident": 1, "unusual": 1, "route:local": 1, "reason:SURE": 1},
    } == dict(next(iter(only(site).days.values())))


@pytest.mark.parametrize(
    ("reason", "at_least"), [("OUT_OF_DISTRIBUTION", 0), ("BELOW_THRESHOLD", 80), ("BELOW_FLOOR", 80)]
)
def test_held_up_answers_are_counted_by_limit(site, reason, at_least):
    """A day has the number of answers that each limit held up; an answer held up by the gate counts below every
    threshold."""
    scores = [("refund", 0.8), ("price", 0.2)]
    held_up = {"scores": scores, "confidence": 0.8, "sure": False, "reasons": (reason,), "held_up": reason}
    site.keep(sure(1), sure(2, **held_up), shadowed(3, "refund", **{**held_up, "reasons": ("MODE_SHADOW", reason)}))
    (day,) = only(site).days.values()
    assert {f"held_up:{reason}": 2} == {name: number for name, number in day.items() if name.startswith("held_up:")}
    found = {each.hundredths: (each.answers, each.pairs) for each in only(site).confidences}
    assert {95: (1, 0), at_least: (2, 1)} == found


def test_feedback_on_a_held_up_answer_counts_at_confidence_zero(site):
    """Feedback and comparisons of an answer that the gate held up count at confidence 0, so they change no
    threshold."""
    site.clock.draws = 0.0
    reasons = ("MODE_SHADOW", "OUT_OF_DISTRIBUTION")
    site.keep(shadowed(1, "price", reasons=reasons, sure=False, held_up="OUT_OF_DISTRIBUTION"))
    prediction = {**WAYS, "reason": " ".join(reasons), "output": "price", "sure": False}
    site.judge(judgement(1, **ACCEPT), prediction=kept(1, **prediction))
    (found,) = only(site).confidences
    assert (0, 1, 1, 1) == (found.hundredths, found.answers, found.pairs, found.reviewed)


def gated(number: int, p_value: float):
    gate = {"score": "label_mass", "held_up_max": 0.03, "scores": [each / 100 for each in range(400)]}
    said = calibrated(gate=gate, coverage=1.0)
    return answered(number, manifest=said, p_value=p_value, **SURE)


def test_more_inputs_outside_the_gate_raise_an_alarm(site):
    """More small p-values than chance explains raise an alarm with the date of its start, which ends when they do."""
    site.keep(*(gated(each, (1 + each * 37 % 401) / 401) for each in range(400)))
    assert [] == standing(site)
    site.clock.wall += DAY
    site.keep(*(gated(1000 + each, 1 / 401) for each in range(40)))
    (alarm,) = site.worker.monitoring.active_alarms()
    assert "new_inputs" == alarm.alarm
    began = datetime.fromtimestamp(site.clock.wall, UTC).strftime("%Y-%m-%d")
    assert alarm.message.startswith(f"since {began} about ")
    assert "40 of 40 have" in alarm.message
    site.keep(*(gated(2000 + each, (1 + each * 37 % 401) / 401) for each in range(1200)))
    assert [] == standing(site)


def test_the_evidence_of_new_inputs_survives_a_restart(site):
    """Two consecutive processes find what one would have found."""
    site.keep(*(gated(each, 1 / 401) for each in range(4)))
    site.reopen()
    assert [] == standing(site)
    site.keep(*(gated(10 + each, 1 / 401) for each in range(4)))
    (alarm,) = site.worker.monitoring.active_alarms()
    assert "8 of 8 have" in alarm.message


def test_alarm_level_of_a_task(tmp_path):
    """A stricter level of a task takes more evidence for the same alarm."""
    site = SiteCase(tmp_path, new_inputs_level={"pos-intent": 1e-9})
    site.keep(*(gated(each, 1 / 401) for each in range(8)))
    assert [] == standing(site)
    site.keep(*(gated(100 + each, 1 / 401) for each in range(40)))
    assert ["new_inputs"] == standing(site)


def test_repeated_answer_is_counted_once(site):
    """An answer that the spool already has is not counted again."""
    site.keep(sure(1), sure(1))
    site.keep(sure(1))
    assert 1 == only(site).days[int(site.clock.wall // DAY)]["answers"]


def test_local_and_large_model_are_compared_by_label(site):
    """In shadow each pair counts under the local label, and a disagreement is stored with its prediction."""
    site.keep(shadowed(1, "refund"), shadowed(2, "price"), shadowed(3, "refund"))
    series = only(site)
    ((agreed),) = series.agreement
    assert ("shadow", "refund", 3, 2) == (agreed.source, agreed.label, agreed.pairs, agreed.agreed)
    (found,) = series.disagreements
    assert ("p-2", "refund", "price", 0.95) == (found.prediction_id, found.ours, found.theirs, found.confidence)
    assert (3, 2) == (series.confidences[0].pairs, series.confidences[0].agreed)
    evidence = series.evidence[LARGE_MODEL]
    assert (3, 1) == (evidence.judged, evidence.wrong)


def test_escalated_answers_are_compared_separately(site):
    """Answers that were escalated for low confidence are compared separately and are no evidence on the guarantee."""
    site.keep(shadowed(1, "price", reasons=("BELOW_THRESHOLD",), sure=False, confidence=0.5))
    series = only(site)
    assert ["escalated"] == [each.source for each in series.agreement]
    assert (0, 0) == (series.evidence[LARGE_MODEL].judged, series.confidences[0].pairs)


def test_records_are_compared_by_their_fields(site):
    """Two records with the same fields agree, whatever their formatting, and no value is stored."""
    same = {"manifest": manifest("visit"), "scores": (), "model": "large-1", "route": "upstream"}
    site.keep(
        answered(
            1, teacher_answer='{"DRUG": ["x"], "PATIENT": []}', local_answer='{"PATIENT": [], "DRUG": ["x"]}', **same
        ),
        answered(2, teacher_answer='{"DRUG": ["Secretol"]}', local_answer='{"DRUG": []}', **same),
    )
    (series,) = site.worker.monitoring.report("visit")
    assert [("escalated", "", 2, 1)] == [(e.source, e.label, e.pairs, e.agreed) for e in series.agreement]
    assert [("p-2", "", "")] == [(e.prediction_id, e.ours, e.theirs) for e in series.disagreements]


def kept(number: int, **changes):
    """Return the record of a confident answer as the spool stores it."""
    record = {**PREDICTION, "input": "", "output": "refund", "sure": True, "confidence": 0.95, "reason": "SURE"}
    return {**record, "prediction_id": f"p-{number}", **changes}


@pytest.mark.parametrize(
    ("said", "prediction", "judged", "wrong"),
    [
        ({"verdict": "accept", "value": ""}, {}, 1, 0),
        ({"verdict": "corrected", "value": "price"}, {}, 1, 1),
        ({"verdict": "reject", "value": ""}, {}, 1, 1),
        # The large model's answer was given, and people judged that one.
        ({"verdict": "accept", "value": ""}, {"output": "price", "model": "m"}, 1, 1),
        ({"verdict": "corrected", "value": "refund"}, {"output": "price", "model": "m"}, 1, 0),
        ({"verdict": "reject", "value": ""}, {"output": "price", "model": "m"}, 0, 0),
        # Of these the bundle promises nothing.
        ({"verdict": "corrected", "value": "price"}, {"sure": False}, 0, 0),
        ({"verdict": "corrected", "value": "price"}, {"reason": "INPUT_LENGTH_UNUSUAL"}, 0, 0),
    ],
)
def test_feedback_on_a_confident_answer_is_evidence(site, said, prediction, judged, wrong):
    """Feedback is evidence if the answer was confident and the feedback says whether it was right."""
    site.clock.draws = 0.0
    site.keep(sure(1, sure=prediction.get("sure", True), reasons=(prediction.get("reason", "SURE"),)))
    site.judge(judgement(1, **said), prediction=kept(1, **prediction))
    evidence = only(site).evidence[PEOPLE]
    assert (judged, wrong) == (evidence.judged, evidence.wrong)


def test_only_the_first_feedback_is_evidence(site):
    """A second feedback on an answer, or a repeated request, is no further evidence."""
    site.clock.draws = 0.0
    site.keep(sure(1))
    for number in (1, 1, 2):
        said = judgement(1, feedback_id=f"f-{number}", request_id=f"r-{number}")
        site.judge(said, prediction=kept(1))
    counts = only(site).days[int(site.clock.wall // DAY)]
    assert (2, 1, 1, 1) == (counts["said:corrected"], counts["reviewed"], counts["checked"], counts["wrong"])


def test_feedback_on_an_answer_outside_the_audit_is_no_evidence(site):
    """Feedback on an answer that a person chose counts as reviewed and says nothing about all answers."""
    for number in range(30):
        site.keep(sure(number))
        site.judge(judgement(number), prediction=kept(number))
    assert (0, 0, 0) == (only(site).evidence[PEOPLE].judged, only(site).evidence[PEOPLE].unjudged, len(standing(site)))
    counts = only(site).days[int(site.clock.wall // DAY)]
    assert (30, None) == (counts["reviewed"], counts.get("checked"))


def test_audited_answers_are_weighed_in_the_order_of_their_draw(site):
    """Feedback on an audited answer waits for that on the answers drawn before it, because wrong answers are often
    reported first."""
    site.clock.draws = 0.0
    site.keep(*(sure(number) for number in range(30)))
    for number in range(1, 30):
        site.judge(judgement(number), prediction=kept(number))
    assert (0, []) == (only(site).evidence[PEOPLE].judged, standing(site))
    site.judge(judgement(0, **ACCEPT), prediction=kept(0))
    assert (30, 29, ["errors"]) == (*judged_wrong(site), standing(site))


def test_audited_answer_without_feedback_counts_as_right(site):
    """An audited answer that expires without feedback is no evidence against the guarantee and is counted
    separately."""
    site.clock.draws = 0.0
    site.keep(*(sure(number) for number in range(30)))
    site.worker.seal_all()
    for number in range(1, 30, 2):
        site.judge(judgement(number), prediction=kept(number))
    site.clock.running += site.config.examples.window_seconds + 1
    site.worker.do_housekeeping()
    evidence = only(site).evidence[PEOPLE]
    assert (15, 15, 15, ["errors"]) == (evidence.judged, evidence.wrong, evidence.unjudged, standing(site))
    assert ", 15 more were not judged;" in site.worker.monitoring.active_alarms()[0].message
    assert [] == site.worker.spool.db.rows("SELECT * FROM review_audit")


def test_evidence_of_an_earlier_agent_is_discarded(site):
    """An earlier agent weighed answers that people had chosen, so its evidence is not continued."""
    site.keep(sure(1))
    with site.worker.spool.transaction():
        site.worker.spool.db.execute("INSERT INTO field_tests SELECT series, 'people', ? FROM field_series", (_OLD,))
    assert 0 == only(site).evidence[PEOPLE].judged


_OLD = '{"judged": 50, "wrong": 40, "peak": 9.0, "allowed": 0.0}'


def judged_wrong(site) -> tuple[int, int]:
    evidence = only(site).evidence[PEOPLE]
    return evidence.judged, evidence.wrong


def test_many_corrections_refute_the_guarantee(site):
    """If people correct confident answers much more often than guaranteed, the alarm is raised with the figures."""
    site.clock.draws = 0.0
    for number in range(30):
        site.keep(sure(number))
        verdict = {"verdict": "corrected"} if number % 3 == 0 else {"verdict": "accept", "value": ""}
        site.judge(judgement(number, **verdict), prediction=kept(number))
    (alarm,) = site.worker.monitoring.active_alarms()
    assert "errors" == alarm.alarm
    assert alarm.message.startswith("people found ")
    assert alarm.message.endswith("the bundle promises 5% at most")


def reviewed_bootstrap(site: SiteCase, right: int, wrong: int) -> None:
    """Let people review answers of the large model before there was a local one."""
    for number in range(right + wrong):
        site.keep(
            answered(number, local_answer=None, teacher_answer="refund", confidence=None, route="upstream", scores=())
        )
        site.worker.monitoring.count_human_label(
            {**PREDICTION, "prediction_id": f"p-{number}", "output": "refund", "route": "upstream", "model": "large-1"},
            HumanLabel(
                {"verdict": "accept" if number < right else "corrected", "value": "price"}, first=True, drawn=True
            ),
            site.clock.wall,
        )


@pytest.mark.parametrize(("right", "wrong", "alarms"), [(94, 6, []), (89, 6, ["opinions"]), (0, 0, ["opinions"])])
def test_errors_of_the_large_model_are_allowed_for(site, right: int, wrong: int, alarms: list[str]):
    """With 6 of 100 known errors of the large model, its contradicting 9% of the confident answers does not refute a
    guarantee of 5%."""
    reviewed_bootstrap(site, right, wrong)
    theirs = ["price" if number % 11 == 10 else "refund" for number in range(440)]
    site.keep(*(shadowed(1000 + number, said, digest="d" * 64) for number, said in enumerate(theirs)))
    series = next(each for each in site.worker.monitoring.report("pos-intent") if each.digest == "d" * 64)
    assert (440, 40) == (series.evidence[LARGE_MODEL].judged, series.evidence[LARGE_MODEL].wrong)
    assert alarms == [name for name in standing(site) if name == "opinions"]
    allowed = series.evidence[LARGE_MODEL].allowed
    assert (0.0 if alarms else pytest.approx(0.1152, abs=0.001)) == allowed


def test_allowance_for_the_large_model_is_fixed_before_the_first_comparison(site):
    """Later feedback does not change the allowance, because a hypothesis that moves with the data proves nothing."""
    site.keep(shadowed(1000, "refund", digest="d" * 64))
    reviewed_bootstrap(site, 50, 60)
    site.keep(shadowed(1001, "refund", digest="d" * 64))
    series = next(each for each in site.worker.monitoring.report("pos-intent") if each.digest == "d" * 64)
    assert (2, 0.0) == (series.evidence[LARGE_MODEL].judged, series.evidence[LARGE_MODEL].allowed)


def test_only_teacher_labels_of_the_audit_are_evidence(site):
    """A teacher label of the random audit is weighed; one that was deferred for low confidence is only compared."""
    site.keep(sure(1), sure(2))
    with site.worker.spool.transaction():
        site.worker.monitoring.count_teacher_label(kept(1), TeacherLabel("price", "audit"), site.clock.wall)
        site.worker.monitoring.count_teacher_label(kept(2), TeacherLabel("price", "deferred"), site.clock.wall)
    series = only(site)
    assert [("audit", 1, 0), ("deferred", 1, 0)] == [(e.source, e.pairs, e.agreed) for e in series.agreement]
    assert 1 == series.evidence[LARGE_MODEL].judged


ACCEPT, REJECT = {"verdict": "accept", "value": ""}, {"verdict": "reject", "value": ""}
CORRECTED = {"verdict": "corrected", "value": "refund"}
WAYS = {"route": "upstream", "model": "large-1", "reason": "MODE_SHADOW"}


@pytest.mark.parametrize(
    ("theirs", "said", "expected"),
    [
        ("refund", ACCEPT, (1, 1, 1)),  # both are right
        ("refund", {"verdict": "corrected", "value": "stock"}, (1, 1, 0)),  # both err alike
        ("price", ACCEPT, (1, 0, 0)),
        ("price", CORRECTED, (1, 0, 1)),  # the large model erred
        ("price", REJECT, (0, 0, 0)),  # so that nobody knows what is right
    ],
)
def test_feedback_in_shadow_is_counted_with_both_models(site, theirs, said, expected):
    """The first feedback on a shadow answer counts by the local confidence, beside the answers of both models."""
    site.clock.draws = 0.0
    site.keep(shadowed(1, theirs))
    for number in range(2):
        judged = judgement(1, feedback_id=f"f-{number}", request_id=f"r-{number}", **said)
        site.judge(judged, prediction=kept(1, output=theirs, **WAYS))
    site.reopen()
    (found,) = only(site).confidences
    assert (95, 1, theirs == "refund") == (found.hundredths, found.pairs, found.agreed)
    assert expected == (found.reviewed, found.reviewed_agreed, found.right)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(("why", "expected"), [("audit", (1, 0, 1)), ("deferred", (0, 0, 0))])
def test_feedback_and_audit_are_counted_together_in_any_order(site, before, why, expected):
    """Feedback before or after a teacher label of the audit counts once; with a label deferred for low confidence it
    does not count."""
    site.clock.draws = 0.0
    site.keep(sure(1, later=why))
    if before:
        site.judge(judgement(1, **ACCEPT), prediction=kept(1))
    asked = site.worker.next_question(("pos-intent",))
    with site.worker.spool.transaction():
        assert site.worker.store_teacher_label(asked, "price", "large-1", calibrated())
    if not before:
        site.judge(judgement(1, **ACCEPT), prediction=kept(1))
    (found,) = only(site).confidences
    assert expected == (found.reviewed, found.reviewed_agreed, found.right)


def test_feedback_on_one_model_alone_is_no_comparison(site):
    """Feedback counts for no comparison if the large model was not asked, or only because of low confidence."""
    site.clock.draws = 0.0
    doubt = {"reasons": ("BELOW_THRESHOLD",), "sure": False, "confidence": 0.5}
    site.keep(sure(1), shadowed(2, "price", **doubt))
    site.judge(judgement(1, **ACCEPT), prediction=kept(1))
    site.judge(judgement(2, **CORRECTED), prediction=kept(2, output="price", **{**WAYS, "reason": "BELOW_THRESHOLD"}))
    assert [0, 0] == [each.reviewed for each in only(site).confidences]


def test_fewer_confident_answers_raise_an_alarm(site):
    """If no answer is confident where calibration had 70%, the first full window raises the alarm with both shares."""
    site.keep(*(answered(number, manifest=calibrated()) for number in range(500)))
    assert ["confidence"] == standing(site)
    assert (
        "answers with confidence at the threshold or above are 0.0% of the last 500; in calibration they were 70.0%"
        == site.worker.monitoring.active_alarms()[0].message
    )


def test_drift_alarm_ends_when_the_difference_ends(site):
    """A window without a difference ends the alarm; its start and end are stored."""
    site.keep(*(answered(number, manifest=calibrated()) for number in range(500)))
    site.clock.wall += DAY
    site.keep(*(sure(500 + number, sure=number % 10 < 7) for number in range(500)))
    assert [] == standing(site)
    (alarm,) = [each for each in only(site).alarms if each.alarm == "confidence"]
    assert DAY == alarm.ended - alarm.since


@pytest.mark.parametrize(
    ("alarm", "change"),
    [
        ("labels", {"scores": [("price", 0.95), ("refund", 0.05)], "local_answer": "price"}),
        ("length", {"text": "refund " * 100}),
        ("novelty", {"reasons": ("SURE", "LABEL_MASS_UNUSUAL")}),
    ],
)
def test_each_kind_of_drift_has_its_alarm(site, alarm, change):
    """Other labels, longer inputs and unusual ones each raise their own alarm and no other."""
    site.keep(*(sure(number, sure=number % 10 < 7) for number in range(1000)))
    site.keep(*(sure(1000 + number, **{**change, "sure": number % 10 < 7}) for number in range(500)))
    assert [alarm] == standing(site)


def test_new_bundle_has_its_own_series(site):
    """A new bundle starts with its own figures and alarms; those of a limited number of earlier bundles stay."""
    site.keep(*(answered(number, manifest=calibrated()) for number in range(500)))
    for number in range(monitoring_tables.SERIES_OF_TASK_MAX):
        site.keep(sure(1000 + number, digest=f"{number:064}"))
    series = site.worker.monitoring.report("pos-intent")
    assert monitoring_tables.SERIES_OF_TASK_MAX == len(series)
    assert [f"{number:064}" for number in reversed(range(monitoring_tables.SERIES_OF_TASK_MAX))] == [
        s.digest for s in series
    ]
    assert [] == standing(site)
    assert [(0,)] == site.worker.spool.db.rows("SELECT count(*) FROM field_alarms")


def test_a_bundle_that_answers_again_after_rollbacks_keeps_its_figures(site):
    """The evidence of a bundle continues after rollbacks, however many were tried since; a clock that was set back
    hides no new bundle."""
    numbers = range(1, 3 * monitoring_tables.SERIES_OF_TASK_MAX)
    for number in numbers:
        site.clock.wall += DAY
        site.keep(sure(2 * number))
        site.clock.wall += DAY
        site.keep(sure(2 * number + 1, digest=f"{number:064}"))
    series = {each.digest: each for each in site.worker.monitoring.report("pos-intent")}
    assert monitoring_tables.SERIES_OF_TASK_MAX == len(series)
    assert len(numbers) == sum(day["answers"] for day in series[DIGEST].days.values())
    site.clock.wall -= 4000 * DAY
    site.keep(sure(1000, digest=f"{1000:064}"))
    assert f"{1000:064}" in {each.digest for each in site.worker.monitoring.report("pos-intent")}


def test_number_of_days_is_limited(site):
    """Days beyond the limit are deleted, oldest first."""
    for number in range(monitoring_tables.DAYS_MAX + 3):
        site.clock.wall += DAY
        site.keep(shadowed(number, "refund"))
    series = only(site)
    assert monitoring_tables.DAYS_MAX == len(series.days) == len(series.agreement)
    assert int(site.clock.wall // DAY) == max(series.days)


def test_erased_answer_is_removed_from_disagreements(site):
    """The counts, which have nothing of an input, stay."""
    site.keep(shadowed(1, "price"))
    with site.worker.spool.transaction():
        site.worker.erasure.erase_answer("p-1")
    assert ((), 1) == (only(site).disagreements, only(site).agreement[0].pairs)


def test_only_committed_counts_survive_a_restart(site):
    """Counts of a committed transaction are there after a restart; those of a failed one are not."""
    site.keep(sure(1))

    def fail() -> None:
        with site.worker.spool.transaction():
            site.worker.store_predictions([site.worker.recorder.build_prediction(sure(2), site.clock.wall)])
            raise RuntimeError

    pytest.raises(RuntimeError, fail)
    site.reopen()
    assert 1 == only(site).days[int(site.clock.wall // DAY)]["answers"]


def test_monitoring_tables_keep_the_schema_version(site):
    """The tables do not change the schema version, so an older agent can open the spool."""
    site.keep(sure(1))
    assert [(1,)] == site.worker.spool.db.rows("PRAGMA user_version")
