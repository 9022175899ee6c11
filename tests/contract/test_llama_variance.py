"""What the llama runtime reports of weights whose scores depend on what else is computed."""

from __future__ import annotations

import msgspec
import pytest

from edge_agent.engine.protocol import LoadRequest
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from edge_agent.engine.runtimes.llama.tuning_policy import DEPENDENT, OTHERS, SAME
from tests.contract.test_llama_runtime import CHAT, CONTEXT_TOKENS, WEIGHTS, make

SPEC = LoadRequest(runtime="llama", weights=str(WEIGHTS), context_tokens=CONTEXT_TOKENS, threads=1, sequences_max=2)


@pytest.mark.slow
def test_what_was_measured_of_the_weights_is_reported_of_each_bundle() -> None:
    """Where a load has found that scores vary even in small steps, bundles to classify say so, with the weights and the
    code; text has no score. Scores that are kept to small steps do not vary."""
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
