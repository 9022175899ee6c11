"""The report of a real site with both daemons and a scripted large model, from the first question to the change of
mode."""

import json
import subprocess
import sys

import pytest

from tests.support import bundles
from tests.support.bundles import INTENTS, echo_bundle
from tests.support.escalating_site import TASK, EscalatingSite
from tests.support.eventually import eventually_sync
from tests.support.large_model import LargeModel
from tests.support.report_figures import Outline

CALIBRATED = {
    **{"policy": "threshold", "temperature": 1.0, "threshold": 0.9, "target_risk": 0.05, "delta": 0.1},
    **{"n": 100, "bound": 0.04, "coverage": 0.9},
}
DEFINITION = {"task": {"prompt": {"chat": True, "system": "Say what the customer wants."}}}


LABELS = [label for label in INTENTS if label != "other"][:6]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site that stores examples; the large model costs 1 per thousand input tokens and 2 per thousand output
    tokens."""
    folder = tmp_path_factory.mktemp("site")
    collect = {"collect": {TASK: "local"}, "commit_seconds": 0.01}
    prices = {"input_token_price": 1000.0, "output_token_price": 2000.0, "calls_max": 8}
    with (
        LargeModel(lambda text: next((label for label in INTENTS if label in text), "hours")) as oracle,
        EscalatingSite(folder, oracle, {"examples": collect}, **prices) as running,
    ):
        running.start_uplink()
        yield running


def edge_agent(site, *arguments):
    """Run a command like an operator; return its output."""
    command = [sys.executable, "-B", "-m", "edge_agent.cli", "--config", str(site.folder / "agent.yaml")]
    sockets = ["--run-dir", str(site.serve.run_dir)]
    return subprocess.run([*command, *sockets, *arguments], capture_output=True, text=True, check=True).stdout


def report(site):
    """Return the task's entry in the report."""
    (task,) = json.loads(edge_agent(site, "report", "--json"))["tasks"]
    return task


def await_money(site, questions):
    """Wait until this number of questions is charged and stored."""
    eventually_sync(lambda: questions == sum(each.questions for each in site.admin.field_report(TASK).money))


def ask(site, *labels):
    """Classify one text for each label."""
    site.client.classify(TASK, [f"{label} please" for label in labels], timeout_seconds=30)


def await_answers(site, answers):
    """Wait until this number of answers of the newest bundle is counted."""
    eventually_sync(lambda: answers == site.admin.field_report(TASK).series[0].totals.get("answers"))


def begin(site):
    """Install a task definition without a model; let the large model answer six inputs."""
    fields = bundles.fields_of("upstream", TASK, "classify", None, "0.1.0")
    site.admin.install(bundles.write(site.folder / "definition", fields, DEFINITION, {}))
    ask(site, *LABELS)
    await_money(site, 6)


def check_page(site, tmp_path):
    """Check that the command writes the HTML page, and that the table fits on a screen."""
    path = tmp_path / "report.html"
    said = edge_agent(site, "report", "--html", str(path))
    assert f"{path}: open it in a browser.\n" == said
    outline = Outline(path.read_text())
    assert 1 == outline.count("h2")
    assert 6 == outline.count("figure")
    assert 100 >= max(map(len, edge_agent(site, "report", TASK, "--model-cost", "100 EUR").splitlines()))


@pytest.mark.slow
def test_report_guides_task_from_bootstrap_to_hybrid(site, tmp_path):
    """The report counts examples and costs from the first answer, recommends the next mode when its conditions hold,
    and shows the savings in hybrid mode."""
    begin(site)
    begun = report(site)
    assert ("bootstrap", False, "NEEDS_EXAMPLES", 94) == (
        begun["mode"],
        begun["has_model"],
        begun["advice"]["why"],
        begun["advice"]["more"],
    )
    assert {1} == {each["examples"] for each in begun["labels"] if each["name"] in LABELS}
    spent = begun["money"]["spent_micros"]
    assert spent >= 6 * 100_000
    # The uplink reports what it has settled a moment after the answer, until when the highest price stays reserved.
    eventually_sync(lambda: spent == site.large_model().day_micros)

    site.admin.install(echo_bundle(site.folder / "pos", confidence=CALIBRATED, version="1.0.0"))
    site.admin.set_mode(TASK, "bootstrap")
    assert "MODEL_IS_HERE" == report(site)["advice"]["why"]

    site.admin.set_mode(TASK, "shadow")
    for _ in range(14):
        ask(site, *LABELS)
    await_money(site, 90)
    await_answers(site, 84)
    compared = report(site)
    assert ("RISK_HOLDS", "hybrid") == (compared["advice"]["why"], compared["advice"]["mode"])
    assert (84, 84) == (compared["agreement"]["hits"], compared["agreement"]["rows"])
    assert 1.0 == compared["could_take"]["share"]["value"]

    site.admin.set_mode(TASK, "hybrid")
    ask(site, *LABELS)
    await_answers(site, 90)
    money = report(site)["money"]
    assert (6, 90) == (money["answered_here"], money["priced"])
    assert money["saved_micros"] == pytest.approx(6 * money["spent_micros"] / 90, abs=1)
    check_page(site, tmp_path)
