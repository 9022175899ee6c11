"""Unexpected exceptions of a model library in the child: what the log holds."""

import pytest

from edge_agent.engine import protocol
from edge_agent.engine.child import traceback_text

INPUT = "my card ends in 4242"


def raised() -> ValueError:
    """Return an exception that quotes an input, as it comes from a library."""
    try:
        raise ValueError(f"cannot tokenize {INPUT!r}")
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("message", "last_line"),
    [
        (protocol.JobRequest(job_id="1", digest="d", text=INPUT), "ValueError"),
        (protocol.LoadRequest(runtime="echo"), f"ValueError: cannot tokenize {INPUT!r}"),
        (
            protocol.AttachRequest(digest="d", manifest=b"", paths={}, number=1),
            f"ValueError: cannot tokenize {INPUT!r}",
        ),
    ],
)
def test_the_traceback_of_a_job_does_not_quote_its_input(message: protocol.ToChild, last_line: str) -> None:
    """The place is shown; the exception's message only where there is no input."""
    text = traceback_text(message, raised())
    assert text.splitlines()[-1] == last_line
    assert "in raised" in text
