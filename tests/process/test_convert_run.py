"""`edge-convert run` as a process, through all stages: tiny models with random weights and a few rows."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from convert.calibrate.redaction_cutoff import CUTOFFS
from convert.evaluate.serving import predict
from convert.pipeline.execution import STAGES
from edge_agent.capture.redact import RULES_VERSION
from edge_agent.formats.manifest import MANIFEST_NAME, digest_of, parse
from tests.support import bundles, pos_intents, tiny_models
from tests.support.modes import not_private, open_umask
from tests.support.mounts import tmpfs
from tests.support.recipes import ready_classifier

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from convert.cli import main; main()"]
SECONDS_MAX = 300
pytestmark = pytest.mark.release


def rows(texts: Sequence[tuple[str, str]]) -> str:
    """Return JSONL of customers' messages with the labels that the tiny models have."""
    known = [(text, label if label in tiny_models.LABELS else "other") for text, label in texts]
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in known)


@dataclass(frozen=True)
class Case:
    """A recipe in a separate folder."""

    folder: Path

    @property
    def work(self) -> Path:
        """Return the folder in which its stages write their results."""
        return self.folder / "work"

    def run(self, *arguments: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run `edge-convert run`, or another command, on it."""
        command = [*prefix, *COMMAND, *(arguments or ("run", str(self.folder)))]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS_MAX)

    def done(self, *arguments: str, prefix: Sequence[str] = ()) -> str:
        """Run and return standard output; fail if the exit code is not 0."""
        ended = self.run(*arguments, prefix=prefix)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def stopped_in(self, stage: str) -> int:
        """Run and send Ctrl-C when a stage starts; return the exit code."""
        pipe = subprocess.PIPE
        with subprocess.Popen([*COMMAND, "run", str(self.folder)], cwd=ROOT, stdout=pipe, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.split()[:2] == [stage, "runs"]:
                    process.send_signal(signal.SIGINT)
            return process.wait(SECONDS_MAX)


def case(folder: Path, runtime: str) -> Case:
    """Write a recipe: a BERT that is fine-tuned in full, or a Llama that gets an adapter."""
    decoder = runtime == "llama"
    folder.mkdir()
    make = tiny_models.decoder if decoder else tiny_models.encoder
    make(folder / "model", runtime if decoder else "bert")
    everything = pos_intents.train() + pos_intents.held_out()
    parts = {"train": everything[::2], "calibration": everything[1::4], "test": everything[3::4]}
    for split, texts in parts.items():
        (folder / f"{split}.jsonl").write_text(rows(texts))
    prompt = '  prompt: {template: "Message: {input}\\nIntent:"}\n' if decoder else ""
    labels = ", ".join(tiny_models.LABELS)
    (folder / "task.yaml").write_text(
        f"version: 1.0.0\nruntime: {runtime}\ntask:\n  name: tiny\n  kind: classify\n  labels: [{labels}]\n{prompt}"
        "  limits: {input_tokens_max: 128}\nprovenance: {base: random weights, licence: Apache-2.0}\n"
    )
    (folder / "recipe.yaml").write_text(
        f"""
work: work
source: {{checkpoint: model}}
data: {{train: train.jsonl, calibration: calibration.jsonl, test: test.jsonl}}
finetune: {{method: {"lora" if decoder else "full"}, epochs: 2, tokens_max: 64}}
quantize: {{types: [{"F16" if decoder else "fp32"}]}}
budget: {{agreement_min: 0.5, kl_mean_max: 5.0, accuracy_loss_max: 0.5, golden_cases_min: 0}}
risk: {{target: 0.3}}
"""
    )
    return Case(folder)


@pytest.mark.parametrize("runtime", ["onnx", "llama"])
def test_a_recipe_becomes_a_bundle_that_answers(tmp_path: Path, runtime: str):
    """Every stage runs once, the bundle answers, and the report is written; a second run finds every stage up to date.

    Only the owner can open files in the work folder.
    """
    made = case(tmp_path / "a", runtime)
    with open_umask():
        said = made.done()
    assert [] == not_private(made.work)
    assert [line.split()[0] for line in said.splitlines() if line.split()[1:2] == ["runs"]] == list(STAGES)
    bundle = made.work / "assemble" / "bundle"
    manifest = parse((bundle / MANIFEST_NAME).read_bytes())
    assert (manifest.task.name, manifest.runtime) == ("tiny", runtime)
    assert predict(bundle, ["I want my money back"])[0].answer in tiny_models.LABELS
    report = (made.work / "report.md").read_text()
    assert report.startswith("# tiny 1.0.0\n")
    assert "](reliability.png)" in report
    assert json.loads((made.work / "report.json").read_bytes())["memory_peak_bytes"] > 2e8
    again = made.done()
    assert again.count("up to date") == len(STAGES)


def test_ctrl_c_in_any_stage_loses_only_that_stage(tmp_path: Path):
    """After Ctrl-C in each stage the same command continues, and the finished bundle has the digest of an uninterrupted
    run."""
    whole, stopped = case(tmp_path / "whole", "onnx"), case(tmp_path / "stopped", "onnx")
    whole.done()
    for stage in STAGES:
        assert stopped.stopped_in(stage) == 130
        left = {path.name for path in stopped.work.iterdir()} - {".lock"}
        assert left == set(list(STAGES)[: list(STAGES).index(stage)])
    stopped.done()
    digests = [digest_of((each.work / "assemble" / "bundle" / MANIFEST_NAME).read_bytes()) for each in (whole, stopped)]
    assert digests[0] == digests[1]


def test_run_continues_after_a_full_disk(tmp_path: Path):
    """If the disk fills up during a run, the error names the disk and the remedy; on a larger disk the run
    continues."""
    made = case(tmp_path / "a", "onnx")
    whole = sum(path.stat().st_size for path in (made.folder / "model").iterdir())
    with tmpfs(tmp_path / "disk", f"size={whole * 5 // 2}") as disk:
        ended = made.run("run", str(made.folder), "--work", str(disk / "work"))
        assert ended.returncode == 3
        assert "error: the disk of" in ended.stderr
        assert "what to do: Free some space" in ended.stderr
        assert "Traceback" not in ended.stderr
        shutil.copytree(disk / "work", made.work)
    assert "up to date" in made.done()


def test_every_stage_runs_without_a_network(tmp_path: Path):
    """With no network at all every stage runs."""
    prefix = ["unshare", "--net"]
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to leave the network")
    case(tmp_path / "a", "llama").done(prefix=prefix)


def test_small_calibration_split_always_escalates(tmp_path: Path):
    """With 30 calibration rows the bundle always escalates, and the run and the report state that 45 rows are
    needed."""
    made = case(tmp_path / "a", "onnx")
    calibration = made.folder / "calibration.jsonl"
    calibration.write_text("".join(calibration.read_text().splitlines(keepends=True)[:30]))
    recipe = made.folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("target: 0.3", "target: 0.05"))
    said = made.done()
    assert "30 calibration rows cannot prove a risk of 0.05 even without an error among them: that needs 45." in said
    manifest = parse((made.work / "assemble" / "bundle" / MANIFEST_NAME).read_bytes())
    assert manifest.confidence.policy == "always_escalate"
    assert "No answer of this bundle is confident." in (made.work / "report.md").read_text()


def _with_address(address: str) -> dict[str, object]:
    start, label = len("mail "), bundles.TAGS[1][2:]
    return {"text": f"mail {address}", "spans": [{"start": start, "end": start + len(address), "label": label}]}


def test_a_ready_token_classifier_becomes_a_redaction_bundle(tmp_path: Path):
    """A recipe for an existing ONNX token classifier runs every stage; the redaction bundle has the licence and a
    proven bound, and loads."""
    source = ready_classifier(tmp_path / "source", finds_nothing=True)
    tags = ", ".join(bundles.TAGS)
    (tmp_path / "task.yaml").write_text(
        "version: 1.0.0\nruntime: onnx\n"
        f"task: {{name: pii, kind: redact, labels: [{tags}], limits: {{input_tokens_max: 64}}}}\n"
        f"redaction: {{cutoff: {bundles.RANDOM_CUTOFF}}}\nprovenance: {{licence: CC-BY-4.0}}\n"
    )
    for split in ("calibration", "test"):
        lines = [{"text": f"{split} {number} kettles", "spans": []} for number in range(12)]
        lines += [_with_address(f"{split}-{number}@example.org") for number in range(40)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    (tmp_path / "recipe.yaml").write_text(
        f"source: {{onnx: {source}}}\nwork: work\nbudget: {{golden_cases_min: 0}}\nredaction: {{missed_max: 0.3}}\n"
        "data: {format: text-spans, calibration: calibration.jsonl, test: test.jsonl, near_copies_max: 1.0}\n"
    )
    Case(tmp_path).done()
    folder = tmp_path / "work" / "assemble" / "bundle"
    manifest = parse((folder / MANIFEST_NAME).read_bytes())
    # The rules find every address, so the highest cut-off is proved.
    assert ("redact", CUTOFFS[-1]) == (manifest.task.kind, manifest.redaction_rule.cutoff)
    bound = manifest.redaction_rule.bound
    assert bound is not None
    assert (0.3, 0.1, 42, 34, RULES_VERSION) == (bound.bound, bound.delta, bound.n, bound.values, bound.rules)
    report = (tmp_path / "work" / "report.md").read_text()
    assert "at most 30% of the personal values remain, with 90% certainty" in report
    assert "CC BY 4.0" == (folder / manifest.by_role("licence")[0].path).read_text()
    assert [""] == [each.failure for each in predict(folder, ["where is room 12"])]
