"""The page: whole HTML that needs nothing else, for every eye, whatever tasks and labels are called."""

import json
import re
from dataclasses import replace

import pytest

from edge_agent.formatting import amount, count, count_of, interval, milliseconds, percent
from edge_agent.report import charts
from edge_agent.report.judgement import SCHEMA, ReportHeader, headline, judge_task, report_json, summary_tiles
from edge_agent.report.report_page import TEMPLATES, render_commands, render_page
from edge_agent.report.suitability import CostAssumptions
from edge_agent.report.task_figures import ComparisonCount, ConfidenceBand, LabelFigures, TaskAlarm
from tests.support.report_figures import ABOUT, BEGUN, HYBRID, LITTLE, SHADOW, STATES, Outline, confident, day, figures

HOSTILE = "</title><script>alert(1)</script>\"'&amp;<img src=x onerror=alert(2)>"


def written(*tasks, wish=CostAssumptions("EUR")):  # noqa: B008 - a frozen value
    """Write the page of some tasks."""
    return render_page([judge_task(each, wish) for each in tasks], ABOUT)


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_a_whole_page(state):
    """From nothing to much: elements are closed in order, names are given once, references lead to them."""
    outline = Outline(written(*STATES[state]))
    names = outline.values("id")
    assert len(names) == len(set(names))
    assert [] == [name for name in " ".join(outline.values("aria-labelledby")).split() if name not in names]
    assert set() == {link.removeprefix("#") for link in outline.values("href")} - set(names)
    assert 1 == outline.count("h1")
    assert len(STATES[state]) == outline.count("h2")


@pytest.mark.parametrize("state", STATES)
def test_it_needs_nothing_from_elsewhere(state):
    """No script, no picture, no font and no style from anywhere: the file alone is the report."""
    html = written(*STATES[state])
    outline = Outline(html)
    assert 0 == outline.count("script", "link", "img", "iframe", "object")
    assert [] == outline.values("src")
    assert [] == [name for _, each in outline.elements for name in each if name.startswith("on")]
    assert "url(" not in html
    assert "default-src 'none'" in html


def test_every_chart_has_words_and_a_table():
    """Who does not see a chart has its title, what it shows in a sentence, and its figures as a table."""
    outline = Outline(written(SHADOW, HYBRID))
    charts = outline.count("figure")
    assert 12 == charts
    assert charts == outline.count("figcaption") == outline.count("details") == outline.count("caption")
    assert charts == outline.values("role").count("img") == outline.count("desc")


def test_tables_scroll_by_the_keyboard():
    """A table that is wider than a telephone can be focused, and says what it is."""
    tags = re.findall(r'<div class="scroll"[^>]*>', written(SHADOW))
    assert len(tags) > 3
    assert all('tabindex="0"' in tag and 'aria-label="' in tag for tag in tags)


def test_the_first_lines_say_what_a_manager_asks():
    """Summary, mode, advice and the six numbers stand before any table."""
    said = " ".join(Outline(written(SHADOW)).words)
    before = said[: said.index("Should this task have a small model?")]
    for wanted in ("Next: hybrid", "shadow: now", "hybrid: next", "80%", "92%", "0.51 EUR", "2\u202f004", "Saved"):
        assert wanted in before


@pytest.mark.parametrize(
    ("gate", "threshold", "held_up", "expected"),
    [
        ("ood_score", 0.9, {"BELOW_THRESHOLD": 6, "BELOW_FLOOR": 1, "OUT_OF_DISTRIBUTION": 3},
         ("10%", "6 below the threshold; 1 below the floor; 3 out of distribution")),
        ("ood_score", 0.9, {}, ("10%", "of 100 answers")),
        ("none", 0.9, {"BELOW_THRESHOLD": 10},
         ("10%", "10 below the threshold; no gate: an input unlike the training data can get a confident answer")),
        ("none", None, {"BELOW_THRESHOLD": 10}, ("10%", "10 without a threshold")),
        ("", 0.9, {"BELOW_THRESHOLD": 10}, ("10%", "10 below the threshold")),
    ],
)  # fmt: skip
def test_the_report_says_what_held_answers_up(gate, threshold, held_up, expected):
    """The share of answers that were not confident, what each limit held up, and what no gate means."""
    days = (day(answers={"local": 100}, sure=90, unsure=10, held_up=held_up),)
    task = figures(days=days, gate=gate, threshold=threshold)
    (found,) = [(number, rests) for what, number, rests in summary_tiles(judge_task(task)) if what == "Not confident"]
    assert expected == found


