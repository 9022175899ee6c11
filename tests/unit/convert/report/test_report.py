"""The report of a run: sentences, doubts, plots; and that a run which came less far has a shorter one."""

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
def test_a_report_is_written_for_programs_and_for_people(tmp_path: Path):
    """report.json has every stage's own report; report.md shows the plots that lie beside it."""
    assert write_report(tmp_path, made()) == tmp_path / "report.md"
    plain = json.loads((tmp_path / "report.json").read_bytes())
    assert plain["stages"]["calibrate"]["report"] == CALIBRATE
    assert plain["memory_peak_bytes"] == 700_000_006
    assert plain["data"]["rows"]["train"] == 946
    text = (tmp_path / "report.md").read_text()
    for name in report_files.PLOTS:
        assert f"]({name})" in text
        assert (tmp_path / name).read_bytes().startswith(PNG)


def test_the_first_list_says_what_a_team_asks(tmp_path: Path):
    """How good, what its risk guarantee is, which file and how faithful, how fast."""
    quality, guarantee, file, speed, *_ = markdown(made(), []).split("\n\n")[1].split("\n")
    assert quality.startswith("- **Quality.** It is right on 83.8% (95% interval")
    assert "of 331 test rows." in quality
    assert f"- **Guarantee.** {CALIBRATE['verdict']}" == guarantee
    assert file.startswith("- **Model file.** It is Q4_0, 91.7 MB, 5.39 bits per weight.")
    assert "same answer as the full-precision model on 95.1% (95% interval 93.9% to 96.3%) of the rows." in file
    assert "the same best choice in 100.0% of 819 positions, mean divergence 6e-10." in file
    assert speed == "- **Speed.** An answer takes 20.3 ms, 99% of them at most 31.0 ms, on this machine."


def test_the_promise_is_checked_on_the_test_rows():
    """The shares of confident answers and of wrong ones among them are next to the accuracy; without any, a dash."""
    sure = {"coverage": share(0.6, 0.05), "wrong": share(0.04, 0.02)}
    first = markdown(made(evaluate=EVALUATE | {"sure": sure}), []).split("\n\n")[1]
    said = "60.0% (95% interval 55.0% to 65.0%) of the answers are confident, and 4.0% (95% interval 2.0% to 6.0%)"
    assert said in first
    none = {"coverage": share(0.0, 0.0), "wrong": {"value": None, "low": 0.0, "high": 1.0, "level": 0.95}}
    assert "and - (95%" in markdown(made(evaluate=EVALUATE | {"sure": none}), [])


def test_a_guarantee_is_not_rounded_to_a_stricter_one():
    """Target and certainty are those of the recipe: 2.5% is not 2%, and 99.5% is not 100%."""
    report = made(calibrate=CALIBRATE | {"target_risk": 0.025, "delta": 0.005})
    assert any(
        line.startswith("The risk guarantee (at most 2.5% wrong, with 99.5% certainty)") for line in doubts(report)
    )
    assert "At this threshold at most 2.5% of the answers are wrong with 99.5% certainty" in markdown(report, [])
    assert "has a probability of at most 0.5% when more than 2.5% are wrong" in markdown(report, [])


def test_what_each_check_of_a_confident_answer_holds_up_is_shown():
    """Gate, floor and threshold each have their share of the rows that prove; a bundle without a gate says why."""
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


def test_a_row_at_the_gates_limit_explains_two_shares_of_confident_answers():
    """The gate lets it pass, and the test of the threshold leaves it out; without such a row there is one share."""
    held_up = CALIBRATE["held_up"] | {"confident": share(225 / 411, 0.05)}
    said = "counts here as confident; the test of the threshold leaves it out, so 54.5% are confident there."
    assert said in markdown(made(calibrate=CALIBRATE | {"held_up": held_up}), [])
    assert "gate's limit" not in markdown(made(), [])
    nothing = CALIBRATE | {"threshold": None, "coverage": 0.0, "held_up": held_up}
    assert "gate's limit" not in markdown(made(calibrate=nothing), [])


