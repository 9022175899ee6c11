"""What is counted and how it is rendered, and that the documents name every metric."""

import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from edge_agent.capture.spool import CLASS_NAMES
from edge_agent.engine.engine import EngineState, EngineStatus
from edge_agent.errors import BY_REASON, EngineCrashed
from edge_agent.metrics import site_metrics
from edge_agent.metrics.metric_catalogue import (
    CATALOGUE,
    LABEL_CHARACTERS_MAX,
    OTHER_TASKS,
    RATIOS,
    SECONDS,
    TASKS_MAX,
    UNKNOWN_TASK,
    AnswerCounts,
    Histogram,
    MetricDefinition,
    MetricSample,
    UnansweredInput,
    document,
    page,
)
from edge_agent.server.finished_answers import UnansweredCallCounter
from tests.support.scraped import kinds, parse

ENDS = {False: ("",), True: ("", "_bucket", "_sum", "_count")}
ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"


def written(*samples: MetricSample) -> str:
    return "".join(page(samples, CATALOGUE))


@pytest.mark.parametrize(
    ("value", "place"), [(0.0, 0), (0.0005, 0), (0.00051, 1), (60.0, 15), (60.1, 16), (math.inf, 16), (-1.0, 0)]
)
def test_observation_counts_in_the_first_bucket_that_holds_it(value, place):
    """A value counts in the first bucket whose bound it does not exceed, above the last bound in +Inf only."""
    histogram = Histogram(SECONDS)
    histogram.observe(value)
    assert [int(number >= place) for number in range(17)] == histogram.cumulative


def test_nan_is_not_observed():
    """NaN is not observed, because it would make the sum NaN."""
    histogram = Histogram(RATIOS)
    histogram.observe(math.nan)
    assert (0, 0.0) == (histogram.cumulative[-1], histogram.total)


def test_number_of_tasks_is_limited():
    """Tasks beyond the limit are counted together."""
    counts = AnswerCounts()
    for number in range(TASKS_MAX + 5):
        counts.of(f"task-{number}").held_up["BELOW_THRESHOLD"] += 1
    assert TASKS_MAX + 1 == len(counts.tasks)
    assert 5 == counts.tasks[OTHER_TASKS].held_up["BELOW_THRESHOLD"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(EngineCrashed("x"), "ENGINE_CRASHED"), (KeyboardInterrupt(), "INTERNAL"), (ValueError("secret"), "INTERNAL")],
)
def test_failed_call_is_counted_by_its_reason(error, reason):
    """Every error of a call is counted by its reason and raised; an unexpected exception counts without details."""
    counts = AnswerCounts()
    with pytest.raises(type(error)), UnansweredCallCounter(counts, "till"):
        raise error
    assert {UnansweredInput("till", reason): 1} == counts.errors


def test_successful_call_is_not_counted_as_an_error():
    """A call that returns adds nothing to the errors."""
    counts = AnswerCounts()
    with UnansweredCallCounter(counts, UNKNOWN_TASK):
        pass
    assert {} == counts.errors


def test_histogram_is_parsed_by_prometheus_client():
    """Buckets are cumulative and agree with sum and count."""
    histogram = Histogram(SECONDS)
    for value in (0.003, 0.003, 0.2, 99.0):
        histogram.observe(value)
    text = written(MetricSample("queue_seconds", histogram, ("till",)))
    read = parse(text)
    assert {"edge_agent_queue_seconds": "histogram"} == kinds(text)
    assert 2 == read.value("queue_seconds_bucket", task="till", le="0.005")
    assert 3 == read.value("queue_seconds_bucket", task="till", le="60")
    assert (
        4
        == read.value("queue_seconds_bucket", task="till", le="+Inf")
        == read.value("queue_seconds_count", task="till")
    )
    assert pytest.approx(99.206) == read.value("queue_seconds_sum", task="till")


def test_any_label_is_escaped():
    """Quotes, backslashes and line breaks stay in one label, and a long one is truncated."""
    hostile = 'a"} 1\nedge_agent_serving 7\\'
    read = parse(written(MetricSample("engine_info", 1, ("e", "llama", hostile)), MetricSample("serving", True)))
    assert [{"engine": "e", "runtime": "llama", "device": hostile}] == read.labels("engine_info")
    assert 1 == read.value("serving")
    (long,) = parse(written(MetricSample("engine_info", 1, ("e", "llama", "x" * 999)))).labels("engine_info")
    assert LABEL_CHARACTERS_MAX == len(long["device"])


@pytest.mark.parametrize("value", [0, 1, True, 0.1, 2**53, 1e-9, 1795630838.27])
def test_any_number_is_rendered_exactly(value):
    """Numbers come out as they went in."""
    assert float(value) == parse(written(MetricSample("serving", value))).value("serving")


