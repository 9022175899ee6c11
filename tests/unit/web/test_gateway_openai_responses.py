"""What the gateway writes: OpenAI's fields, where they are not plain copies."""

from __future__ import annotations

from edge_agent.client import BundleRef, Finish, Timings, TokenLogprob
from edge_agent.web.gateway import openai_responses


def finish(*tokens: TokenLogprob) -> Finish:
    return Finish(
        reason="STOP",
        tokens=tokens,
        prediction_id="p-1",
        bundle=BundleRef("assistant", "1.0.0", "ab" * 32),
        route="LOCAL",
        timings=Timings(1, 20, 3),
        device="cpu",
        degraded=(),
        input_tokens=7,
        output_tokens=2,
    )


def test_how_likely_tokens_were_is_written_as_openai_does() -> None:
    """Each with the likeliest in its place; half a character is exact in its bytes."""
    written = openai_responses.logprobs(finish(TokenLogprob(b" hi", -0.5, ((b" hi", -0.5), (b"\xe2", -1.5)))))
    hi = {"token": " hi", "logprob": -0.5, "bytes": [32, 104, 105]}
    half = {"token": "\ufffd", "logprob": -1.5, "bytes": [226]}
    assert {"content": [{**hi, "top_logprobs": [hi, half]}], "refusal": None} == written
    assert openai_responses.logprobs(finish()) is None


def test_what_has_a_place_of_its_own_is_not_told_twice() -> None:
    """Nor is it in `edge_agent`: tokens, text and reason."""
    told = openai_responses.answer_details(finish(TokenLogprob(b"x", -1.0)))
    assert not {"tokens", "reason"} & told.keys()
    assert ({"task": "assistant", "version": "1.0.0", "digest": "ab" * 32}, 20) == (
        told["bundle"],
        told["timings"]["prefill_ms"],
    )
