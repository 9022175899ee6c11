"""One example as rows of each training format."""

from __future__ import annotations

from typing import Any

import pytest

from convert.dataset import row_formats
from convert.dataset.row_formats import CollectedExample

BY_ANNA = ("corrected", "anna")
RIGHT = CollectedExample("s", "p", "in", "out", "out", "accept", *BY_ANNA)
WRONG = CollectedExample("s", "p", "in", "out", "right", "corrected", *BY_ANNA)
BAD = CollectedExample("s", "p", "in", "out", None, "reject", *BY_ANNA)
ASKED = [{"role": "user", "content": "in"}]


def said(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]


@pytest.mark.parametrize(
    ("form", "example", "expected"),
    [
        ("text-label", WRONG, [{"text": "in", "label": "right"}]),
        ("prompt-completion", WRONG, [{"prompt": "in", "completion": "right"}]),
        ("messages", RIGHT, [{"messages": [*ASKED, *said("out")]}]),
        ("preference", WRONG, [{"prompt": ASKED, "chosen": said("right"), "rejected": said("out")}]),
        ("unpaired", RIGHT, [{"prompt": ASKED, "completion": said("out"), "label": True}]),
        ("unpaired", BAD, [{"prompt": ASKED, "completion": said("out"), "label": False}]),
        (
            "unpaired",
            WRONG,
            [
                {"prompt": ASKED, "completion": said("out"), "label": False},
                {"prompt": ASKED, "completion": said("right"), "label": True},
            ],
        ),
    ],
)
def test_example_is_written_in_each_format(
    form: row_formats.Format, example: CollectedExample, expected: list[dict[str, Any]]
):
    """Each format has the keys that its reader requires, with the row's origin."""
    origin = {"site": "s", "prediction_id": "p", "label_source": "corrected", "labeled_by": "anna"}
    assert [{**row, **origin} for row in expected] == row_formats.rows_of(example, form)