def test_a_task_in_mode_local_rests_on_the_threshold_of_its_bundle():
    """Nobody compares its answers, so the share of confident ones is shown, and not that nothing is proved."""
    task = figures(mode="local", threshold=0.8, days=(day(answers={"local": 100}, sure=90, unsure=10),))
    tiles = {what: (number, rests) for what, number, rests in summary_tiles(judge_task(task))}
    assert ("90%", "by the bundle's own threshold; nothing was compared here") == tiles["Could be answered locally"]
    compared = replace(task, confident=confident((0.9, 20, 9)))
    assert (
        "not yet"
        == {what: number for what, number, _ in summary_tiles(judge_task(compared))}["Could be answered locally"]
    )


def test_hostile_names_are_only_letters():
    """A task, a label, a model and a currency that look like HTML are shown as they are, and do nothing."""
    task = figures(
        task=HOSTILE,
        days=(
            day(answers={"local": 40, "upstream": 60}, priced=60, cost_micros=6000, compared=ComparisonCount(60, 50)),
        ),
        labels=(LabelFigures(HOSTILE, 60, 60, ComparisonCount(60, 50)),),
        confident=confident((0.5, 60, 50)),
    )
    html = render_page([judge_task(task, CostAssumptions(HOSTILE))], ReportHeader(HOSTILE, HOSTILE, HOSTILE, HOSTILE))
    outline = Outline(html)
    assert 0 == outline.count("script", "img")
    assert HOSTILE in "".join(outline.words)
    assert [] == [name for _, each in outline.elements for name in each if name.startswith("on")]


def test_without_tasks_it_says_how_to_get_one():
    """An empty daemon gives a page, too."""
    said = render_page([], ABOUT, "'edge-agent media import' brings tasks.")
    assert "No tasks yet. <code>edge-agent media import</code> brings tasks." in said


@pytest.mark.parametrize(
    ("task", "says"),
    [(BEGUN, "Stay in bootstrap"), (SHADOW, "Next: hybrid"), (HYBRID, "Stay in hybrid"), (LITTLE, "Stay in bootstrap")],
)
def test_the_headline_is_the_next_step(task, says):
    """A few words say what to do."""
    assert says == headline(judge_task(task))


def luminance(colour):
    """Return how light a colour is, as WCAG 2 reckons."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """Return the contrast of two colours, 1 to 21."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("at", [0, 1, 2], ids=["light", "dark", "paper"])
def test_everything_can_be_read(at):
    """Letters have a contrast of 4.5 and marks of 3 against what is behind them, in light, dark and on paper."""
    block = re.findall(r":root \{(.*?)\}", (TEMPLATES / "report.css").read_text(encoding="utf-8"), re.DOTALL)[at]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", block))
    full = {
        name: each if len(each) == 7 else "#" + "".join(2 * one for one in each[1:]) for name, each in colours.items()
    }
    for ground in ("paper", "sheet"):
        for letters in ("ink", "soft", "a", "good", "warn"):
            assert 4.5 <= contrast(full[letters], full[ground]), (letters, ground)
        for mark in ("b", "c", "d", "bad"):
            assert 3 <= contrast(full[mark], full[ground]), (mark, ground)


def test_the_document_has_every_figure():
    """JSON holds what the page shows and nothing that is no number; what is not known is null."""
    plain = json.loads(json.dumps(report_json([judge_task(SHADOW), judge_task(BEGUN)], ABOUT), allow_nan=False))
    assert (SCHEMA, "shop-12", "large-1") == (plain["schema"], plain["site"], plain["large_model"])
    ready, begun = plain["tasks"]
    assert ("hybrid", "RISK_HOLDS") == (ready["advice"]["mode"], ready["advice"]["why"])
    assert 0.75 == ready["could_take"]["above"]
    assert (2000, 0.95) == (ready["agreement"]["rows"], ready["agreement"]["level"])
    assert [100, 500, 1000] == [step["examples"] for step in ready["examples"]["steps"]]
    assert (None, None) == (begun["agreement"]["value"], begun["money"]["saved_micros"])
    assert ["specificity", "data", "economics", "constraints"] == [each["about"] for each in begun["framework"]]


