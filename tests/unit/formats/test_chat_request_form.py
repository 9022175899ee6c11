"""How the form of a chat request changes with the refusals of a server."""

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
def test_server_error_is_not_a_refusal_of_streams(status, said, without):
    """A server whose own stream breaks may mention streams in its error; the request keeps asking for one."""
    changed = ChatRequestForm().adapted(status, {"error": said}, SENT)
    assert without == (None if changed is None else changed.without)
