"""Responses of the gateway where OpenAI's fields are not plain copies."""

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


def test_logprobs_have_the_form_of_openai() -> None:
    """Each token has its most probable alternatives; bytes of a partial character are exact."""
    written = openai_responses.logprobs(finish(TokenLogprob(b" hi", -0.5, ((b" hi", -0.5), (b"\xe2", -1.5)))))
    hi = {"token": " hi", "logprob": -0.5, "bytes": [32, 104, 105]}
    half = {"token": "\ufffd", "logprob": -1.5, "bytes": [226]}
    assert {"content": [{**hi, "top_logprobs": [hi, half]}], "refusal": None} == written
    assert openai_responses.logprobs(finish()) is None


def test_details_do_not_repeat_fields_of_openai() -> None:
    """`edge_agent` has no tokens, text or reason, which OpenAI's fields contain."""
    told = openai_responses.answer_details(finish(TokenLogprob(b"x", -1.0)))
    assert not {"tokens", "reason"} & told.keys()
    assert ({"task": "assistant", "version": "1.0.0", "digest": "ab" * 32}, 20) == (
        told["bundle"],
        told["timings"]["prefill_ms"],
    )
