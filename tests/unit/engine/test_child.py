"""The traceback that a child logs for an unexpected exception of a model library."""

import pytest

from edge_agent.engine import protocol
from edge_agent.engine.child import traceback_text

INPUT = "my card ends in 4242"


def raised() -> ValueError:
    """Return an exception whose message quotes an input, as a library raises it."""
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
def test_logged_traceback_of_a_job_omits_the_exception_message(message: protocol.ToChild, last_line: str) -> None:
    """The traceback of a job shows where the exception was raised but not its message, which can quote the input; a
    load and an attach show the message."""
    text = traceback_text(message, raised())
    assert text.splitlines()[-1] == last_line
    assert "in raised" in text
