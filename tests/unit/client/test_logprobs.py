"""How likely each written token was, as the client tells it."""

from __future__ import annotations

from edge_agent.client import Client
from tests.support.fake_daemon import FakeDaemon


def test_generate_tells_how_likely_each_token_was() -> None:
    """With `logprobs`, 0 included; a token is bytes, not always whole characters. Without it nothing is asked."""
    with FakeDaemon("127.0.0.1:0") as daemon, Client(daemon.targets[0]) as client:
        for count in (0, 1):
            with client.generate("assistant", "hi", logprobs=count) as stream:
                list(stream)
            assert stream.finish
            first, second = stream.finish.tokens
            assert (b"Hello", -0.5, ((b"Hi", -2.0),) * count) == first
            assert (b" th\xc3", 0.0, ()) == second
        with client.generate("assistant", "hi") as stream:
            list(stream)
        assert stream.finish
        assert () == stream.finish.tokens
        assert not daemon.inference.requests[-1].HasField("logprobs")