def test_samples_of_a_metric_are_adjacent():
    """Samples of one metric are rendered together in any order of arrival, as Prometheus requires."""
    samples = [MetricSample(name, 1, (task,)) for task in ("a", "b") for name in ("task_ready", "task_signed")]
    lines = [line.split("{")[0] for line in written(*samples).splitlines() if not line.startswith("#")]
    assert ["edge_agent_task_ready"] * 2 + ["edge_agent_task_signed"] * 2 == lines


def test_metric_outside_the_catalogue_raises():
    """A metric without an entry in the catalogue raises KeyError."""
    with pytest.raises(KeyError, match="edge_agent_surprise"):
        written(MetricSample("surprise", 1))


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=lambda metric: metric.name)
def test_names_follow_the_conventions_of_prometheus(metric: MetricDefinition):
    """Only counters end with _total, names and labels are plain, units are base units, and every metric has a
    description."""
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert re.fullmatch(r"edge_agent(_[a-z]+)+", metric.name)
    assert all(re.fullmatch(r"[a-z]+", label) for label in metric.labels)
    assert metric.meaning.endswith((".", "…"))
    assert not re.search(r"_(ms|milliseconds|minutes|kilobytes|megabytes|percent)(_|$)", metric.name)


def test_the_document_has_every_metric():
    """docs/metrics.md contains the catalogue."""
    assert document().strip() in (DOCS / "metrics.md").read_text(encoding="utf-8")


def test_process_metrics_match_the_kernel():
    """Memory, processor time, descriptors and start time of this process match those of the kernel."""
    found = {sample.name: sample.value for sample in site_metrics.process_samples("serve", os.getpid())}
    assert found["process_resident_memory_bytes"] > 10 * 2**20
    assert found["process_cpu_seconds_total"] > 0
    assert abs(found["process_open_fds"] - len([*Path("/proc/self/fd").iterdir()])) <= 1
    assert Path("/proc/self").stat().st_ctime - found["process_start_time_seconds"] < 3600


def test_missing_disk_has_no_sample(tmp_path):
    """A folder that does not exist has no sample of free space."""
    assert [] == list(site_metrics.disk_samples(tmp_path / "gone"))
    assert ["disk_free_bytes"] == [sample.name for sample in site_metrics.disk_samples(tmp_path)]


def test_missing_process_has_no_samples(tmp_path):
    """Of a process that is not there, nothing is said."""
    assert [] == list(site_metrics.process_samples("gone", 0, tmp_path))


def test_process_name_cannot_forge_figures(tmp_path):
    """A process name with blanks and parentheses does not shift the fields of its stat file."""
    place = tmp_path / "proc/7"
    place.mkdir(parents=True)
    fields = " ".join(["S", *(str(number) for number in range(4, 53))])
    (place / "stat").write_text(f"7 (evil) R 1 1) {fields}")
    (tmp_path / "proc/stat").write_text("cpu 1\nbtime 1000\n")
    found = {sample.name: sample.value for sample in site_metrics.process_samples("x", 7, tmp_path)}
    ticks = os.sysconf("SC_CLK_TCK")
    assert (14 + 15) / ticks == found["process_cpu_seconds_total"]
    assert 20 == found["process_threads"]
    assert 1000 + 22 / ticks == found["process_start_time_seconds"]
    assert 24 * os.sysconf("SC_PAGE_SIZE") == found["process_resident_memory_bytes"]


def test_reasons_in_labels_are_documented():
    """The reasons in labels are those of docs/errors.md, so their number is limited."""
    known = (DOCS / "errors.md").read_text(encoding="utf-8")
    assert [] == [reason for reason in BY_REASON if f"`{reason}`" not in known]


def unknown(query: str) -> set[str]:
    """Return the metrics of a query that do not exist; a histogram has buckets, sum and count too."""
    found = set(re.findall(r"\bedge_agent_[a-z_]+", query))
    known = {f"{name}{end}" for name, each in CATALOGUE.items() for end in ENDS[each.kind == "histogram"]}
    return found - known


def test_a_deprecated_metric_names_its_replacement():
    """A deprecated metric names an existing replacement, and no document, dashboard or alert uses it."""
    deprecated = {name: each.meaning for name, each in CATALOGUE.items() if each.meaning.startswith("Deprecated")}
    assert {"edge_agent_engine_device_short"} == {*deprecated}
    asking = "\n".join(
        each.read_text(encoding="utf-8")
        for each in DOCS.rglob("*")
        if each.suffix in {".md", ".json", ".yml"} and each.name != "metrics.md"
    )
    for name, means in deprecated.items():
        named = set(re.findall(r"\bedge_agent_[a-z_]+", means))
        assert named
        assert named <= CATALOGUE.keys() - deprecated.keys()
        assert not re.search(rf"\b{name}\b", asking)


