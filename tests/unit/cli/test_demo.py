"""`edge-agent demo` with the real daemon and the echo runtime, from start to cleanup."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from convert.package.bundle_assembly import AssembleRequest, assemble
from edge_agent.cli.demo import OOD_INPUTS, read_demo_bundle
from edge_agent.errors import BundleUnreadable, FileMissing
from tests.support import gated_onnx

RECIPE = "version: 1.0.0\nruntime: echo\ntask: {{name: {name}, kind: {kind}{labels}}}\n"


def bundle(folder: Path, name: str, kind: str, samples: str, labels: str = "") -> Path:
    source = folder / f"{name}-source"
    source.mkdir()
    (source / "task.yaml").write_text(RECIPE.format(name=name, kind=kind, labels=labels))
    (source / "samples.txt").write_text(samples)
    return assemble(AssembleRequest(source, {}, folder / name)).path


def demo(tmp_path: Path, *bundles: Path | str) -> subprocess.Popen[str]:
    """Start the demo with a TMPDIR of its own."""
    (tmp_path / "tmp").mkdir()
    environ = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "edge_agent.cli", "demo", *map(str, bundles)]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_demo_shows_every_bundle_and_removes_its_files(tmp_path):
    """The demo shows a classify table, generated text and the bars of a decide task; then the daemon stops cleanly and
    the temporary directory is removed."""
    intent = bundle(tmp_path, "pos-intent", "classify", "I want a refund\nwhat price\n", ", labels: [refund, price]")
    talk = bundle(tmp_path, "assistant", "generate", "good morning to you\n")
    questions = ", questions: [{name: urgent, type: predicate, instructions: It cannot wait.}]"
    desk = bundle(tmp_path, "front-desk", "decide", "my train leaves now\n", questions)
    process = demo(tmp_path, intent, talk, desk)
    out, err = process.communicate(timeout=60)
    assert (0, "") == (process.returncode, err)
    assert "✓ pos-intent 1.0.0 (classify, echo" in out
    assert "I want a refund  refund" in out
    assert "not calibrated: no answer counts as sure" in out
    assert "assistant: good morning to you\n4 tokens, first text after" in out
    assert "front-desk: decide, all questions in one call" in out
    assert "█" in next(line for line in out.splitlines() if line.startswith("urgent"))
    assert "edge-agent 0.1.0 is serving" in out
    assert "stopped cleanly" in out
    assert [] == list((tmp_path / "tmp").iterdir())


@pytest.mark.slow
def test_demo_compares_bundles_on_labelled_messages(tmp_path):
    """With --labelled, bundles that have these labels or questions answer every message and are scored in tables; other
    bundles are shown as without it."""
    labels = ", labels: [refund, price]"
    one, other = (bundle(tmp_path, name, "classify", "x\n", labels) for name in ("intent", "intent-new"))
    talk = bundle(tmp_path, "assistant", "generate", "good morning\n")
    rows = [("a refund please", "refund"), ("what price", "price"), ("the price again", "price"), ("price", "refund")]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    questions = ", questions: [{name: urgent, type: predicate, instructions: It cannot wait.}]"
    desk = bundle(tmp_path, "front-desk", "decide", "x\n", questions)
    asked = tmp_path / "answers.jsonl"
    asked.write_text(json.dumps({"text": "an urgent refund", "answers": {"urgent": "yes"}}) + "\n")
    process = demo(tmp_path, one, other, talk, desk, "--labelled", file, "--labelled", asked)
    out, err = process.communicate(timeout=60)
    assert (0, "") == (process.returncode, err)
    assert "The same messages, 2 models: 4 of 4" in out
    assert "a refund please  refund  ✓ refund  ✓ refund" in out
    assert "price            refund  ✗ price   ✗ price" in out
    assert 2 == out.count("75% ±")
    assert "front-desk, 1 question in one call: 1 of 1 labelled messages" in out
    assert "an urgent refund\nurgent\n✓ yes?\n" in out
    assert "urgent          2  100% ±" in out
    assert "you: good morning" in out


@pytest.mark.slow
def test_demo_shows_the_ood_gate_with_strange_messages(tmp_path):
    """The demo sends out-of-distribution messages to a bundle with an OOD gate and prints the outcome of each one."""
    gated = gated_onnx.bundle(tmp_path / "gated")
    labels = read_demo_bundle(gated).manifest.task.labels
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": f"{label} please", "label": label}) + "\n" for label in labels))
    process = demo(tmp_path, gated, "--labelled", file)
    out, err = process.communicate(timeout=60)
    assert (0, "") == (process.returncode, err)
    asked = [line for line in out.splitlines() if line.startswith(OOD_INPUTS)]
    assert len(OOD_INPUTS) == len(asked)
    assert all(line.endswith(("out of distribution", "not confident", "confident")) for line in asked)
    assert "On average such a gate holds up 25% of ordinary messages" in out


@pytest.mark.slow
def test_refused_bundle_ends_demo_and_its_files_are_removed(tmp_path):
    """The demo ends with the daemon's error and exit code for a refused bundle, and removes its files."""
    intent = bundle(tmp_path, "pos-intent", "classify", "x\n", ", labels: [refund, price]")
    golden = intent / "golden.jsonl"
    golden.write_bytes(golden.read_bytes().replace(b"x", b"y"))
    process = demo(tmp_path, intent)
    _, err = process.communicate(timeout=60)
    assert (5, True) == (process.returncode, err.startswith("error: "))
    assert [] == list((tmp_path / "tmp").iterdir())


@pytest.mark.slow
def test_ctrl_c_ends_demo_with_130_and_removes_its_files(tmp_path):
    """Ctrl-C during a slow answer ends the demo with 130, and its files are removed."""
    process = demo(tmp_path, bundle(tmp_path, "slow", "generate", "!slow 200" + " word" * 200 + "\n"))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("you: "):
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert 130 == process.returncode
    assert [] == list((tmp_path / "tmp").iterdir())


def test_samples_come_from_the_golden_file(tmp_path):
    """The demo's inputs are those of the bundle's golden file; a bundle without one has none."""
    assert ("a", "b") == read_demo_bundle(bundle(tmp_path, "talk", "generate", "a\nb\n")).samples
    quiet = bundle(tmp_path, "quiet", "generate", "a\n")
    manifest = json.loads((quiet / "manifest.json").read_text())
    (quiet / "manifest.json").write_text(json.dumps({**manifest, "artifacts": []}))
    assert () == read_demo_bundle(quiet).samples


def test_path_that_is_not_a_bundle_is_refused(tmp_path):
    """A directory without a manifest and a golden file that is missing, invalid or a directory are each refused with a
    specific error."""
    with pytest.raises(BundleUnreadable, match="is no bundle directory"):
        read_demo_bundle(tmp_path)
    spoiled = bundle(tmp_path, "talk", "generate", "a\n")
    (spoiled / "golden.jsonl").write_text("[]\n")
    with pytest.raises(BundleUnreadable, match="each line of the golden file must hold a JSON object with 'input'"):
        read_demo_bundle(spoiled)
    (spoiled / "golden.jsonl").unlink()
    for _ in range(2):
        with pytest.raises(FileMissing, match=r"golden\.jsonl does not exist"):
            read_demo_bundle(spoiled)
        (spoiled / "golden.jsonl").mkdir(exist_ok=True)
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(BundleUnreadable, match="is no bundle directory"):
        read_demo_bundle(tmp_path)
