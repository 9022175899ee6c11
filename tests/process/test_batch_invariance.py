"""Whether a bundle's answers depend on the other texts of a batch, as `edge-convert` measures it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from convert.cli import app
from convert.evaluate.batch_invariance import BATCHES, BatchInvariance, difference, measure_batch_invariance, sentence
from convert.evaluate.predictions import FoundEntity, ServedPrediction
from convert.evaluate.serving import open_bundle
from convert.pipeline.recipe import BudgetSection
from convert.quantize.candidate_selection import judge
from tests.support.bundles import echo_bundle, tiny_onnx_bundle

TEXTS = [f"!slow 2 a refund of {number}" for number in range(16)]  # each is there long enough to have company
BUDGET = BudgetSection(agreement_min=0.9, kl_mean_max=0.1, accuracy_loss_max=0.05)
INSIDE = {"agreement": {"value": 1.0}, "kl_mean": 0.0, "accuracy_loss": 0.0}
VARYING = BatchInvariance(
    32, (2, 8), 12, 0.082, "", "llama-cpp-python 0.3.36; code for haswell processors", scored=True
)


def varying(folder: Path, kind: str = "classify") -> Path:
    return echo_bundle(folder, kind=kind, task={"prompt": {"template": "!vary {input}"}})


def test_difference_is_the_largest_difference_of_scores():
    """Answers differ by their largest difference of scores, however small; different words or entities count as 0.0,
    and the time is ignored."""
    said = ServedPrediction("refund", 0.5, scores=(0.5, 0.3), label_mass=0.9, seconds=1.0)
    assert difference(said, ServedPrediction("refund", 0.5, scores=(0.5, 0.3), label_mass=0.9, seconds=2.0)) is None
    other = ServedPrediction("refund", 0.5, scores=(0.5, 0.3000000001), label_mass=0.9)
    assert pytest.approx(1e-10, rel=1e-3) == difference(said, other)
    assert 0.0 == difference(ServedPrediction("a"), ServedPrediction("b"))
    assert 0.0 == difference(ServedPrediction(entities=(FoundEntity(0, 1, "x"),)), ServedPrediction())


def test_candidate_with_varying_scores_is_outside_any_budget():
    """A candidate whose scores depend on the batch is rejected with the reason, even if it agrees with full precision
    on every row."""
    (reason,) = judge({**INSIDE, "batch_invariance": VARYING.report()}, BUDGET)
    assert "scores of 12 of 32 texts depend on other texts in the batch, by up to 0.082" == reason


@pytest.mark.parametrize(
    "found",
    [
        None,
        BatchInvariance(32, (2, 8), 0, 0.0, "", "onnxruntime 1", scored=True).report(),
        BatchInvariance(32, (2, 8), 12, 1e-6, "", "onnxruntime 1", scored=False).report(),
    ],
    ids=["not measured", "the same", "vectors"],
)
def test_variation_without_effect_on_a_threshold_is_inside_the_budget(found):
    """A candidate is inside the budget if batch invariance was not measured, if no answer varied, or if only vectors
    differ by rounding."""
    assert [] == judge({**INSIDE, "batch_invariance": found}, BUDGET)


def test_candidate_with_a_problem_reported_by_the_engine_is_outside():
    """A candidate for which the engine reports a problem is rejected even if no measured text varied, because a site
    would not be confident."""
    reported = BatchInvariance(32, (2, 8), 0, 0.0, "measured at load", "", scored=True)
    assert ["measured at load"] == judge({**INSIDE, "batch_invariance": reported.report()}, BUDGET)


def test_manifest_sentence_names_the_measurement_and_the_build():
    """The sentence for the manifest names the number of texts, the batches, the result and the build of the library."""
    build = "llama-cpp-python 0.3.36; code for haswell processors"
    assert f"answers to 32 texts alone and in batches of 2 and 8: others for 12; {build}" == sentence(VARYING.report())
    same = BatchInvariance(8, (2, 8), 0, 0.0, "", build, scored=True)
    assert sentence(same.report()).endswith(f"2 and 8: the same to the last bit; {build}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classify", "decide", "extract"])
def test_scores_that_depend_on_the_batch_are_detected(tmp_path: Path, kind: str):
    """Texts are computed alone and in batches; differences are counted, and the engine's own finding is reported as
    well."""
    found = measure_batch_invariance(open_bundle(varying(tmp_path / "bundle", kind)), TEXTS)
    assert found is not None
    assert (16, BATCHES, True) == (found.texts, found.batches, found.scored)
    assert "the echo model was told" in found.engine
    assert found.problem
    if kind != "extract":  # echo finds the same numbers in a text, whoever else is there
        assert found.varied > 0
        assert found.difference_max > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classify", "embed"])
def test_encoder_answers_do_not_depend_on_the_batch(tmp_path: Path, kind: str):
    """An ONNX encoder returns the same answers to the last bit in every batch, and the report names the library and the
    processor."""
    found = measure_batch_invariance(
        open_bundle(tiny_onnx_bundle(tmp_path / "bundle", kind)), [each[8:] for each in TEXTS]
    )
    assert found is not None
    assert (0, 0.0, "", kind == "classify") == (found.varied, found.difference_max, found.problem, found.scored)
    assert found.build.startswith("onnxruntime ")


def test_generated_text_is_not_measured(tmp_path: Path):
    """A generate bundle is not measured: its streams share steps, so the project does not guarantee equal bits."""
    assert measure_batch_invariance(open_bundle(echo_bundle(tmp_path / "bundle", kind="generate")), TEXTS) is None


@pytest.mark.slow
def test_evaluate_reports_batch_invariance(tmp_path: Path):
    """`edge-convert evaluate` prints a warning if scores depend on the batch, and `--json` contains the whole
    measurement."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text, "label": "refund"}) + "\n" for text in TEXTS))
    bundle = str(varying(tmp_path / "bundle"))
    said = CliRunner().invoke(app, ["evaluate", bundle, str(rows)])
    assert 0 == said.exit_code
    assert "No answer of this bundle is confident on a site like this machine" in " ".join(said.output.split())
    command = [sys.executable, "-c", "from convert.cli import main; main()", "evaluate", bundle, str(rows), "--json"]
    plain = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert plain["batch_invariance"]["varied"] > 0
