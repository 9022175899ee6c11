"""ONNX sessions: batches that run at the same time under one responsive owner, providers, refused graphs, and
batching."""

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
    """Yield workers and close them afterwards."""
    subject: BatchWorkers[str] = BatchWorkers(count, **options)
    yield subject
    subject.close()


@contextmanager
def readable_mailbox() -> Iterator[int]:
    """Yield a readable file descriptor."""
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
    """Wait for this many outcomes."""
    found: list[str] = []
    while len(found) < count:
        found += subject.wait()
    return found


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_outcome_is_returned_once(count):
    """As many works as there are workers start; each outcome is returned once, and then all workers are idle."""
    with workers(count) as subject:
        for turn in range(5):
            names = [f"{turn}-{i}" for i in range(subject.idle)]
            for name in names:
                subject.start(lambda name=name: name)
            assert subject.busy
            assert names == sorted(collected(subject, count))
        assert (False, count) == (subject.busy, subject.idle)


def test_works_run_concurrently():
    """Two works that wait for each other both end."""
    both = threading.Barrier(2, timeout=SECONDS_MAX)
    with workers(2) as subject:
        for _ in range(2):
            subject.start(lambda: str(both.wait() >= 0))
        assert 0 == subject.idle
        assert ["True", "True"] == collected(subject, 2)


def test_first_finished_work_is_returned_first():
    """A long work does not delay the outcome of a short one that started after it."""
    go = threading.Event()
    with workers(2) as subject:
        subject.start(after(go, "long"))
        subject.start(lambda: "short")
        assert (["short"], 1) == (collected(subject, 1), subject.idle)
        go.set()
        assert ["long"] == collected(subject, 1)


def test_single_worker_runs_in_the_callers_thread():
    """With one worker the caller's own thread computes, and no other thread is started."""
    before = threading.active_count()
    with workers(1) as subject:
        subject.start(lambda: threading.current_thread().name)
        assert before == threading.active_count()
        assert [threading.current_thread().name] == subject.wait()


def test_lone_work_runs_in_the_callers_thread():
    """Work that arrives one at a time runs in the caller's thread; after further work arrived meanwhile, the next work
    runs in a worker thread, until a work was alone again."""
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


def test_readable_mailbox_ends_a_wait():
    """`wait` returns without an outcome when the mailbox is readable, and the work continues."""
    go = threading.Event()
    with workers(2) as subject, readable_mailbox() as mailbox:
        subject.start(after(go, "done"))
        assert ([], True) == (subject.wait(mailbox), subject.busy)
        go.set()
        assert ["done"] == collected(subject, 1)


def test_overdue_work_blocks_its_owner():
    """While a work is overdue no other starts and the mailbox does not end a wait, so the daemon sees a stuck worker as
    a stuck process."""
    go = threading.Event()
    with workers(2, overdue_seconds=0.0) as subject, readable_mailbox() as mailbox:
        subject.start(after(go, "late"))
        assert 0 == subject.idle
        threading.Timer(0.05, go.set).start()
        assert (["late"], 2) == (subject.wait(mailbox), subject.idle)


@pytest.mark.parametrize("count", [1, 2])
def test_out_of_memory_reaches_the_owner(count):
    """A MemoryError in a work is raised where its outcome would have been returned, and the worker is idle again."""

    def greedy() -> str:
        raise MemoryError

    with workers(count) as subject:
        subject.start(greedy)
        with pytest.raises(MemoryError):
            subject.wait()
        subject.start(lambda: "next")
        assert (["next"], count) == (collected(subject, 1), subject.idle)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_unexpected_error_in_a_work_ends_the_owner():
    """An unexpected error in a work makes `wait` raise, so that the process ends and is restarted."""

    def broken() -> str:
        raise KeyError("a bug")

    with workers(2) as subject:
        subject.start(broken)
        with pytest.raises(RuntimeError, match="a worker died"):
            subject.wait()


def test_close_waits_for_running_work():
    """`close` returns after the running work has ended, and no worker thread is left."""
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


