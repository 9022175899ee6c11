"""Token probabilities as the client returns them, and the range of a request's numbers."""

from __future__ import annotations

import pytest

from edge_agent.client import Client
from tests.support.fake_daemon import FakeDaemon


def test_generate_returns_token_probabilities_on_request() -> None:
    """With `logprobs`, also 0, `generate` returns each token as bytes with its probability; without it nothing is
    requested and the tokens are empty."""
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
def test_number_out_of_the_api_range_is_refused(number: int) -> None:
    """A number outside 0 to 4294967295 is refused with its field and the range, neither of which protobuf names."""
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
