"""Autotuning on SmolLM2-135M: measured, deferred, remembered and skipped settings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from edge_agent.engine.protocol import Event, JobRequest, JobResult, LoadRequest
from edge_agent.engine.runtimes.llama import autotune, llama_backends
from edge_agent.engine.runtimes.llama.autotune import TunedSettings, TuningLimits
from edge_agent.engine.runtimes.llama.llama_context import ContextShape
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from tests.support import bundles, tiny_gguf
from tests.support.attention import by_row
from tests.support.models import smollm2_path

SHAPE = ContextShape(cells=2000, sequences=10, kv_type="f16", threads=1, rows=128)
SPEC = LoadRequest(runtime="llama", threads=1, tune=True)
ALWAYS = TuningLimits(seconds=600, share=0.0)
"""However slow or busy the machine is."""
NO_TIME = replace(ALWAYS, seconds=0)
"""Nothing is tried; what has to be known is measured."""


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaModel]:
    """Load the model once."""
    loaded = LlamaModel(str(smollm2_path()))
    yield loaded
    loaded.close()


def settle(
    model: LlamaModel, limits: TuningLimits, spec: LoadRequest = SPEC, shape: ContextShape = SHAPE
) -> TunedSettings:
    """Return the settings that autotuning chooses."""
    return autotune.autotune(spec, model, shape, "this one", limits)


@pytest.mark.slow
def test_settings_are_measured_noted_and_remembered(model: LlamaModel) -> None:
    """Autotuning measures flash attention off and fewer rows, notes the settings that it does not adopt, and applies
    the adopted ones at the next load without measuring."""
    tuned = settle(model, ALWAYS)
    assert "measured" == tuned.source
    assert tuned.shape.flash, "without flash attention scores depend on what else is computed"
    assert "flash attention off: " in tuned.notes
    assert (tuned.shape.rows == 64) == ("64 rows" not in tuned.notes)
    again = settle(
        model, TuningLimits(seconds=0), LoadRequest(runtime="llama", threads=1, tune=True, settings=tuned.details())
    )
    assert ("remembered", tuned.shape, tuned.notes) == (again.source, again.shape, again.notes)


@pytest.mark.parametrize(("flash", "independent"), [(True, True), (False, False)])
def test_scores_are_independent_only_with_flash_attention(model: LlamaModel, flash: bool, independent: bool) -> None:
    """Without flash attention, a text whose cells surround another text's has different logits, so that setting is
    refused however fast it is."""
    with autotune._open_bench(model, replace(SHAPE, flash=flash)) as bench:
        assert independent == bench.is_independent()


@pytest.mark.slow
def test_busy_machine_is_not_measured(model: LlamaModel) -> None:
    """If other programs are busy, the given settings stay with a note, and the next load tries again."""
    tuned = settle(model, TuningLimits(share=100.0))
    assert ("put off", SHAPE) == (tuned.source, tuned.shape)
    assert tuned.notes.startswith("other programs were busy: ")


@pytest.mark.slow
def test_settings_stay_if_there_is_no_time_to_measure(model: LlamaModel) -> None:
    """If there is no time to measure, the given settings stay, and the notes list what was not tried."""
    tuned = settle(model, TuningLimits(seconds=0, share=0.0))
    assert ("measured", SHAPE) == (tuned.source, tuned.shape)
    assert (
        "flash attention off: no time to try; fewer rows: no time to try; groups of rows: no time to try" == tuned.notes
    )


@pytest.mark.slow
@by_row
def test_scores_may_be_in_bulk_steps_that_do_not_change_them(model: LlamaModel) -> None:
    """With attention by row, autotuning finds that bulk steps do not change scores; the result is remembered unless the
    stored value is invalid."""
    tuned = settle(model, NO_TIME)
    assert autotune.SAME == tuned.bulk_scores == tuned.details()["bulk_scores"]
    for said, found in ((autotune.OTHERS, autotune.OTHERS), ("spoiled", autotune.SAME)):
        spec = LoadRequest(runtime="llama", threads=1, tune=True, settings={**tuned.details(), "bulk_scores": said})
        again = settle(model, NO_TIME, spec)
        assert ("remembered", found) == (again.source, again.bulk_scores)


def test_scores_stay_out_of_bulk_steps_that_change_them(tmp_path: Path) -> None:
    """With heads of 32 numbers llama.cpp uses another kernel from 64 rows on, so scores stay in small steps."""
    narrow = LlamaModel(str(tiny_gguf.narrow(tmp_path)))
    try:
        assert autotune.OTHERS == settle(narrow, NO_TIME).bulk_scores
    finally:
        narrow.close()


def test_small_batches_measure_only_small_steps(model: LlamaModel) -> None:
    """With batches of fewer than 128 rows only small steps are measured, and scores stay in these."""
    tuned = settle(model, NO_TIME, shape=replace(SHAPE, rows=127))
    assert autotune.OTHERS == tuned.bulk_scores == tuned.details()["bulk_scores"]


@pytest.mark.release
def test_fewer_threads_are_measured(model: LlamaModel) -> None:
    """One thread instead of two is adopted, or noted as slower; it is never refused for different logits."""
    spec = LoadRequest(runtime="llama", threads=2, tune=True)
    tuned = settle(model, ALWAYS, spec, replace(SHAPE, threads=2))
    assert (tuned.shape.threads == 2) == ("1 thread: " in tuned.notes)
    assert "refused: logits" not in tuned.notes


@pytest.mark.slow
def test_nothing_is_tuned_unasked_or_on_a_device(model: LlamaModel) -> None:
    """Without `tune`, and on a device, the given settings stay; whether scores depend on neighbours is measured in any
    case."""
    unasked = LoadRequest(runtime="llama", threads=1)
    for spec in (unasked, LoadRequest(runtime="llama", threads=1, tune=True, device="vulkan")):
        tuned = settle(model, ALWAYS, spec)
        expected = ("off", SHAPE, "", autotune.OTHERS)
        assert expected == (tuned.source, tuned.shape, tuned.notes, tuned.bulk_scores)


@pytest.mark.slow
def test_long_prompt_uses_the_remembered_number_of_rows(tmp_path: Path) -> None:
    """A runtime that remembers fewer rows plans no step that exceeds its buffer."""
    folder = bundles.smollm2_bundle(tmp_path / "talk", "generate")
    paths = bundles.paths_of(folder)
    spec = LoadRequest(runtime="llama", weights=paths["weights"], context_tokens=512, sequences_max=1, tune=True)
    runtime = LlamaRuntime()
    settings = runtime.load(msgspec.structs.replace(spec, tune=False)) | {"bulk_rows": "96"}
    runtime.close()
    runtime = LlamaRuntime()
    details = runtime.load(msgspec.structs.replace(spec, settings=settings))
    assert ("remembered", "96") == (details["tuned"], details["bulk_rows"])
    runtime.attach("g", bundles.manifest_of(folder), paths)
    runtime.submit(JobRequest(job_id="one", digest="g", text="A lamp. " * 90, output_tokens_max=1))
    events: list[Event] = []
    while runtime.busy:
        events += runtime.step()
    assert isinstance(events[-1], JobResult)
    runtime.close()


def test_settings_are_specific_to_a_build_of_llama_cpp(model: LlamaModel) -> None:
    """Settings are stored for the hash of the library that computes, because another build may not be exact where this
    one is."""
    (code,) = {path.resolve() for path in llama_backends.LIBRARIES.glob("libggml-cpu.so.0")}
    assert hashlib.blake2b(code.read_bytes(), digest_size=4).hexdigest() == llama_backends.cpu_code()


def test_processor_name_is_a_string() -> None:
    """The processor's name is the one that Linux reports on x86; on other processors it can be empty."""
    assert isinstance(autotune.processor(), str)
