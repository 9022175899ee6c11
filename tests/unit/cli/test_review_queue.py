"""The review queue in a terminal."""

from __future__ import annotations

from edge_agent.cli.review_queue import lines_of_keys

LONG = [
    "Enter accept",
    "1 card_payment_fee_charged",
    "2 direct_debit_payment_not_recognised",
    "3 " + "x" * 60,
    "! reject",
]


def test_key_and_its_label_stay_on_one_line():
    """A line ends before a key that does not fit, also with wide characters; a label wider than the terminal has its
    own line."""
    assert [
        "  Enter accept",
        "  1 card_payment_fee_charged",
        "  2 direct_debit_payment_not_recognised",
        f"  3 {60 * 'x'}",
        "  ! reject",
    ] == list(lines_of_keys(LONG, 40))
    assert ["  1 a   2 b   ! reject"] == list(lines_of_keys(["1 a", "2 b", "! reject"], 80))
    assert ["  1 日本語", "  2 日本語"] == list(lines_of_keys(["1 日本語", "2 日本語"], 20))
