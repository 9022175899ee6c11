"""The report of a run: sentences, weaknesses and plots, also for a run with fewer stages."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from scipy import stats

from convert.data.splits import NearDuplicates
from convert.report import report_files
from convert.report.markdown import markdown
from convert.report.report_files import write_report
from convert.report.report_warnings import doubts
from convert.report.run_summary import RunSummary, duration, interval, number, percent
from tests.support.report_cases import CALIBRATE, EVALUATE, FINETUNE, QUANTIZE, RECIPE, SUMMARY, made, share

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
def test_report_is_written_as_json_and_markdown(tmp_path: Path):
    """report.json has the report of each stage, and report.md shows the plots that are written next to it."""
    assert write_report(tmp_path, made()) == tmp_path / "report.md"
    plain = json.loads((tmp_path / "report.json").read_bytes())
    assert plain["stages"]["calibrate"]["report"] == CALIBRATE
    assert plain["memory_peak_bytes"] == 700_000_006
    assert plain["data"]["rows"]["train"] == 946
    text = (tmp_path / "report.md").read_text()
    for name in report_files.PLOTS:
        assert f"]({name})" in text
        assert (tmp_path / name).read_bytes().startswith(PNG)


def test_headline_has_quality_guarantee_file_and_speed(tmp_path: Path):
    """The first list has the quality, the risk guarantee, the model file with its agreement, and the latency."""
    quality, guarantee, file, speed, *_ = markdown(made(), []).split("\n\n")[1].split("\n")
    assert quality.startswith("- **Quality.** It is right on 83.8% (95% interval")
    assert "of 331 test rows." in quality
    assert f"- **Guarantee.** {CALIBRATE['verdict']}" == guarantee
    assert file.startswith("- **Model file.** It is Q4_0, 91.7 MB, 5.39 bits per weight.")
    assert "same answer as the full-precision model on 95.1% (95% interval 93.9% to 96.3%) of the rows." in file
    assert "the same best choice in 100.0% of 819 positions, mean divergence 6e-10." in file
    assert speed == "- **Speed.** An answer takes 20.3 ms, 99% of them at most 31.0 ms, on this machine."


def test_headline_has_confident_answers_of_the_test_rows():
    """The headline has the share of confident answers in the test rows and of wrong ones among them; without confident
    answers it has a dash."""
    sure = {"coverage": share(0.6, 0.05), "wrong": share(0.04, 0.02)}
    first = markdown(made(evaluate=EVALUATE | {"sure": sure}), []).split("\n\n")[1]
    said = "60.0% (95% interval 55.0% to 65.0%) of the answers are confident, and 4.0% (95% interval 2.0% to 6.0%)"
    assert said in first
    none = {"coverage": share(0.0, 0.0), "wrong": {"value": None, "low": 0.0, "high": 1.0, "level": 0.95}}
    assert "and - (95%" in markdown(made(evaluate=EVALUATE | {"sure": none}), [])


def test_risk_guarantee_is_not_rounded():
    """Target and certainty are those of the recipe: 2.5% is not shown as 2%, and 99.5% is not shown as 100%."""
    report = made(calibrate=CALIBRATE | {"target_risk": 0.025, "delta": 0.005})
    assert any(
        line.startswith("The risk guarantee (at most 2.5% wrong, with 99.5% certainty)") for line in doubts(report)
    )
    assert "At this threshold at most 2.5% of the answers are wrong with 99.5% certainty" in markdown(report, [])
    assert "has a probability of at most 0.5% when more than 2.5% are wrong" in markdown(report, [])


def test_shares_of_gate_floor_and_threshold_are_shown():
    """The report has the share of rows that gate, floor and threshold hold up, and a bundle without a gate has the
    reason."""
    text = markdown(made(), [])
    assert "if its p-value is at most 3.0%, by 160 held-out rows." in text
    # The quantile of Beta(4, 157), by another implementation.
    assert (
        f"one such gate in ten holds up more than {100 * stats.beta.ppf(0.9, 4, 157):.1f}%. The floor is 0.5." in text
    )
    assert "| held up by the gate | 2.7% (95% interval 0.7% to 4.7%) |" in text
    assert "| confident: none of these | 54.5%" in text
    bare = CALIBRATE | {"gate": {"score": "none", "why": "It has no score."}}
    assert "The bundle has no gate. It has no score. An answer" in markdown(made(calibrate=bare), [])
    assert [line for line in doubts(made(calibrate=bare)) if line.startswith("The bundle has no gate")]


def test_row_at_the_gate_limit_is_explained():
    """If a row at the gate's limit gives two shares of confident answers, the report explains the difference; without
    such a row it does not mention it."""
    held_up = CALIBRATE["held_up"] | {"confident": share(225 / 411, 0.05)}
    said = "counts here as confident; the test of the threshold leaves it out, so 54.5% are confident there."
    assert said in markdown(made(calibrate=CALIBRATE | {"held_up": held_up}), [])
    assert "gate's limit" not in markdown(made(), [])
    nothing = CALIBRATE | {"threshold": None, "coverage": 0.0, "held_up": held_up}
    assert "gate's limit" not in markdown(made(calibrate=nothing), [])


def test_labels_held_up_too_often_are_named():
    """If the interval of a label's held-up share is above the gate's limit, the report names the label, five at most,
    and it also compares all rows with the limit."""
    labels = {f"label-{n}": EVALUATE["per_label"]["other"] | {"held_up": share(0.05 * n, 0.03)} for n in range(8)}
    evaluate = EVALUATE | {"per_label": labels, "gate": {"held_up_max": 0.03, "held_up": share(0.06, 0.02)}}
    text, said = markdown(made(evaluate=evaluate), []), list(doubts(made(evaluate=evaluate)))
    assert "held up by the gate |" in text
    assert (
        "The gate holds up 6.0% (95% interval 4.0% to 8.0%) of these rows. On average such a gate holds up at most 3.0%"
        in text
    )
    assert any(
        line.startswith("The gate holds up 6.0% (95% interval 4.0% to 8.0%) of the test rows, more") for line in said
    )
    (named,) = (line for line in said if line.startswith("The gate holds up more of the test rows of 'label-7' (35.0%"))
    assert "'label-3'" in named
    assert "and 1 other label than the 3.0% of all ordinary inputs" in named
    usual = evaluate | {"gate": {"held_up_max": 0.03, "held_up": share(0.03, 0.02)}, "per_label": {}}
    assert not [line for line in doubts(made(evaluate=usual)) if "gate holds up" in line]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "'other' is found in only 43.5% of its rows."),
        ({}, "'stock' has 7 test rows: its figures are uncertain."),
        (
            {},
            "1 test row got no answer (INPUT_TOO_LONG) and counts as wrong. It has more tokens than 'input_tokens_max'",
        ),
        (
            {},
            "30 tensors could not be stored as Q4_0 and got a larger type: the file has 5.39 bits per weight",
        ),
        ({}, "2 training rows were longer than 'finetune.tokens_max' and were left out."),
        ({}, "The last epoch of the training was the best one: more epochs can help."),
        ({}, "12 of 946 training rows were written by a model, not by people."),
        ({}, "The calibration split has no row of: refund."),
        (
            {},
            "The risk guarantee (at most 5% wrong, with 90% certainty) holds for inputs like the calibration rows,",
        ),
        (
            {"calibrate": CALIBRATE | {"threshold": None, "verdict": "No."}},
            "No answer of this bundle is confident. No.",
        ),
        (
            {"calibrate": CALIBRATE | {"rows": {"failed": 3}}},
            "3 calibration rows got no answer and took no part in the calibration. Most often an input is longer than",
        ),
        ({"calibrate": CALIBRATE | {"coverage": 0.1}}, "Only 10.0% of the answers are confident; all others escalate."),
        ({"evaluate": EVALUATE | {"accuracy": share(0.8, 0.1)}}, "the accuracy is only known to about ±10.0%."),
    ],
)
def test_each_weakness_of_a_run_is_reported(changed: dict[str, Any], said: str):
    """Each weakness of a run is reported in one sentence."""
    assert [line for line in doubts(made(**changed)) if said in line]


def test_run_without_weakness_has_only_the_general_caveat():
    """A run without weaknesses has only one caveat."""
    good = made(
        evaluate={"rows": 900, "accuracy": share(0.95, 0.01), "per_label": {}},
        quantize=QUANTIZE | {"chosen": "Q8_0"},
        finetune=FINETUNE | {"rows": {"train": 1}, "best_epoch": 1},
    )
    clean = RunSummary(RECIPE, "t", "1.0.0", type(SUMMARY)(SUMMARY.rows, SUMMARY.labels, {}, ()), good.records)
    assert [line.partition(" ")[0] for line in doubts(clean)] == ["The"]


@pytest.mark.parametrize("left", [0, 3, *(pytest.param(left, marks=pytest.mark.slow) for left in (1, 2, 4, 5, 6))])
def test_report_of_an_incomplete_run(tmp_path: Path, left: int):
    """A run with only its first stages has a report without gaps, with plots of the measured stages only."""
    whole = made()
    part = RunSummary(RECIPE, "t", "1.0.0", SUMMARY, whole.records[:left])
    text = write_report(tmp_path, part).read_text()
    assert "None" not in text
    assert {path.name for path in tmp_path.glob("*.png")} == {
        name for name in report_files.PLOTS if f"]({name})" in text
    }
    assert ("The calibrate stage has not run." in text) == (left < 5)


def test_special_characters_in_labels_are_escaped():
    """A vertical bar in a label is escaped in the tables of the report."""
    assert "| refund | a\\|b | 1 |" in markdown(made(), [])


@pytest.mark.slow
def test_plots_of_the_same_run_are_identical(tmp_path: Path):
    """Two reports of the same run have identical plots, because plots contain neither time nor version."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_report(tmp_path / folder, made())
    for name in report_files.PLOTS:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {"calibrate": CALIBRATE | {"threshold": None, "coverage": 0.0}},
        {
            "calibrate": CALIBRATE
            | {"walk": [{"threshold": 0.9, "rows": 3, "errors": 3, "verdict": "failed"}], "threshold": None}
        },
        {"quantize": QUANTIZE | {"candidates": QUANTIZE["candidates"][:1], "chosen": "F16"}},
        {"calibrate": {"verdict": "A task of kind generate has no confidence.", "kind": "generate"}},
    ],
)
def test_report_of_unusual_results_is_written(tmp_path: Path, changed: dict[str, Any]):
    """A report is written for a run without a threshold, with one candidate, with one tested threshold or without
    calibration."""
    assert write_report(tmp_path, made(**changed)).read_text()


