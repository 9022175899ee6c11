"""Updates of decide bundles: their golden cases decide about installation, and callers keep getting answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.client import CallFailed, Decision
from edge_agent.formats.golden_cases import GoldenCase, encode
from edge_agent.formats.plan import ProbationRules
from tests.support import bert_onnx, tiny_gguf
from tests.support.bundles import QUESTIONS, echo_bundle, fields_of, tiny_onnx, write
from tests.support.eventually import eventually_sync
from tests.support.fleet_cases import CentralTeam
from tests.support.fleet_site import FleetSite

TASK = "front-desk"
TEXTS = ("where is my refund", "what does it cost", "I am in a hurry")
SECONDS_MAX = 120.0
TEMPLATE = "Customer: {input}\n\nQuestion: {question}\nAnswer:"
Make = Callable[[Path, str, bytes], Path]


def echo(folder: Path, version: str, golden: bytes) -> Path:
    """Write a bundle without a model."""
    return echo_bundle(folder, TASK, "decide", version=version, weights=version.encode(), golden=golden)


def encoder(folder: Path, version: str, golden: bytes) -> Path:
    """Write an encoder bundle with an output for each question."""
    files = {"weights": ("model.onnx", tiny_onnx("decide")), "tokenizer": ("t.json", bert_onnx.tiny_tokenizer())}
    return write(folder, fields_of("onnx", TASK, "decide", version=version), {}, files | golden_file(golden))


def open_decoder(folder: Path, version: str, golden: bytes) -> Path:
    """Write a language model bundle that has its own questions and accepts open ones."""
    weights = tiny_gguf.narrow(folder.parent)
    more = {
        "task": {"open_questions": True, "prompt": {"template": TEMPLATE}, "limits": {"input_tokens_max": 120}},
        "engine": {"context_tokens": 320},
    }
    files = {"weights": ("model.gguf", weights)}
    return write(folder, fields_of("llama", TASK, "decide", version=version), more, files | golden_file(golden))


def golden_file(golden: bytes) -> dict[str, tuple[str, bytes]]:
    """Return the manifest role of a golden file, or nothing without golden cases."""
    return {"golden": ("golden.jsonl", golden)} if golden else {}


def release(central: CentralTeam, bundle: Path) -> None:
    """Publish a version and plan it for every site."""
    central.plan(central.offering(central.publish(bundle), probation=ProbationRules(calls=1)))


def decided(site: FleetSite) -> list[Decision]:
    """Return the answers to the texts, or nothing while the task does not answer."""
    try:
        with site.daemon.client() as client:
            return [each for each in client.decide(TASK, TEXTS) if isinstance(each, Decision)]
    except CallFailed:
        return []


def version(site: FleetSite) -> str:
    """Return the version that answers all questions, or an empty string."""
    found = {each.bundle.version for decision in decided(site) for each in decision.answers}
    return found.pop() if len(found) == 1 else ""


def until_taken(site: FleetSite, wanted: str) -> None:
    """Wait until a version answers. Status comes first, because calls to the model would delay the self-test."""
    eventually_sync(lambda: wanted in active(site) or site.state(TASK) == "failed", SECONDS_MAX)
    assert wanted in active(site), site.update(TASK)
    eventually_sync(lambda: version(site) == wanted, SECONDS_MAX)


def active(site: FleetSite) -> list[str]:
    """Return the task's version in status, if it has one."""
    with site.daemon.admin() as admin:
        return [each.bundle.version for each in admin.status().tasks if each.name == TASK]


def cases(decisions: list[Decision], turned: str = "") -> bytes:
    """Return a bundle's answers as golden cases; the question `turned` gets its least likely answer with probability
    1."""
    found = []
    for text, decision in zip(TEXTS, decisions, strict=True):
        given = {each.question: dict(each.probabilities) for each in decision.answers}
        if turned:
            wrong = min(given[turned], key=given[turned].__getitem__)
            given[turned] = {label: float(label == wrong) for label in given[turned]}
        answers = {name: max(scores, key=scores.__getitem__) for name, scores in given.items()}
        told = {name: tuple(scores.values()) for name, scores in given.items()}
        found.append(GoldenCase(input=text, answer="", answers=answers, question_scores=told))
    return encode(found)


@pytest.mark.slow
@pytest.mark.parametrize("make", [echo, encoder, open_decoder])
def test_update_must_pass_golden_cases_of_every_question(tmp_path: Path, make: Make):
    """A site installs an update whose golden cases pass, and refuses one in which a single question differs; the error
    names that question, and the previous version keeps answering."""
    turned = QUESTIONS[-1]["name"]
    central = CentralTeam(tmp_path / "central")
    with FleetSite(tmp_path / "site", central) as site:
        release(central, make(tmp_path / "1", "1.0.0", b""))
        until_taken(site, "1.0.0")
        said = decided(site)
        release(central, make(tmp_path / "2", "2.0.0", cases(said)))
        until_taken(site, "2.0.0")
        site.until_state("done", "probation", task=TASK)
        release(central, make(tmp_path / "3", "3.0.0", cases(said, turned)))
        site.until_state("failed", task=TASK, seconds=SECONDS_MAX)
        assert "2.0.0" == version(site)
        update = site.update(TASK)
        log = site.daemon.log.read_text()
    assert update
    assert "GOLDEN_DIFFERS" == update.reason
    assert f"3 of 3 golden inputs are answered differently: {TEXTS[0]!r}: " in update.message
    assert repr(turned) in update.message
    assert not [name for name in (each["name"] for each in QUESTIONS[:-1]) if repr(name) in update.message]
    assert "3 of 3 golden inputs are answered alike" in log
