"""Metrics of a real daemon, read by the Prometheus parser."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from edge_agent.client import CallFailed, TaskQuestion
from edge_agent.metrics.metric_catalogue import CATALOGUE
from edge_agent.metrics.site_metrics import LOSS_EVENTS
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.free_ports import free_port
from tests.support.scraped import Scraped, fetch, kinds, scrape

UNCALIBRATED, DESK = "till", "desk"


@pytest.fixture(scope="module")
def port() -> int:
    """The port of the daemon's metrics."""
    return free_port()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[RunningDaemon]:
    """A daemon with a classify task, whose answers are stored, a decide task and a generate task."""
    folder = tmp_path_factory.mktemp("metrics")
    metrics, examples = {"address": f"127.0.0.1:{port}"}, {"collect": {UNCALIBRATED: "local"}}
    with RunningDaemon(folder, metrics=metrics, examples=examples) as running:
        running.install(
            echo_bundle(folder / "a", UNCALIBRATED, "classify", ("refund", "price")),
            echo_bundle(folder / "b", "talk", "generate"),
            echo_bundle(folder / "c", DESK, "decide", task={"open_questions": True}),
        )
        yield running


def after(port: int, before: Scraped, name: str, **labels: str) -> float:
    """Return the increase of a sample; metrics are cached for up to a second, so wait until it grows."""
    old = before.get((f"edge_agent_{name}", frozenset(labels.items())), 0.0)
    eventually_sync(lambda: scrape(port).get((f"edge_agent_{name}", frozenset(labels.items())), 0.0) > old)
    return scrape(port).value(name, **labels) - old


def test_answers_are_counted(daemon: RunningDaemon, port: int) -> None:
    """Each input counts once in its route, in the histograms of times and confidence, below its threshold and as a
    captured example."""
    before = scrape(port)
    with daemon.client() as client:
        client.classify(UNCALIBRATED, ["a refund", "the price", "both"])
        client.classify(UNCALIBRATED, ["a refund"], on_low_confidence="abstain")
    assert 1 == after(port, before, "answers_total", task=UNCALIBRATED, route="abstained")
    assert 3 == after(port, before, "answers_total", task=UNCALIBRATED, route="local")
    for name in ("queue_seconds", "compute_seconds", "answer_seconds", "confidence_ratio"):
        assert 4 == after(port, before, f"{name}_count", task=UNCALIBRATED)
    assert 4 == after(port, before, "answers_below_threshold_total", task=UNCALIBRATED)
    kept = before.get(("edge_agent_examples_total", frozenset({("event", "captured")})), 0.0) + 4
    eventually_sync(lambda: scrape(port).value("examples_total", event="captured") == kept)


def test_loss_counters_start_at_zero(port: int) -> None:
    """The counters of lost examples exist before the first loss, because `increase()` in an alert does not see a new
    series."""
    eventually_sync(lambda: scrape(port).value("examples_total", event="dropped_disk") == 0)
    named = {labels["event"] for labels in scrape(port).labels("examples_total")}
    assert set() == set(LOSS_EVENTS) - named


def test_decide_answers_are_counted_per_question(daemon: RunningDaemon, port: int) -> None:
    """Answers are counted by question, route and reason; the name of an open question, which the caller chooses, is not
    a label."""
    before = scrape(port)
    mine = TaskQuestion("secret", "PREDICATE", "The customer is angry.")
    with daemon.client() as client:
        client.decide(DESK, ["a refund", "the price"], questions=["urgent"])
        client.decide(DESK, ["a refund"], open_questions=[mine], on_low_confidence="abstain")
    counted, unsure = "question_answers_total", "question_answers_not_confident_total"
    assert 1 == after(port, before, counted, task=DESK, question="", route="abstained")
    assert 2 == after(port, before, counted, task=DESK, question="urgent", route="local")
    assert 2 == after(port, before, unsure, task=DESK, question="urgent", reason="BELOW_THRESHOLD")
    assert 2 == after(port, before, "answers_total", task=DESK, route="local")
    assert "secret" not in fetch(port)


def test_generation_tokens_are_counted_and_timed(daemon: RunningDaemon, port: int) -> None:
    """A generation counts its tokens, and times the first token and the following ones."""
    before = scrape(port)
    with daemon.client() as client:
        text = "".join(client.generate("talk", "one two three"))
    assert len(text.split()) == after(port, before, "output_tokens_total", task="talk")
    assert 1 == after(port, before, "first_token_seconds_count", task="talk")
    assert 1 == after(port, before, "token_seconds_count", task="talk")


def test_refusals_are_counted(daemon: RunningDaemon, port: int) -> None:
    """Refused calls are counted by reason; the name of an unknown task is not a label."""
    before = scrape(port)
    with daemon.client() as client:
        for task, text in (("no-such-task", "x"), (UNCALIBRATED, " "), ("talk", "x")):
            with pytest.raises(CallFailed):
                client.classify(task, [text])
    assert 1 == after(port, before, "errors_total", task="", reason="TASK_UNKNOWN")
    assert 1 == after(port, before, "errors_total", task=UNCALIBRATED, reason="INPUT_EMPTY")
    assert 1 == after(port, before, "errors_total", task="talk", reason="TASK_KIND_MISMATCH")


def test_metrics_describe_tasks_engines_and_disk(daemon: RunningDaemon, port: int) -> None:
    """The metrics describe tasks, engines, processes and free disk space, and have the documented types."""
    page = fetch(port)
    read = scrape(port)
    assert {UNCALIBRATED, "talk", DESK} == {labels["task"] for labels in read.labels("task_info")}
    (engine,) = read.labels("engine_info")
    assert ("echo", "cpu") == (engine["runtime"], engine["device"])
    assert 1 == read.value("engine_up", engine=engine["engine"])
    restarts = read.value("engine_restarts_total", engine=engine["engine"])
    assert 1 + restarts == read.value("engine_loads_total", engine=engine["engine"])
    assert 8 == read.value("engine_sequences_max", engine=engine["engine"])
    assert {"serve", engine["engine"]} == {labels["process"] for labels in read.labels("process_threads")}
    assert read.value("disk_free_bytes") > 0
    documented = {name.removesuffix("_total"): metric.kind for name, metric in CATALOGUE.items()}
    assert kinds(page).items() <= documented.items()


def test_denial_counters_start_at_zero(daemon: RunningDaemon, port: int) -> None:
    """The counters of denied calls start at zero, because Prometheus' `increase()` misses the first value of a new
    series."""
    read = scrape(port)
    assert [0, 0] == [read.value("denied_total", reason=reason) for reason in ("ROLE_MISSING", "CERTIFICATE_EXPIRED")]


def test_engine_restart_is_counted(daemon: RunningDaemon, port: int) -> None:
    """When an engine's process is killed, its counters of restarts and loads increase by one."""
    before = scrape(port)
    with daemon.admin() as admin:
        (engine,) = admin.status().engines
    os.kill(engine.pid, signal.SIGKILL)
    assert 1 == after(port, before, "engine_restarts_total", engine=engine.name)
    assert 1 == after(port, before, "engine_loads_total", engine=engine.name)


@pytest.mark.slow
def test_thousand_idle_metrics_connections_block_nothing(daemon: RunningDaemon, port: int) -> None:
    """1,000 idle connections to the metrics port block neither calls nor a scrape, and the daemon keeps fewer than 200
    files open."""
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        with daemon.client() as client:
            assert 20 == len([client.classify(UNCALIBRATED, ["a refund"]) for _ in range(20)])
        read = scrape(port)
    assert read.value("process_open_fds", process="serve") < 200