def test_numbers_are_formatted_with_units():
    """Percentages, durations and numbers have units and digits that fit their size."""
    assert [percent(0.12345), percent(0.05, 0), percent(None)] == ["12.3%", "5%", "-"]
    assert [duration(3.21), duration(605)] == ["3.2 s", "10 min 05 s"]
    assert [duration(59.97), duration(119.7)] == ["1 min 00 s", "2 min 00 s"]
    assert [number(461_000), number(0.000123456)] == ["461 000", "0.0001235"]
    assert interval(share(0.5, 0.1)) == "50.0% (95% interval 40.0% to 60.0%)"


def test_report_lists_label_sources():
    """The report counts labels by their source and states the assumption for splits without one."""
    said = markdown(made(), ())
    assert "| labels that people confirmed | 0 | 500 | 331 |" in said
    assert "| labels of a large model | 200 | 0 | 0 |" in said
    assert "do not name the source of their labels (calibration). Figures and threshold assume that people" in said


# --- what the page says of the test, and what the plots show ------------------------------------------------------


def confidence_part(**changed: Any) -> str:
    """Return the section of the report on confidence."""
    return markdown(made(calibrate=CALIBRATE | changed), []).split("## Confidence")[1].split("##")[0]


def test_threshold_test_is_explained_in_five_sentences():
    """Five sentences explain the rows of the test, its first threshold, its condition and its guarantee."""
    paragraph = next(part for part in confidence_part().split("\n\n") if part.startswith("The threshold was tested"))
    assert 5 == len(re.findall(r"\.(?: |$)", paragraph))
    assert "tested on 411 rows, one of each family" in paragraph
    assert "the first threshold to test, here 0.95." in paragraph
    assert "a probability of at most 10% when more than 5% are wrong" in paragraph
    assert "at most 5% of the answers are wrong with 90% certainty" in paragraph


