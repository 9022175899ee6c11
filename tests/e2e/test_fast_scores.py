"""`scores: fast` on a site: a crowd of texts is held to a threshold that is raised by what it may be off."""

from __future__ import annotations

from pathlib import Path

from edge_agent.client import Classification, Client
from edge_agent.routing.policy import raised
from tests import bundles
from tests.daemon import RunningDaemon

CROWD = 16
TEXTS = [
    f"Customer {number} asks how much the blue lamp by the door costs, and if it can be sent."
    for number in range(CROWD)
]
THRESHOLD = {"policy": "threshold", "temperature": 1.0, "threshold": 0.5, "target_risk": 0.05, "delta": 0.1}
CONFIDENCE = {**THRESHOLD, "n": 500, "bound": 0.04, "coverage": 0.7}
LABELS_DEEP = 4
"""More tokens than a label of the bundle has."""


def answers(client: Client, task: str, texts: list[str]) -> list[Classification]:
    """Classify texts in one call."""
    found = client.classify(task, texts)
    assert all(isinstance(answer, Classification) for answer in found), found
    return [answer for answer in found if isinstance(answer, Classification)]


def test_a_crowd_has_to_be_surer(tmp_path: Path) -> None:
    """Its answers name the threshold that they were held to, and status the noise that it comes from."""
    bundle = bundles.smollm2_bundle(tmp_path / "intent", "classify", confidence=CONFIDENCE)
    task = bundles.manifest_of(bundle).task.name
    with RunningDaemon(tmp_path, engine={"scores": "fast"}) as daemon, daemon.client() as client:
        daemon.install(bundle)
        alone = answers(client, task, TEXTS[:1]) + answers(client, task, TEXTS[1:2])
        crowd = answers(client, task, TEXTS)
        with daemon.admin() as admin:
            (engine,) = admin.status().engines
    noise = float(engine.details["score_noise"])
    assert {0.5} == {answer.threshold for answer in alone}
    held = [(answer.threshold or 0.0, answer) for answer in crowd]
    assert 0.5 < max(threshold for threshold, _ in held) <= raised(0.5, LABELS_DEEP**0.5 * noise)
    assert all(answer.below_threshold == (answer.confidence < threshold) for threshold, answer in held)