def covered(place: dict[str, int]) -> list[tuple[int, int]]:
    return [(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])]


def test_dashboard_uses_existing_metrics():
    """Every query of the dashboard names existing metrics, each panel has a query, and no panels overlap."""
    dashboard = json.loads((DOCS / "grafana" / "edge-agent.json").read_text(encoding="utf-8"))
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    queries += [variable.get("definition", "") for variable in dashboard["templating"]["list"]]
    assert set() == unknown("\n".join(queries))
    assert [] == [panel["title"] for panel in panels if "edge_agent_" not in panel["targets"][0]["expr"]]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert sorted(set(ids)) == sorted(ids)
    cells = [cell for panel in dashboard["panels"] for cell in covered(panel["gridPos"])]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_alerts_use_existing_metrics():
    """Each alert names existing metrics and has a severity, a summary and an action."""
    rules = yaml.safe_load((DOCS / "prometheus" / "edge-agent.rules.yml").read_text(encoding="utf-8"))
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert set() == unknown("\n".join(rule["expr"] for rule in alerts))
    assert len({rule["alert"] for rule in alerts}) == len(alerts)
    assert [] == [rule["alert"] for rule in alerts if not {"summary", "action"} <= rule["annotations"].keys()]
    assert {"warning", "critical"} == {rule["labels"]["severity"] for rule in alerts}


RESTARTS = """
rule_files: [RULES]
evaluation_interval: 10s
tests:
  - interval: 1m
    input_series:
      - {series: 'edge_agent_engine_restarts_total{instance="two"}', values: '5x10 6 7 7x30'}
      - {series: 'edge_agent_engine_restarts_total{instance="three"}', values: '5x10 6 7 8x30'}
    promql_expr_test:
      - expr: count by (instance) (ALERTS{alertname="EdgeAgentEngineRestarts"})
        eval_time: 15m30s
        exp_samples: [{labels: '{instance="three"}', value: 1}]
"""


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus")
def test_two_restarts_raise_no_alert(tmp_path):
    """promtool shows that two restarts raise no alert, although Prometheus extrapolates an increase to its whole
    range."""
    (tmp_path / "restarts.yml").write_text(RESTARTS.replace("RULES", str(DOCS / "prometheus" / "edge-agent.rules.yml")))
    command = ["promtool", "test", "rules", str(tmp_path / "restarts.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr


def test_every_counter_of_lost_examples_starts_at_zero():
    """Each counted event of the alert on lost examples is in LOSS_EVENTS, so it is exported from 0."""
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "edge_agent" / "capture").glob("*.py"))
    counted = set(re.findall(r'\[f?"(dropped_\w+|segments_lost)"\] \+=', sources))
    evicted = {f"sacrificed_{name}" for name in (*CLASS_NAMES[:3], "audit")}
    assert sorted(counted | evicted) == sorted(site_metrics.LOSS_EVENTS)


def test_error_alert_works_without_any_answer():
    """If every input fails there is no counter of answers, and the alert compares the errors with 0."""
    rules = yaml.safe_load((DOCS / "prometheus" / "edge-agent.rules.yml").read_text(encoding="utf-8"))
    [errors] = [rule["expr"] for rule in rules["groups"][0]["rules"] if rule["alert"] == "EdgeAgentErrors"]
    assert re.search(r"\(sum by \(instance\) \(rate\(edge_agent_answers_total\[10m\]\)\) or 0 \* sum by", errors)


def test_invalid_number_of_a_child_is_left_out():
    """A child may report anything, also a number with more digits than Python parses."""
    said = {"memory_limit_bytes": "9" * 5000, "context_cells": "4096", "memory_estimated_bytes": "much"}
    engine = EngineStatus("e", "llama", EngineState.READY, 1, 0, 0, 0, "", "cpu", {}, (), said)
    found = {each.name: each.value for each in site_metrics.engine_samples(engine)}
    assert 4096 == found["engine_context_cells"]
    assert not {"engine_memory_limit_bytes", "engine_memory_estimated_bytes"} & found.keys()


def test_denied_calls_metric_names_its_reasons():
    """The description of the metric names the values of its label; a handshake without a certificate is no denied
    call."""
    named = re.findall("[A-Z_]{2,}", CATALOGUE["edge_agent_denied_total"].meaning)
    assert sorted(site_metrics.DENIAL_REASONS) == named
