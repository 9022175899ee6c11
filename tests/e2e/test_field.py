"""The field, watched for real: both daemons, a scripted oracle, what an operator, Prometheus and the centre see."""

import pytest

from tests.bundles import INTENTS, echo_bundle
from tests.escalating_site import TASK, EscalatingSite
from tests.eventually import eventually_sync
from tests.large_model import LargeModel

CALIBRATED = {
    **{"policy": "threshold", "temperature": 1.0, "threshold": 0.9, "target_risk": 0.05, "delta": 0.1},
    **{"n": 100, "bound": 0.04, "coverage": 0.9},
}
SURE, UNSURE = "refund please", "hmm"


@pytest.fixture(scope="module")
def oracle():
    """It knows the words; of a refund it says "price"."""
    said = {label: label for label in INTENTS} | {"refund": "price"}
    with LargeModel(lambda text: next((said[label] for label in INTENTS if label in text), "hours")) as server:
        yield server


@pytest.fixture(scope="module")
def site(tmp_path_factory, oracle):
    folder = tmp_path_factory.mktemp("site")
    collect = {"collect": {TASK: "local"}, "commit_seconds": 0.01}
    with EscalatingSite(folder, oracle, {"examples": collect}) as running:
        running.admin.install(echo_bundle(folder / "pos", confidence=CALIBRATED))
        running.start_uplink()
        yield running


def series(site):
    (found,) = site.admin.field_report(TASK).series
    return found


def test_shadow_mode_gives_agreement(site):
    """What both models said is compared by label, with an interval; where they differ the answer can be looked up."""
    site.admin.set_mode(TASK, "shadow")
    sent = [label for label in INTENTS if label != "other"][:4]
    site.client.classify(TASK, [f"{label} please" for label in sent])
    eventually_sync(lambda: 4 == series(site).totals["answers"])
    found = series(site)
    agreed = {each.label: (each.agreed.hits, each.agreed.rows) for each in found.agreement if each.source == "shadow"}
    assert (3, 4) == agreed[""]
    assert (0, 1) == agreed["refund"]
    whole = next(each.agreed for each in found.agreement if not each.label)
    assert (0.75, pytest.approx(0.1941, abs=1e-4), pytest.approx(0.9937, abs=1e-4)) == (
        whole.value, whole.low, whole.high)  # fmt: skip
    assert [("refund", "price")] == [(each.ours, each.theirs) for each in found.disagreements]
    assert {"people": 0, "large-model": 4} == {test.judge: test.wrong.rows for test in found.tests}
    assert [4] == [day.agreement.rows for day in found.days]
    report = site.admin.field_report(TASK)
    assert (("SHADOW", "operator"), {TASK: "local"}) == (
        (report.tasks[0].mode, report.tasks[0].mode_by), report.collect)  # fmt: skip