def test_a_label_that_the_gate_holds_up_more_often_than_it_promises_is_named():
    """The gate promises a share of all inputs together; labels are named where the interval is above it, five at most.

    The table has a column for it, and the rows as a whole are in a sentence.
    """
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
def test_what_there_is_to_doubt_is_said(changed: dict[str, Any], said: str):
    """Each weakness of a run is one sentence."""
    assert [line for line in doubts(made(**changed)) if said in line]


def test_a_run_without_weakness_doubts_only_what_cannot_be_known():
    """Nothing is said for the sake of saying it."""
    good = made(
        evaluate={"rows": 900, "accuracy": share(0.95, 0.01), "per_label": {}},
        quantize=QUANTIZE | {"chosen": "Q8_0"},
        finetune=FINETUNE | {"rows": {"train": 1}, "best_epoch": 1},
    )
    clean = RunSummary(RECIPE, "t", "1.0.0", type(SUMMARY)(SUMMARY.rows, SUMMARY.labels, {}, ()), good.records)
    assert [line.partition(" ")[0] for line in doubts(clean)] == ["The"]


@pytest.mark.parametrize("left", [0, 3, *(pytest.param(left, marks=pytest.mark.slow) for left in (1, 2, 4, 5, 6))])
def test_a_run_that_came_less_far_has_a_shorter_report(tmp_path: Path, left: int):
    """Any first stages alone make a report without holes; what was drawn is what was measured."""
    whole = made()
    part = RunSummary(RECIPE, "t", "1.0.0", SUMMARY, whole.records[:left])
    text = write_report(tmp_path, part).read_text()
    assert "None" not in text
    assert {path.name for path in tmp_path.glob("*.png")} == {
        name for name in report_files.PLOTS if f"]({name})" in text
    }
    assert ("The calibrate stage has not run." in text) == (left < 5)


def test_a_table_survives_what_labels_may_hold():
    """A bar or a line break in a label does not break the table."""
    assert "| refund | a\\|b | 1 |" in markdown(made(), [])


@pytest.mark.slow
def test_the_same_run_draws_the_same_bytes(tmp_path: Path):
    """A plot holds no time and no version."""
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
def test_unusual_results_are_drawn_or_left_out(tmp_path: Path, changed: dict[str, Any]):
    """No threshold, one candidate, one step or no calibration at all make a report too."""
    assert write_report(tmp_path, made(**changed)).read_text()


def test_numbers_are_said_as_people_read_them():
    """Units and digits fit the size of the number."""
    assert [percent(0.12345), percent(0.05, 0), percent(None)] == ["12.3%", "5%", "-"]
    assert [duration(3.21), duration(605)] == ["3.2 s", "10 min 05 s"]
    assert [duration(59.97), duration(119.7)] == ["1 min 00 s", "2 min 00 s"]
    assert [number(461_000), number(0.000123456)] == ["461 000", "0.0001235"]
    assert interval(share(0.5, 0.1)) == "50.0% (95% interval 40.0% to 60.0%)"


def test_the_report_says_who_labelled():
    """Labels by their source, and the assumption about those that do not say."""
    said = markdown(made(), ())
    assert "| labels that people confirmed | 0 | 500 | 331 |" in said
    assert "| labels of a large model | 200 | 0 | 0 |" in said
    assert "do not name the source of their labels (calibration). Figures and threshold assume that people" in said


# --- what the page says of the test, and what the plots show ------------------------------------------------------


def confidence_part(**changed: Any) -> str:
    """Return the part of the report about confidence."""
    return markdown(made(calibrate=CALIBRATE | changed), []).split("## Confidence")[1].split("##")[0]


def test_the_test_is_explained_in_five_sentences():
    """Which rows and where it starts, what passes, and what the last that passed is worth."""
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
def test_what_becomes_of_the_temperature_is_said(fit: dict[str, Any], said: str):
    """Kept or not, with its gain on rows held out of the fit."""
    assert said in confidence_part(temperature_fit=fit)