@pytest.mark.parametrize(
    ("fit", "said"),
    [
        ({"tried": 1.62, "gain": 0.031, "error": 0.008, "kept": True}, "it is kept. On the rows of the threshold the"),
        (
            {"tried": 1.07, "gain": 0.001, "error": 0.004, "kept": False},
            "no significant gain, so the temperature stays",
        ),
    ],
)
def test_report_states_if_the_temperature_is_kept(fit: dict[str, Any], said: str):
    """The report states whether the fitted temperature is kept, by its gain on held-out rows."""
    assert said in confidence_part(temperature_fit=fit)


def test_temperature_that_raises_the_log_loss_is_reported():
    """If the temperature raises the log loss of the other rows, the report states that it is worse."""
    sides = CALIBRATE["reliability"]
    worse = {"before": sides["before"] | {"log_loss": 0.2}, "after": sides["after"] | {"log_loss": 0.21}}
    assert "changes from 0.2000 to 0.2100, which is worse" in confidence_part(reliability=worse)
    assert "worse" not in confidence_part()


def test_threshold_test_passed_by_all_is_explained():
    """If each tested threshold passed down to the lowest, the report explains it."""
    walk = [{"threshold": 0.9, "rows": 90, "errors": 1, "verdict": "passed"},
            {"threshold": 0.01, "rows": 411, "errors": 2, "verdict": "passed"}]  # fmt: skip
    assert "Every threshold from the start down to the lowest, 0.01, passed" in confidence_part(walk=walk)
    assert "Every threshold" not in confidence_part()


