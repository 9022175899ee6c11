"""Out-of-distribution inputs, from the graph of a bundle to the views of client devices, operators and reviewers."""

from __future__ import annotations

import json
import math
import struct
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from edge_agent.client import Classification, Embedding, Extraction, ReviewClient
from tests.support import gated_onnx
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.free_ports import free_port
from tests.support.open_inference import infer, opened, raw
from tests.support.scraped import scrape

TASK, RECORDS, VECTORS, OLD = "pos-intent", "pos-fields", "pos-vector", "old"
OUTSIDE = "OUT_OF_DISTRIBUTION"
pytestmark = pytest.mark.slow


class Site(NamedTuple):
    daemon: RunningDaemon
    port: int


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A daemon with three gated encoders, one for each kind, and a bundle without a gate."""
    folder, port = tmp_path_factory.mktemp("gate"), free_port()
    settings = {"metrics": {"address": f"127.0.0.1:{port}"}, "examples": {"collect": {TASK: "local"}}}
    old = {"confidence": gated_onnx.CALIBRATED}
    with RunningDaemon(folder / "site", **settings) as daemon:
        daemon.install(
            *(gated_onnx.bundle(folder / kind, kind) for kind in ("classify", "extract", "embed")),
            echo_bundle(folder / "old", OLD, labels=("refund", "price"), **old),
        )
        yield Site(daemon, port)


def run(daemon: RunningDaemon, *words: str) -> str:
    done = subprocess.run([*daemon.command(), *words], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout


def told(site: Site, **more: str) -> list[Classification]:
    """Classify an ordinary text and an out-of-distribution one."""
    ordinary, strange, _ = gated_onnx.ordinary_and_strange()
    with site.daemon.client() as client:
        found = client.classify(TASK, [ordinary, strange], **more)
    assert all(isinstance(each, Classification) for each in found)
    return found  # type: ignore[return-value]


def test_out_of_distribution_input_is_not_confident(site: Site) -> None:
    """Answers of a gated bundle have a p-value; that to an out-of-distribution input is not confident despite its high
    score, names the reason, and can be withheld."""
    inside, outside = told(site)
    assert (False, "SURE", (), 1.0) == (inside.below_threshold, inside.route_reason, inside.degraded, inside.p_value)
    assert (True, OUTSIDE, (OUTSIDE,)) == (outside.below_threshold, outside.route_reason, outside.degraded)
    assert (0.25, "LOCAL") == (outside.p_value, outside.route)
    assert outside.confidence >= gated_onnx.CALIBRATED["threshold"] == outside.threshold
    inside, outside = told(site, on_low_confidence="abstain")
    assert ("LOCAL", "ABSTAINED", "") == (inside.route, outside.route, outside.label)


def test_gate_applies_to_extract_and_embed(site: Site) -> None:
    """An out-of-distribution record is not confident, and an embedding, which has no confidence, is marked as degraded;
    both have the p-value."""
    with site.daemon.client() as client:
        found = []
        for kind, ask in (("extract", client.extract), ("embed", client.embed)):
            ordinary, strange, _ = gated_onnx.ordinary_and_strange(kind)
            found.append(ask({"extract": RECORDS, "embed": VECTORS}[kind], [ordinary, strange]))
    (_, record), (usual, vector) = found
    assert isinstance(record, Extraction)
    assert (True, OUTSIDE, 0.25) == (record.below_threshold, record.route_reason, record.p_value)
    assert isinstance(vector, Embedding)
    assert ((OUTSIDE,), 0.25, ()) == (vector.degraded, vector.p_value, usual.degraded)


def test_open_inference_and_cli_show_gate_result(site: Site) -> None:
    """The Open Inference Protocol and the command line show the same p-value and reason as the client library."""
    ordinary, strange, _ = gated_onnx.ordinary_and_strange()
    with opened(site.daemon.inference) as calls:
        answer = calls("ModelInfer", infer(TASK, ordinary, strange))
        assert (1.0, 0.25) == struct.unpack("<2f", raw(answer, "p_value"))
        assert b"\0\1" == raw(answer, "below_threshold")
        without = calls("ModelInfer", infer(OLD, ordinary))
        assert "p_value" not in [output.name for output in without.outputs]
        named = calls("ModelInfer", infer(OLD, ordinary, outputs=[{"name": "p_value"}]))
        assert math.isnan(struct.unpack("<f", raw(named, "p_value"))[0])
    line = json.loads(run(site.daemon, "classify", TASK, strange, "--json"))
    assert (0.25, [OUTSIDE]) == (line["classification"]["p_value"], line["classification"]["degraded"])
    assert "out of distribution (p = 0.250)" in " ".join(run(site.daemon, "classify", TASK, strange).split())


def test_bundle_without_gate_is_unaffected(site: Site) -> None:
    """A bundle without a gate answers confidently without a p-value, is listed with gate none, and doctor has a note
    about it."""
    with site.daemon.client() as client, site.daemon.admin() as admin:
        (answer,) = client.classify(OLD, ["a refund"])
        gates = {task.name: task.gate for task in client.tasks()}
        listed = {each.ref.task: each.gate for each in admin.bundles()}
    assert isinstance(answer, Classification)
    assert (False, None, ()) == (answer.below_threshold, answer.p_value, answer.degraded)
    assert {TASK: "ood_score", RECORDS: "ood_score", VECTORS: "ood_score", OLD: "none"} == gates == listed
    assert "none" in next(line for line in run(site.daemon, "models").splitlines() if line.startswith(OLD))

    def noted() -> bool:
        found = [
            each for each in json.loads(run(site.daemon, "doctor", "--json"))["findings"] if each["check"] == "gate"
        ]
        return ["note"] == [each["verdict"] for each in found] and f"without a gate: {OLD};" in found[0]["seen"]

    eventually_sync(noted, 60.0)


def test_out_of_distribution_answers_are_counted(site: Site) -> None:
    """Metrics and status count out-of-distribution answers by reason, and show which tasks have a gate."""
    name, labels = "answers_not_confident_total", {"task": TASK, "reason": OUTSIDE}
    before = scrape(site.port).get((f"edge_agent_{name}", frozenset(labels.items())), 0.0)
    told(site)
    eventually_sync(lambda: scrape(site.port).get((f"edge_agent_{name}", frozenset(labels.items())), 0.0) == before + 1)
    page = scrape(site.port)
    assert (1.0, 0.0) == (page.value("task_gated", task=TASK), page.value("task_gated", task=OLD))
    with site.daemon.admin() as admin:
        (counts,) = [each for each in admin.status().counts if each.task == TASK]
    assert {OUTSIDE: counts.below_threshold} == counts.held_up


def test_captured_example_has_p_value(site: Site) -> None:
    """The captured example of an out-of-distribution input has its p-value and is below the threshold."""
    _, outside = told(site)
    with ReviewClient(f"unix:{site.daemon.run_dir}/review.sock") as reviewer:
        kept = []

        def arrived() -> bool:
            kept[:] = [each for each in reviewer.queue(TASK) if each.prediction_id == outside.prediction_id]
            return bool(kept)

        eventually_sync(arrived)
    assert (0.25, True) == (kept[0].p_value, kept[0].below_threshold)
