"""The choice among quantized candidates, measured through real engines."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.pipeline.recipe import BudgetSection
from convert.quantize.candidate_selection import Candidate, choose, divergences, fastest, judge, table
from edge_agent.errors import ModelFailed
from tests.support.bundles import DEFAULT_LABELS
from tests.support.stages import spoiled, stage_job

BUDGET = BudgetSection(agreement_min=0.9, kl_mean_max=0.1, accuracy_loss_max=0.05)
SHARE = {"value": 0.95, "low": 0.9, "high": 0.98}


def line(name: str, p50: float, size: int, **more) -> dict:
    base = {"name": name, "size_bytes": size, "latency_ms": {"p50": p50}, "agreement": SHARE, "kl_mean": 0.01}
    whole = base | {"accuracy": SHARE, "accuracy_loss": 0.0} | more
    outside = judge(whole, BUDGET)
    return whole | {"inside_budget": not outside, "outside": outside}


def test_fastest_candidate_inside_the_budget_is_chosen():
    """A faster candidate outside the budget loses to a slower one inside."""
    measured = [line("q4", 1.0, 10, kl_mean=0.2), line("q8", 2.0, 20), line("f16", 4.0, 40)]
    assert "q8" == fastest(measured, BUDGET)["name"]


def test_smaller_of_two_equally_fast_candidates_is_chosen():
    """Medians within 5% of each other count as equal, because they differ by chance; then the smaller candidate is
    chosen."""
    assert "small" == fastest([line("large", 1.00, 20), line("small", 1.04, 10), line("slow", 1.5, 1)], BUDGET)["name"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"agreement": SHARE | {"value": 0.89}}, "agreement under 0.9"),
        ({"kl_mean": 0.11}, "mean KL over 0.1"),
        ({"accuracy_loss": 0.06}, "accuracy loss over 0.05"),
    ],
)
def test_candidate_outside_the_budget_has_a_reason(more, said):
    """Each exceeded bound of the budget is a separate reason; if no candidate is inside, the error contains the table
    and the budget."""
    only = [line("q4", 1.0, 10, **more)]
    assert [said] == only[0]["outside"]
    with pytest.raises(ModelFailed, match="no candidate is inside the recipe's budget") as caught:
        fastest(only, BUDGET)
    assert re.search(f"q4 .*{said}", caught.value.details[-1])
    assert "agreement_min 0.9" in caught.value.remedy


def test_missing_figure_is_not_outside_the_budget():
    """A candidate without an accuracy (no labels) or a divergence (other kinds of task) is not rejected for it."""
    bare = line("q8", 1.0, 10, accuracy=None, accuracy_loss=None)
    del bare["kl_mean"]
    assert [] == judge(bare, BUDGET)
    assert "nan" in table([bare])


@given(st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_divergence_is_never_negative(labels, seed):
    """The divergence of two distributions is 0 or more, and 0 for equal distributions."""
    rng = np.random.default_rng(seed)
    full, served = (np.log(rng.dirichlet(np.ones(labels), 4) + 1e-12) for _ in range(2))
    full, served = (each - np.log(np.exp(each).sum(axis=1, keepdims=True)) for each in (full, served))
    assert (divergences(full, served) >= -1e-12).all()
    assert divergences(full, full) == pytest.approx(np.zeros(4), abs=1e-12)


@pytest.mark.slow
def test_candidates_are_measured_and_one_is_chosen(tmp_path):
    """A candidate with spoiled answers is outside the budget, a nearly unchanged one is chosen, and the report contains
    every figure."""
    job = stage_job(tmp_path / "run", "quantize", budget={"agreement_min": 0.9})
    full = job.folders["export"] / "model.onnx"
    candidates = [
        Candidate("broken", spoiled(tmp_path / "broken" / "model.onnx", 2.0), {"bits_per_weight": 4.5}),
        Candidate("near", spoiled(tmp_path / "near" / "model.onnx", 1e-3), {"bits_per_weight": 8.5}),
    ]
    report = choose(job, candidates, full)
    broken, near = report["candidates"]
    assert ("near\n", "near", 240) == ((job.out / "chosen").read_text(), report["chosen"], report["rows"])
    assert (False, True, 8.5) == (broken["inside_budget"], near["inside_budget"], near["bits_per_weight"])
    assert near["agreement"]["value"] > 0.95
    assert broken["agreement"]["value"] < 0.8
    assert 0.0 < near["kl_mean"] <= near["kl_p999"] <= near["kl_max"] < broken["kl_max"]
    assert 1.0 == pytest.approx(near["accuracy"]["value"] + near["accuracy_loss"])
    assert all(each["latency_ms"]["p50"] > 0 for each in report["candidates"])
    assert ["", ""] == [each["batch_invariance"]["problem"] for each in report["candidates"]]
    assert ["chosen", "chosen.json"] == sorted(path.name for path in job.out.iterdir())
    assert {key: near[key] for key in near if key != "latency_ms"} == json.loads((job.out / "chosen.json").read_text())


@pytest.mark.slow
def test_candidates_are_measured_against_a_given_reference(tmp_path):
    """If the caller passes log-probabilities as the reference, agreement and divergence are measured against these."""
    job = stage_job(tmp_path / "run", "quantize", budget={"agreement_min": 0.0, "kl_mean_max": 100.0,
                                                          "accuracy_loss_max": 1.0})  # fmt: skip
    full = job.folders["export"] / "model.onnx"
    count = len(DEFAULT_LABELS["classify"])

    def first_label(texts):
        sure = np.full((len(texts), count), np.log(1e-3))
        sure[:, 0] = np.log(1 - 1e-3 * (count - 1))
        return [sure]  # of the one question

    (one,) = choose(job, [Candidate("fp32", full)], full, first_label)["candidates"]
    (own,) = choose(job, [Candidate("fp32", full)], full)["candidates"]
    assert (1.0, pytest.approx(0.0, abs=1e-9)) == (own["agreement"]["value"], own["kl_mean"])
    assert one["agreement"]["value"] < 0.7
    assert one["kl_mean"] > 0.5


@pytest.mark.slow
def test_text_that_is_too_long_for_a_site_is_not_measured(tmp_path):
    """A text that a site would refuse as too long is not passed to the reference model and counts for no candidate."""
    labels = DEFAULT_LABELS["classify"]
    job = stage_job(tmp_path / "run", "quantize", budget={"agreement_min": 0.0, "kl_mean_max": 100.0,
                                                          "accuracy_loss_max": 1.0})  # fmt: skip
    with (tmp_path / "run" / "calibration.jsonl").open("a") as file:
        file.write(json.dumps({"text": "kettle " * 5000, "label": labels[0]}) + "\n")
    asked: list[str] = []

    def first_label(texts):
        asked.extend(texts)
        return [np.full((len(texts), len(labels)), -np.log(len(labels)))]

    full = job.folders["export"] / "model.onnx"
    report = choose(job, [Candidate("fp32", full)], full, first_label)
    assert (240, 240, 0) == (report["rows"], len(asked), report["candidates"][0]["failed"])
    assert max(map(len, asked)) < 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["extract", "embed"])
def test_other_kinds_are_measured_by_their_answers(tmp_path, kind):
    """For other kinds of task the report compares answers instead of label distributions: records agree if they are
    equal, vectors if their cosine is 0.99."""
    job = stage_job(tmp_path / "run", "quantize", kind, budget={"agreement_min": 0.95})
    full = job.folders["export"] / "model.onnx"
    other = spoiled(tmp_path / "other" / "model.onnx", 1.0, kind)
    report = choose(job, [Candidate("fp32", full), Candidate("other", other)], full)
    assert ("fp32", [1.0, False]) == (
        report["chosen"],
        [report["candidates"][0]["agreement"]["value"], report["candidates"][1]["inside_budget"]],
    )
    assert "kl_mean" not in report["candidates"][0]
