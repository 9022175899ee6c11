"""The part of the report with what a redaction bundle is proved to miss, and what the proof assumes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from convert.report.markdown_table import table
from convert.report.run_summary import interval, percent, plural

SHOWN = {"proved": "proved", "not proved": "not proved, so the test ends", "replaces harmless texts": "skipped: a site"
         " refuses a bundle that replaces harmless texts"}  # fmt: skip


def missed_bound(calibrate: Mapping[str, Any]) -> Iterator[str]:
    """Yield the section; without a target in the recipe only that nothing is proved."""
    yield "## What the redaction misses"
    yield calibrate["verdict"]
    if "tests" not in calibrate:
        yield "The recipe has no 'redaction.missed_max', so no bound on what is missed is proved."
        return
    yield assumptions(calibrate)
    rows = [
        [f"{each['cutoff']:g}", each["missed"], f"{each['capital']:.3g}", SHOWN[each["verdict"]]]
        for each in calibrate["tests"]
    ]
    yield (
        f"{plural(calibrate['documents'], 'document')} of {plural(calibrate['families'], 'family')} with"
        f" {plural(calibrate['values'], 'personal value')} were tested. A capital of {1 / calibrate['delta']:g} proves"
        " a cut-off:"
    )
    yield table(["cut-off", "values that remain", "capital", "result"], rows)
    if calibrate["failed"]:
        yield f"The model did not read {plural(calibrate['failed'], 'document')}; a site that holds keeps no such text."
    figures = calibrate["as_a_site_redacts"]
    yield f"With the model and the rules, at the cut-off {calibrate['cutoff']:g}, on the calibration documents:"
    shares = {"values found": "values_found", "texts in which something remains": "texts_that_leak",
              "texts without personal data in which something is replaced": "clean_touched"}  # fmt: skip
    measured = [[name, interval(figures[key])] for name, key in shares.items() if figures[key]]
    if figures["precision"] is not None:
        measured.append(["characters replaced that are personal", percent(figures["precision"])])
    yield table(["figure", "share"], measured)


def assumptions(calibrate: Mapping[str, Any]) -> str:
    """Return what the bound assumes, as sentences."""
    return (
        "The bound is for documents like those of the calibration split, in which each family is equally frequent, and"
        f" it counts as personal what their labels mark ({calibrate['labeled_by']}). It assumes the built-in rules of"
        f" version {calibrate['rules']} beside the model, and a site that holds what the model cannot read"
        " ('without_model: hold'). Patterns and regions of the site's own only find more. Check it at the site: with"
        " 'redaction.audit_share' in agent.yaml a person reads a random part of the texts beside their originals."
    )
