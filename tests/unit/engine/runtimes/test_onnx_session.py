"""edge_agent/engine/runtimes/onnx_session.py: batches at the same time, and an owner that stays reachable.

Which provider onnxruntime is asked for, what is said of one that is not there, and which graphs are refused.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.onnx_session import (
    BATCH_ROWS_MAX,
    BATCH_TOKENS_MAX,
    BatchWorkers,
    OnnxSession,
    choose_batch,
    pad_rows,
    providers,
)
from edge_agent.errors import DeviceUnusable, ModelLoadFailed
from tests.support import bundles
from tests.support.fuzz import corpus

SECONDS_MAX = 20.0


@contextmanager
def workers(count: int, **options: float) -> Iterator[BatchWorkers[str]]:
    """Hand out workers and end them."""
    subject: BatchWorkers[str] = BatchWorkers(count, **options)
    yield subject
    subject.close()


@contextmanager
def readable_mailbox() -> Iterator[int]:
    """Hand out a descriptor with something to read."""
    descriptor = os.eventfd(1)
    yield descriptor
    os.close(descriptor)


def after(event: threading.Event, outcome: str) -> Callable[[], str]:
    """Return work that ends when the event is set."""

    def work() -> str:
        assert event.wait(SECONDS_MAX)
        return outcome

    return work


def collected(subject: BatchWorkers[str], count: int) -> list[str]:
    """Wait for so many outcomes."""
    found: list[str] = []
    while len(found) < count:
        found += subject.wait()
    return found


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_outcome_comes_once(count):
    """As many works as there are workers begin; each outcome is returned once, and then they are idle."""
    with workers(count) as subject:
        for turn in range(5):
            names = [f"{turn}-{i}" for i in range(subject.idle)]
            for name in names:
                subject.start(lambda name=name: name)
            assert subject.busy
            assert names == sorted(collected(subject, count))
        assert (False, count) == (subject.busy, subject.idle)


def test_works_run_at_the_same_time():
    """Two works that wait for each other both end."""
    both = threading.Barrier(2, timeout=SECONDS_MAX)
    with workers(2) as subject:
        for _ in range(2):
            subject.start(lambda: str(both.wait() >= 0))
        assert 0 == subject.idle
        assert ["True", "True"] == collected(subject, 2)


def test_who_is_done_first_is_returned_first():
    """A long work does not hold up a short one that began after it."""
    go = threading.Event()
    with workers(2) as subject:
        subject.start(after(go, "long"))
        subject.start(lambda: "short")
        assert (["short"], 1) == (collected(subject, 1), subject.idle)
        go.set()
        assert ["long"] == collected(subject, 1)


def test_one_worker_is_the_caller():
    """With one worker the caller's own thread computes, and no other is started."""
    before = threading.active_count()
    with workers(1) as subject:
        subject.start(lambda: threading.current_thread().name)
        assert before == threading.active_count()
        assert [threading.current_thread().name] == subject.wait()


def test_lone_work_stays_with_the_caller():
    """Work that comes one by one is not handed over; after company it is, until a work was alone again."""
    here = threading.current_thread().name

    def who(subject: BatchWorkers[str]) -> str:
        subject.start(lambda: threading.current_thread().name, lone=True)
        return collected(subject, 1)[0]

    with workers(2) as subject, readable_mailbox() as mailbox:
        assert [here, here] == [who(subject), who(subject)]
        subject.start(lambda: "done", lone=True)
        assert ["done"] == subject.wait(mailbox)  # something came while it was done
        assert ["onnx", here] == [who(subject), who(subject)]
        subject.start(lambda: "one of two", lone=False)
        assert ["one of two"] == collected(subject, 1)
        assert ["onnx", here] == [who(subject), who(subject)]


def test_mail_ends_a_wait():
    """`wait` returns empty-handed when the mailbox is readable, and the work goes on."""
    go = threading.Event()
    with workers(2) as subject, readable_mailbox() as mailbox:
        subject.start(after(go, "done"))
        assert ([], True) == (subject.wait(mailbox), subject.busy)
        go.set()
        assert ["done"] == collected(subject, 1)


def test_an_overdue_work_keeps_its_owner():
    """While a work is overdue nothing begins and mail does not end a wait: a stuck worker is a stuck process."""
    go = threading.Event()
    with workers(2, overdue_seconds=0.0) as subject, readable_mailbox() as mailbox:
        subject.start(after(go, "late"))
        assert 0 == subject.idle
        threading.Timer(0.05, go.set).start()
        assert (["late"], 2) == (subject.wait(mailbox), subject.idle)


@pytest.mark.parametrize("count", [1, 2])
def test_out_of_memory_reaches_the_owner(count):
    """MemoryError in a work is raised where the outcome would have been returned; the worker is idle again."""

    def greedy() -> str:
        raise MemoryError

    with workers(count) as subject:
        subject.start(greedy)
        with pytest.raises(MemoryError):
            subject.wait()
        subject.start(lambda: "next")
        assert (["next"], count) == (collected(subject, 1), subject.idle)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_any_other_error_is_the_owners_end():
    """A work that raises what nobody expects makes `wait` raise, so that the process ends and is started again."""

    def broken() -> str:
        raise KeyError("a bug")

    with workers(2) as subject:
        subject.start(broken)
        with pytest.raises(RuntimeError, match="a worker died"):
            subject.wait()


