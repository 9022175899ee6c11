"""The llama runtime reports weights whose scores depend on the rest of the batch."""

from __future__ import annotations

import msgspec
import pytest

from edge_agent.engine.protocol import LoadRequest
from edge_agent.engine.runtimes.llama.autotune import DEPENDENT, OTHERS, SAME, TunedSettings, score_variance
from edge_agent.engine.runtimes.llama.llama_context import ContextShape
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from tests.contract.test_llama_runtime import CHAT, CONTEXT_TOKENS, WEIGHTS, make

SPEC = LoadRequest(runtime="llama", weights=str(WEIGHTS), context_tokens=CONTEXT_TOKENS, threads=1, sequences_max=2)


@pytest.mark.slow
def test_measured_score_variance_is_reported_for_each_bundle() -> None:
    """If a load measured that scores vary even in small steps, each bundle that classifies reports this with the
    quantization; generated text has no score. Scores that stay the same in small steps do not vary."""
    measuring = LlamaRuntime()
    settings = measuring.load(SPEC)
    measuring.close()
    for found, varies in ((DEPENDENT, True), (OTHERS, False), (SAME, False)):
        runtime = LlamaRuntime()
        told = msgspec.structs.replace(SPEC, tune=True, settings=settings | {"bulk_scores": found})
        details = runtime.load(told)
        runtime.attach("c", make(), {})
        runtime.attach("g", CHAT, {})
        assert found == details["bulk_scores"]
        assert ("" != runtime.score_variance("c"), "") == (varies, runtime.score_variance("g"))
        if varies:
            expected = f"scores of {details['quantization']} weights depend on what else is computed"
            assert runtime.score_variance("c").startswith(expected)
        runtime.close()


def test_unmeasured_scores_count_as_varying() -> None:
    """Scores whose measurement failed, on a device or on the processor, count as varying, and the reason names the
    device."""
    shape = ContextShape(cells=300, sequences=2, kv_type="f16", threads=1)
    code = "haswell processors and for cuda:0"
    reasons = {
        found: score_variance(TunedSettings(shape, "key", "off", "no logits", found), "Q4_1", code)
        for found in (SAME, OTHERS, DEPENDENT, "")
    }
    said = f"scores of Q4_1 weights depend on what else is computed by llama.cpp's code for {code}"
    assert {SAME: "", OTHERS: "", DEPENDENT: said, "": f"whether {said} was not measured: no logits"} == reasons