@pytest.mark.parametrize(
    ("people", "wanted", "judges"),
    [
        (ComparisonCount(), "The large model's answers count as right here, although it makes errors itself", (0, 300)),
        (
            ComparisonCount(12, 12),
            "For 12 answers the judgement of people counts; for the other 288 it is the large model's",
            (12, 288),
        ),
    ],
)
def test_it_is_said_whose_word_counts(people, wanted, judges):
    """Beside the number on the page, and in JSON."""
    seen = ConfidenceBand(0.9, 300, ComparisonCount(300, 300), people, people.rows)
    judged = judge_task(figures(confident=(seen,)))
    by_people, by_large = judges
    plain = report_json([judged], ABOUT)["tasks"][0]["could_take"]["judged_by"]
    assert (by_people, by_large) == (plain["people"], plain["large_model"])
    assert plain["note"].startswith(wanted)
    words = " ".join(Outline(render_page([judged], ABOUT)).words)
    assert plain["note"] in words
    assert f"by {'people and ' if by_people else ''}the large model" in words


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (percent(None), "-"),
        (percent(0), "0%"),
        (percent(1), "100%"),
        (percent(0.9996), "99.9%"),
        (percent(0.00001), "0.1%"),
        (percent(0.996), "99.6%"),
        (percent(0.05), "5%"),
        (percent(0.034), "3.4%"),
        (percent(0.5), "50%"),
        (count(12345), "12\u202f345"),
        (count_of(1, "label"), "1 label"),
        (amount(None), "-"),
        (amount(0, "EUR"), "0.00 EUR"),
        (amount(260), "0.00026"),
        (amount(12_345_678_000), "12\u202f345.68"),
        (milliseconds(0), "-"),
        (milliseconds(2.9), "2.9 ms"),
        (milliseconds(1240), "1.2 s"),
        (interval(judge_task(BEGUN).agreement), "-"),
    ],
)
def test_numbers_read_well(said, wanted):
    """Numbers have as many digits as they need."""
    assert wanted == said


def test_nearly_all_is_not_called_all():
    """Of a thousand one differs: that is not written as 100%."""
    assert "99.9%" == percent(0.999)


@pytest.mark.parametrize(("most", "end"), [(0, 1), (1, 1), (3, 4), (9, 12), (101, 120), (0.013, 0.02), (130, 200)])
def test_axes_end_at_round_numbers(most, end):
    """An axis goes a little beyond what is drawn, to a number whose quarters are short."""
    assert end == pytest.approx(charts.round_up(most))


def test_names_below_a_chart_do_not_overlap():
    """Of many days as many are named as have room, the last one among them."""
    drawn = charts.below(charts.DrawingArea(x_max=60), [(float(at), f"11-{at:02}") for at in range(60)])
    assert len(drawn) <= 8
    assert "11-59" in drawn[0]
    assert "long-na…" == charts.cut("long-name-of-a-label", 8)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("Run 'edge-agent mode x hybrid'.", "Run <code>edge-agent mode x hybrid</code>."),
        ("Is the server's clock right? 'date' shows it.", "Is the server's clock right? <code>date</code> shows it."),
        ("The site's root.json, the site's 'root_file'.", "The site's root.json, the site's <code>root_file</code>."),
        ("No issuer's certificate, and no client's.", "No issuer's certificate, and no client's."),
        ("'<b>' & 'a'", "<code>&lt;b&gt;</code> &amp; <code>a</code>"),
    ],
)
def test_only_what_is_quoted_is_code(text, html):
    """An apostrophe begins no command, however many there are."""
    assert html == render_commands(text)


def test_an_alarm_is_a_sentence_of_its_own():
    """Its message continues a line of the log; as a heading it begins with a capital letter."""
    alarm = TaskAlarm("new_inputs", "since 2026-12-01 about 30% of the inputs are new", "Look.")
    html = render_page([judge_task(figures(alarms=(alarm,)))], ABOUT)
    assert "<p>Since 2026-12-01 about 30% of the inputs are new.</p>" in html