def test_close_waits_for_what_is_running():
    """After `close` what was running has ended, and no worker is left."""
    go, ended = threading.Event(), threading.Event()

    def work() -> str:
        assert go.wait(SECONDS_MAX)
        ended.set()
        return ""

    with workers(2) as subject:
        subject.start(work)
        threading.Timer(0.05, go.set).start()
    assert ended.is_set()
    assert "onnx" not in {thread.name for thread in threading.enumerate()}


CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def test_the_cpu_is_asked_for_alone():
    """Nothing else may compute, whatever onnxruntime has."""
    assert [CPU] == providers("cpu", -1, [CUDA, CPU])


@pytest.mark.parametrize(("index", "device_id"), [(-1, "0"), (0, "0"), (3, "3")])
def test_a_device_is_asked_for_by_its_number(index: int, device_id: str):
    """With full float32, and the CPU for operators that it lacks."""
    assert [(CUDA, {"device_id": device_id, "use_tf32": "0"}), CPU] == providers("cuda", index, [CUDA, CPU])


@pytest.mark.parametrize("device", ["cuda", "vulkan"])
def test_a_provider_that_is_not_installed_is_named(device: str):
    """With what this onnxruntime has; trying again is in vain."""
    with pytest.raises(DeviceUnusable, match="this onnxruntime has CPUExecutionProvider, and no ") as caught:
        providers(device, -1, [CPU])
    assert caught.value.lasting


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA")
def test_a_session_asks_what_is_installed(tmp_path):
    """The real library, without CUDA: refused before the model is opened; on the CPU it opens."""
    weights = bundles.paths_of(bundles.tiny_onnx_bundle(tmp_path / "tiny"))["weights"]
    with pytest.raises(DeviceUnusable):
        OnnxSession(weights, "cuda")
    assert "cpu" == OnnxSession(weights).device


def spoiled(how: str) -> bytes:
    """Return a sound graph without outputs, or with a name that is no text."""
    model = onnx.ModelProto.FromString(corpus.sound("onnx-graph"))
    name = model.graph.output[0].name.encode()
    if how == "no output":
        del model.graph.output[:]
    raw = model.SerializeToString()
    return raw.replace(name, b"\xff" * len(name)) if how == "no text" else raw


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no output", "m.onnx has no output"),
        ("no text", "m.onnx does not load: a name in its graph is not UTF-8"),
    ],
)
def test_a_graph_that_nobody_can_read_from_is_refused(how: str, said: str, tmp_path: Path):
    """Without outputs, or with names that are no text: with the file's name and a reason. Fuzzing found both."""
    (tmp_path / "m.onnx").write_bytes(spoiled(how))
    with pytest.raises(ModelLoadFailed, match=said):
        OnnxSession(str(tmp_path / "m.onnx"))


def test_oldest_alone():
    """One waiting input is computed at once."""
    assert [0] == choose_batch([5], BATCH_ROWS_MAX)


def test_nearest_in_length_first():
    """Of many waiting inputs those whose length is nearest to the oldest's go with it, older ones first."""
    assert [0, 3, 1, 5] == choose_batch([10, 12, 40, 10, 60, 8], 4)


def test_padding_bounds_the_batch():
    """An input that would stretch the batch over the token limit waits; shorter ones still go."""
    assert [0, 2] == choose_batch([200, BATCH_TOKENS_MAX // 2 + 1, 190, 180], BATCH_ROWS_MAX)


def test_long_input_goes_alone():
    """An input longer than the token limit is computed, and nothing with it."""
    assert [0] == choose_batch([BATCH_TOKENS_MAX + 1, 1, 1], BATCH_ROWS_MAX)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=40), st.integers(1, BATCH_ROWS_MAX))
def test_batches_keep_their_limits_and_starve_nobody(lengths, rows_max):
    """Whatever waits: the oldest is in, no input twice, and rows and padded tokens stay within their limits."""
    batch = choose_batch(lengths, rows_max)
    assert batch[0] == 0
    assert len(set(batch)) == len(batch) <= rows_max
    assert len(batch) == 1 or max(lengths[place] for place in batch) * len(batch) <= BATCH_TOKENS_MAX


def test_padding_is_zeros_behind():
    """Ids, mask and type ids keep their beginning and are filled up with zeros; the mask says what is filling."""
    ids, mask, types = pad_rows([([7, 8, 9], [0, 0, 1]), ([5], [2])]).tolist()
    assert ([[7, 8, 9], [5, 0, 0]], [[1, 1, 1], [1, 0, 0]], [[0, 0, 1], [2, 0, 0]]) == (ids, mask, types)


def test_one_row_needs_no_padding():
    """One input is computed as it is, and all of it counts."""
    assert [[[7, 8]], [[1, 1]], [[0, 1]]] == pad_rows([([7, 8], [0, 1])]).tolist()