def test_note_on_bins_is_in_text_and_plot():
    """The note on too few bins is in the text and under the plot."""
    few = {"bins": CALIBRATE["reliability"]["after"]["bins"][:1], "note": "3 rows are too few to divide."}
    sides = {when: side | few for when, side in CALIBRATE["reliability"].items()}
    assert 1 == confidence_part(reliability=sides).count("3 rows are too few to divide.")
    figure = report_files.reliability(made(calibrate=CALIBRATE | {"reliability": sides}))
    assert figure is not None
    assert ["confidence\n3 rows are too few to divide."] * 2 == [axes.get_xlabel() for axes in figure.axes]


def overlapping(figure: Any) -> list[tuple[str, str]]:
    """Return pairs of texts in a figure that overlap."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    texts = [each for each in figure.findobj(Text) if each.get_visible() and each.get_text().strip()]
    boxes = [(each.get_text(), each.get_window_extent()) for each in texts]
    return [(one, other) for (one, left), (other, right) in itertools.combinations(boxes, 2) if left.overlaps(right)]


CROWDED = QUANTIZE | {
    "candidates": [each | {"latency_ms": {"p50": 20.0 + 0.4 * at}, "agreement": share(0.97 + 0.004 * at, 0.01)}
                   for at, each in enumerate(QUANTIZE["candidates"])]
}  # fmt: skip
NOWHERE = CALIBRATE | {"threshold": None, "coverage": 0.0}


@pytest.mark.parametrize("changed", [{}, {"quantize": CROWDED}, {"calibrate": NOWHERE}])
def test_texts_of_a_plot_do_not_overlap(changed: dict[str, Any]):
    """Counts, labels, legends, titles and ticks of each plot do not overlap, even if candidates are close together."""
    for draw in report_files.PLOTS.values():
        figure = draw(made(**changed))
        assert figure is not None
        assert [] == overlapping(figure)


def test_plot_shows_only_tested_thresholds():
    """The risk plot shows limits for tested thresholds only, and its legend names first, failed and chosen
    threshold."""
    figure = report_files.risk_coverage(made())
    assert figure is not None
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"first tested, 0.95", "failed, 0.8: the test ends", "threshold, 0.86"} <= set(words)
    limit = next(line for line in figure.axes[0].lines if line.get_label().startswith("largest share that passes"))
    assert [102 / 411, 188 / 411, 224 / 411, 261 / 411] == pytest.approx(list(limit.get_xdata()))


def test_near_duplicates_are_counted_for_each_pair_of_splits():
    """The report has a sentence on near duplicates for each pair of splits, also if there are none."""
    none = NearDuplicates("train", "test", 0, 331, ())
    some = NearDuplicates("train", "calibration", 2, 571, (("um a b", "a b"),))
    told = RunSummary(RECIPE, "t", "1.0.0", replace(SUMMARY, near_copies=(none, some)), made().records)
    said = markdown(told, [])
    assert "0 of 331 test rows (0.0%) are near duplicates of train rows." in said
    assert "2 of 571 calibration rows (0.4%) are near duplicates of train rows, such as 'um a b' of 'a b'." in said


def test_headline_has_accuracy_without_near_duplicates():
    """The headline has the number of near duplicates and the accuracy without them, next to the overall one."""
    copies = {"near_copies": {"rows": 150}, "without_near_copies": {"rows": 181, "accuracy": share(0.7, 0.07)}}
    first = markdown(made(evaluate=EVALUATE | copies), []).split("\n\n")[1]
    assert "150 test rows (45.3%) are near duplicates of training or calibration rows." in first
    assert "Without them it is right on 70.0% (95% interval 63.0% to 77.0%) of 181." in first
    none = markdown(made(evaluate=EVALUATE | {"near_copies": {"rows": 0}}), [])
    assert "No test row is a near duplicate of a training or calibration row." in none