def test_a_temperature_that_makes_it_worse_is_remarked():
    """Where the log loss of the other rows rises, the report says so."""
    sides = CALIBRATE["reliability"]
    worse = {"before": sides["before"] | {"log_loss": 0.2}, "after": sides["after"] | {"log_loss": 0.21}}
    assert "changes from 0.2000 to 0.2100, which is worse" in confidence_part(reliability=worse)
    assert "worse" not in confidence_part()


def test_a_walk_that_passes_everywhere_says_what_that_means():
    """The lowest threshold is no mistake: all answers together keep the target."""
    walk = [{"threshold": 0.9, "rows": 90, "errors": 1, "verdict": "passed"},
            {"threshold": 0.01, "rows": 411, "errors": 2, "verdict": "passed"}]  # fmt: skip
    assert "Every threshold from the start down to the lowest, 0.01, passed" in confidence_part(walk=walk)
    assert "Every threshold" not in confidence_part()


def test_bins_that_show_little_are_said_in_words():
    """The note of the bins stands in the text and under the plot."""
    few = {"bins": CALIBRATE["reliability"]["after"]["bins"][:1], "note": "3 rows are too few to divide."}
    sides = {when: side | few for when, side in CALIBRATE["reliability"].items()}
    assert 1 == confidence_part(reliability=sides).count("3 rows are too few to divide.")
    figure = report_files.reliability(made(calibrate=CALIBRATE | {"reliability": sides}))
    assert figure is not None
    assert ["confidence\n3 rows are too few to divide."] * 2 == [axes.get_xlabel() for axes in figure.axes]


def overlapping(figure: Any) -> list[tuple[str, str]]:
    """Return the pairs of words in a figure that lie over each other."""
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
def test_no_words_of_a_plot_lie_over_others(changed: dict[str, Any]):
    """Counts, labels, legends, titles and ticks have room, also where candidates are near each other."""
    for draw in report_files.PLOTS.values():
        figure = draw(made(**changed))
        assert figure is not None
        assert [] == overlapping(figure)


def test_the_walk_is_plotted_as_it_was_tested():
    """Only tested thresholds have a limit; start, failure and threshold are named in the legend."""
    figure = report_files.risk_coverage(made())
    assert figure is not None
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"first tested, 0.95", "failed, 0.8: the test ends", "threshold, 0.86"} <= set(words)
    limit = next(line for line in figure.axes[0].lines if line.get_label().startswith("largest share that passes"))
    assert [102 / 411, 188 / 411, 224 / 411, 261 / 411] == pytest.approx(list(limit.get_xdata()))


def test_near_copies_are_counted_in_every_report():
    """The data part has a sentence for each pair of splits, also where there are none; JSON has them, too."""
    none = NearDuplicates("train", "test", 0, 331, ())
    some = NearDuplicates("train", "calibration", 2, 571, (("um a b", "a b"),))
    told = RunSummary(RECIPE, "t", "1.0.0", replace(SUMMARY, near_copies=(none, some)), made().records)
    said = markdown(told, [])
    assert "0 of 331 test rows (0.0%) are near duplicates of train rows." in said
    assert "2 of 571 calibration rows (0.4%) are near duplicates of train rows, such as 'um a b' of 'a b'." in said


def test_the_headline_without_near_copies_stands_beside_the_other():
    """Both in the first list, with how many rows are copies."""
    copies = {"near_copies": {"rows": 150}, "without_near_copies": {"rows": 181, "accuracy": share(0.7, 0.07)}}
    first = markdown(made(evaluate=EVALUATE | copies), []).split("\n\n")[1]
    assert "150 test rows (45.3%) are near duplicates of training or calibration rows." in first
    assert "Without them it is right on 70.0% (95% interval 63.0% to 77.0%) of 181." in first
    none = markdown(made(evaluate=EVALUATE | {"near_copies": {"rows": 0}}), [])
    assert "No test row is a near duplicate of a training or calibration row." in none
