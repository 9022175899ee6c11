"""How likely each written token was, as the client tells it; and the numbers of a request."""

from __future__ import annotations

import pytest

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


@pytest.mark.parametrize("number", [-1, 2**32])
def test_a_number_that_the_api_cannot_hold_is_named(number: int) -> None:
    """Its field, and what it can be; protobuf names neither."""
    with FakeDaemon("127.0.0.1:0") as daemon, Client(daemon.targets[0]) as client:
        calls = {
            "top_k": lambda: client.classify("pos-intent", ["a"], top_k=number),
            "seed": lambda: client.generate("a", "b", seed=number),
            "logprobs": lambda: client.generate("a", "b", logprobs=number),
            "output_tokens_max": lambda: client.generate("a", "b", output_tokens_max=number),
        }
        for name, call in calls.items():
            with pytest.raises(ValueError, match=rf"{name} is {number}: it must be from 0 to 4294967295"):
                call()
