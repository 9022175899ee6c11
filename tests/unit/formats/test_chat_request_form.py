"""What is changed in a chat request by the words of a server."""

import pytest

from edge_agent.formats.chat_request_form import ChatRequestForm

SENT = {"model", "messages", "temperature", "max_tokens", "stream", "stream_options"}


@pytest.mark.parametrize(
    ("status", "said", "without"),
    [
        (400, "Your organization must be verified to stream this model.", {"stream", "stream_options"}),
        (500, "Internal error: the stream was closed", None),
        (500, "unknown field stream_options", {"stream_options"}),
        (502, "temperature", None),
    ],
)
def test_a_server_that_breaks_refuses_no_streams(status, said, without):
    """Its own streams break, too; a question asked once more without one would end them for the task."""
    changed = ChatRequestForm().adapted(status, {"error": said}, SENT)
    assert without == (None if changed is None else changed.without)