def test_cpu_session_requests_only_the_cpu_provider():
    """For the CPU only its provider is requested, whatever providers onnxruntime has."""
    assert [CPU] == providers("cpu", -1, [CUDA, CPU])


@pytest.mark.parametrize(("index", "device_id"), [(-1, "0"), (0, "0"), (3, "3")])
def test_device_is_requested_by_its_number(index: int, device_id: str):
    """The CUDA provider is requested with the device number and full float32, with the CPU for operators that it
    lacks."""
    assert [(CUDA, {"device_id": device_id, "use_tf32": "0"}), CPU] == providers("cuda", index, [CUDA, CPU])


@pytest.mark.parametrize("device", ["cuda", "vulkan"])
def test_missing_provider_is_a_lasting_failure(device: str):
    """If a provider is not installed, the error lists those that onnxruntime has, and the failure is lasting."""
    with pytest.raises(DeviceUnusable, match="this onnxruntime has CPUExecutionProvider, and no ") as caught:
        providers(device, -1, [CPU])
    assert caught.value.lasting


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA")
def test_session_checks_the_installed_providers(tmp_path):
    """With the installed onnxruntime, which has no CUDA, a CUDA session is refused; a CPU session opens."""
    weights = bundles.paths_of(bundles.tiny_onnx_bundle(tmp_path / "tiny"))["weights"]
    with pytest.raises(DeviceUnusable):
        OnnxSession(weights, "cuda")
    assert "cpu" == OnnxSession(weights).device


def spoiled(how: str) -> bytes:
    """Return a valid graph with its outputs removed, or with a name that is not UTF-8."""
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
def test_graph_without_usable_outputs_is_refused(how: str, said: str, tmp_path: Path):
    """A graph without outputs, or with names that are not UTF-8, is refused with the file's name and a reason. Fuzzing
    found both cases."""
    (tmp_path / "m.onnx").write_bytes(spoiled(how))
    with pytest.raises(ModelLoadFailed, match=said):
        OnnxSession(str(tmp_path / "m.onnx"))


def test_single_input_is_computed_at_once():
    """A single waiting input forms a batch of its own."""
    assert [0] == choose_batch([5], BATCH_ROWS_MAX)


def test_nearest_in_length_first():
    """Inputs whose length is nearest to that of the oldest join its batch, older ones first."""
    assert [0, 3, 1, 5] == choose_batch([10, 12, 40, 10, 60, 8], 4)


def test_padding_bounds_the_batch():
    """An input that would pad the batch over the token limit waits; shorter ones still join."""
    assert [0, 2] == choose_batch([200, BATCH_TOKENS_MAX // 2 + 1, 190, 180], BATCH_ROWS_MAX)


def test_long_input_is_computed_alone():
    """An input longer than the token limit is computed in a batch of its own."""
    assert [0] == choose_batch([BATCH_TOKENS_MAX + 1, 1, 1], BATCH_ROWS_MAX)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=40), st.integers(1, BATCH_ROWS_MAX))
def test_batches_keep_their_limits_and_include_the_oldest(lengths, rows_max):
    """For any waiting inputs the batch includes the oldest, no input twice, and stays within the limits of rows and
    padded tokens."""
    batch = choose_batch(lengths, rows_max)
    assert batch[0] == 0
    assert len(set(batch)) == len(batch) <= rows_max
    assert len(batch) == 1 or max(lengths[place] for place in batch) * len(batch) <= BATCH_TOKENS_MAX


def test_padding_appends_zeros():
    """Ids, mask and type ids are padded with zeros at the end; the mask marks the padding."""
    ids, mask, types = pad_rows([([7, 8, 9], [0, 0, 1]), ([5], [2])]).tolist()
    assert ([[7, 8, 9], [5, 0, 0]], [[1, 1, 1], [1, 0, 0]], [[0, 0, 1], [2, 0, 0]]) == (ids, mask, types)


def test_single_row_is_not_padded():
    """A single input is passed on without padding, with a mask of ones."""
    assert [[[7, 8]], [[1, 1]], [[0, 1]]] == pad_rows([([7, 8], [0, 1])]).tolist()
