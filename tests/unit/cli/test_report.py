"""`edge-agent report` against a fake daemon on real Unix sockets."""

import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from edge_agent.cli import app
from edge_agent.cli.report import show
from edge_agent.client import Durations, Status, TaskCounts
from edge_agent.report.judgement import judge_task
from edge_agent.report.suitability import CostAssumptions
from edge_agent.report.task_figures import usual_local_ms
from edge_agent.v1 import admin_pb2, field_pb2, task_pb2
from tests.support.fake_daemon import DIGEST, FakeDaemon
from tests.support.report_figures import STATES

DAY = field_pb2.FieldDay(
    day="2026-11-25", counts={"route:local": 60, "route:upstream": 40, "graded": 100, "sure": 60, "examples": 40}
)
MONEY = field_pb2.FieldMoney(task="pos-intent", day="2026-11-25", questions=40, cost_micros=40_000)


@pytest.fixture
def run(tmp_path):
    """Run `edge-agent report` with a configuration and directories of its own."""
    config = tmp_path / "agent.yaml"
    config.write_text("site: {id: shop-12}\n")
    options = ["--config", str(config), "--state-dir", str(tmp_path / "state"), "--run-dir", str(tmp_path)]
    return lambda *arguments: CliRunner().invoke(app, [*options, "report", *arguments])


@pytest.fixture
def daemon(tmp_path):
    """A daemon that has counted a hundred answers of one day."""
    with FakeDaemon(f"unix:{tmp_path}/inference.sock", f"unix:{tmp_path}/admin.sock") as running:
        ref = task_pb2.BundleRef(task="pos-intent", version="1.2.0", digest=DIGEST)
        running.admin.field.tasks[0].threshold = 0.8
        running.admin.field.series.add(bundle=ref, active=True, days=[DAY])
        running.admin.field.money.append(MONEY)
        running.admin.field.collect["pos-intent"] = "local"
        running.admin.field.escalation.CopyFrom(admin_pb2.EscalationStatus(model="large-1", tasks=["pos-intent"]))
        yield running


def test_report_prints_a_table_by_default(run, daemon):
    """`report` prints a line for each task, and below it the next step and why."""
    result = run()
    assert 0 == result.exit_code, result.stderr
    lines = result.stdout.splitlines()
    assert "1 task, 100 captured answers, 60% of them local. Spent on the large model: 0.040; saved: 0.060." == lines[0]
    assert ["pos-intent", "local", "hybrid", "40"] == lines[3].split()[:4]
    assert "pos-intent: Next: hybrid" in lines
    assert "specificity" not in result.stdout


def test_report_without_captured_answers_names_tasks_not_captured(run, daemon):
    """A task that answers but is not captured is named as not counted, so the report does not claim that nobody called
    it."""
    daemon.admin.field.ClearField("series")
    daemon.admin.field.ClearField("money")
    daemon.admin.field.ClearField("collect")
    lines = run().stdout.splitlines()
    assert "1 task; no answers have been captured yet. Not collected, so not counted: pos-intent." == lines[0]
    assert "  This task is not collected, so its answers are not counted" in "\n".join(lines)


def test_report_of_a_named_task_is_detailed(run, daemon):
    """`report TASK` also prints specificity, data, economics and constraints, and the cost in the given currency."""
    said = run("pos-intent", "--model-cost", "1,500 EUR").stdout
    for wanted in ("specificity", "data", "economics", "constraints", "0.060 EUR"):
        assert wanted in said


def test_report_json_is_one_document(run, daemon):
    """`report --json` prints one document with schema, site, large model, advice, cost and risk of each task."""
    plain = json.loads(run("--json", "--risk", "0.1").stdout)
    assert ("edge-agent/report/v1", "shop-12", "large-1") == (plain["schema"], plain["site"], plain["large_model"])
    (task,) = plain["tasks"]
    assert ("DOUBTS_ARE_GIVEN", 60_000, 0.1) == (
        task["advice"]["why"],
        task["money"]["saved_micros"],
        task["wanted_risk"]["target"],
    )


def test_report_html_writes_one_readable_file(run, daemon, tmp_path):
    """`report --html` writes a page that every user can read (mode 0644) and prints its path."""
    path = tmp_path / "report.html"
    result = run("--html", str(path))
    assert f"{path}: open it in a browser.\n" == result.stdout
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert 0o644 == path.stat().st_mode & 0o777


def test_report_html_and_json_write_both(run, daemon, tmp_path):
    """With --html and --json, `report` writes the page, and standard output contains only JSON."""
    path = tmp_path / "report.html"
    assert 1 == len(json.loads(run("--json", "--html", str(path)).stdout)["tasks"])
    assert path.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("other",), 2, "there is no task 'other'; there are: pos-intent"),
        (("--model-cost", "much"), 2, "is not an amount"),
        (("--model-cost", "nan"), 2, "is not an amount"),
        (("--model-cost", "-3"), 2, "is not an amount"),
        *((("--model-cost", said), 2, "is not an amount") for said in ("1500,50 EUR", "1.500,00 EUR", "1 500 EUR")),
        (("--risk", "2"), 2, "--risk"),
        (("--html", "/no/such/folder/report.html"), 3, "Name another file with --html."),
    ],
)
def test_report_refuses_invalid_arguments(run, daemon, arguments, code, says):
    """An unknown task, amount or risk ends with 2, and a file that cannot be written with 3; the message names the
    fault."""
    result = run(*arguments)
    assert (code, True) == (result.exit_code, says in result.stderr.replace("\n", " "))


def test_report_refuses_impossible_counts(run, daemon):
    """If the daemon counts more confident answers than graded ones, `report` ends with 1, prints no table and suggests
    a support bundle."""
    daemon.admin.field.series[0].days[0].counts["sure"] = 101
    result = run()
    assert (1, "") == (result.exit_code, result.stdout)
    assert "unsure of task 'pos-intent' is -1" in result.stderr
    assert "edge-agent support-bundle" in result.stderr


def test_report_without_tasks_names_media_import(run, daemon):
    """Without a task, `report` names the command that imports one instead of printing an empty table."""
    daemon.admin.field.ClearField("tasks")
    assert "'edge-agent media import'" in " ".join(run().stdout.split())


@pytest.mark.parametrize("state", STATES)
def test_report_fits_100_columns_in_every_state(state):
    """For every state, from no data to much, no line is wider than 100 columns or ends in spaces."""
    console = Console(file=io.StringIO(), width=100, highlight=False)
    show(console, [judge_task(each, CostAssumptions("EUR")) for each in STATES[state]], at_length=True)
    lines = console.file.getvalue().splitlines()
    assert 100 >= max(map(len, lines))
    assert [] == [line for line in lines if line != line.rstrip()]


def counts(local, upstream):
    """Return the counts of a task whose answers took less than 50 ms each."""
    durations = Durations((0.05, 1.0), (local + upstream, 0, 0), 1.0)
    return TaskCounts("pos-intent", {"local": local, "upstream": upstream}, {}, 0, 0, 0, durations, durations)


@pytest.mark.parametrize(("local", "upstream", "wanted"), [(3, 1, {"pos-intent": 25.0}), (1, 3, {}), (0, 0, {})])
def test_usual_local_time_needs_mostly_local_answers(local, upstream, wanted):
    """The median time of all answers counts as the local time only if most answers are local; otherwise it is
    unknown."""
    status = Status("0.1.0", None, True, 0, (), (), (), 0, 0, counts=(counts(local, upstream),))
    assert wanted == usual_local_ms(status)
