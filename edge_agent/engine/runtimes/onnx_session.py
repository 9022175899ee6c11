"""One encoder in onnxruntime: open it, verify its inputs and outputs, compute batches of token rows, also on threads.

A session has one thread that never spins: a session of several threads slows down badly as soon as another program uses
the same cores. For more cores, `run` is called on several worker threads at the same time, each with its own rows on
the shared weights, because onnxruntime releases the interpreter lock while it computes.

With one worker there is no thread: `start` itself computes. With more workers it does so too while inputs come one by
one, because a hand-over to a thread and back costs 0.2 ms, a tenth of a short text. An input that came during such a
computation had to wait, so the next ones go to the threads until inputs come one by one again.

A batch that takes longer than `overdue_seconds` counts as stuck: the owner then waits for it alone, without the
mailbox. So an owner that answers a heartbeat vouches for its workers, too.

Padding costs time, so no input waits for a batch to fill: `choose_batch` takes the oldest input and those of the
nearest length that already wait. `scripts/bench encoders` shows the gain of batches.
"""

from __future__ import annotations

import os
import re
import select
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort

from edge_agent.engine.runtimes import DeviceLost
from edge_agent.engine.runtimes.onnx_outputs import Floats
from edge_agent.errors import DeviceUnusable, ModelFailed, ModelLoadFailed

Outcome = TypeVar("Outcome")

# BATCH_TOKENS_MAX bounds a batch at some 60 ms on the reference machine: more than a hundred times that is no slow
# machine.
OVERDUE_SECONDS = 10.0


class BatchWorkers(Generic[Outcome]):
    """See the module. Only one thread may call it."""

    def __init__(self, count: int, overdue_seconds: float = OVERDUE_SECONDS) -> None:
        """Start the threads: none for a count of 1."""
        self._count = count
        self._overdue_seconds = overdue_seconds
        self._tasks: SimpleQueue[tuple[int, Callable[[], Outcome]] | None] = SimpleQueue()
        self._finished: deque[tuple[int, Outcome | MemoryError | DeviceLost | None]] = deque()
        self._last_number = 0
        self._running: dict[int, float] = {}
        self._quiet = True
        """No other work came during the last one."""
        self._had_company = False
        """Other work or mail came since the workers were idle."""
        self._wake_event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._threads = [Thread(target=self._serve, name="onnx", daemon=True) for _ in range(count if count > 1 else 0)]
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> bool:
        """True while there is an outcome that `wait` has not returned."""
        return bool(self._running)

    @property
    def idle(self) -> int:
        """How many workers are idle; 0 while a batch is overdue."""
        return 0 if self._overdue() else self._count - len(self._running)

    def start(self, work: Callable[[], Outcome], *, lone: bool = False) -> None:
        """Give work to an idle worker. `lone`: there is no other work now."""
        self._last_number += 1
        self._had_company = bool(self._running) or not lone
        self._running[self._last_number] = time.monotonic()
        if self._threads and (self._had_company or not self._quiet):
            self._tasks.put((self._last_number, work))
        else:
            self._execute(self._last_number, work)

    def wait(self, mailbox: int = -1) -> list[Outcome]:
        """Return finished outcomes; sleep until there is one, or until the descriptor `mailbox` is readable.

        Raises:
            MemoryError, DeviceLost: a worker ran out of memory, or the device failed.
            RuntimeError: a worker died of another exception, which threading has printed.
        """
        descriptors = [self._wake_event] if mailbox < 0 or self._overdue() else [self._wake_event, mailbox]
        ready = select.select(descriptors, [], [], 0 if self._finished else None)[0]
        self._had_company = self._had_company or mailbox in ready
        if self._wake_event in ready:
            os.eventfd_read(self._wake_event)
        outcomes = [self._collect(*self._finished.popleft()) for _ in range(len(self._finished))]
        if not self._running:
            self._quiet = not self._had_company
        return outcomes

    def close(self) -> None:
        """Wait for what is running, and end the threads."""
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        self._running.clear()
        os.close(self._wake_event)

    def _overdue(self) -> bool:
        oldest = next(iter(self._running.values()), None)
        return oldest is not None and time.monotonic() - oldest > self._overdue_seconds

    def _collect(self, number: int, outcome: Outcome | MemoryError | DeviceLost | None) -> Outcome:
        del self._running[number]
        if isinstance(outcome, MemoryError | DeviceLost):
            raise outcome
        if outcome is None:
            raise RuntimeError("a worker died")
        return outcome

    def _serve(self) -> None:
        while task := self._tasks.get():
            try:
                self._execute(*task)
            finally:
                os.eventfd_write(self._wake_event, 1)

    def _execute(self, number: int, work: Callable[[], Outcome]) -> None:
        outcome: Outcome | MemoryError | DeviceLost | None = None
        try:
            outcome = work()
        except (MemoryError, DeviceLost) as error:
            outcome = error
        finally:
            self._finished.append((number, outcome))


Row = tuple[Sequence[int], Sequence[int]]
"""Token ids and type ids of one input."""

BATCH_ROWS_MAX = 8  # with more, throughput is flat, and each row only delays the first
# With padding. Bounds a step, and so the delay of a cancellation or a new input, at some 60 ms.
BATCH_TOKENS_MAX = 512

INPUTS_NEEDED = ("input_ids", "attention_mask")  # without a mask a score would depend on the padding
INPUTS_KNOWN = (*INPUTS_NEEDED, "token_type_ids")  # in the order of pad_rows
_DTYPES: dict[str, type[np.int32] | type[np.int64]] = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}
_LOG_FATAL = 4  # onnxruntime's exceptions have its errors, and its warnings do not help at a site

Provider = str | tuple[str, dict[str, str]]
_CPU = "CPUExecutionProvider"
_PROVIDERS = {"cuda": "CUDAExecutionProvider"}
_DEVICE_ERROR = re.compile("CUDA|CUDNN|CUBLAS")
_MEMORY_ERROR = re.compile("allocate memory|bad_alloc|bad allocation")

# onnxruntime's exceptions have no base class of their own.
_ERRORS = (
    ort.EPFail,
    ort.Fail,
    ort.InvalidArgument,
    ort.InvalidGraph,
    ort.InvalidProtobuf,
    ort.NoModel,
    ort.NoSuchFile,
    ort.NotImplemented,
    ort.RuntimeException,
    RuntimeError,
    UnicodeDecodeError,  # a message quotes names of the graph, which may not be UTF-8
)


class OnnxSession:
    """An open model."""

    def __init__(self, weights: str, device: str = "cpu", index: int = -1) -> None:
        """Open a file on a device, or on the one of that index. Raises ModelLoadFailed, DeviceUnusable."""
        path = Path(weights)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ModelLoadFailed(f"{path.name} cannot be read: {error.strerror}") from None
        if size == 0:
            raise ModelLoadFailed(f"{path.name} is empty (0 bytes)")
        requested = providers(device, index, onnxruntime.get_available_providers())
        try:
            session = onnxruntime.InferenceSession(weights, _options(), providers=requested)
            self.details = _describe(session)
            """The model's producer, and its inputs and outputs with their shapes."""
            self.outputs: dict[str, str] = {output.name: output.type for output in session.get_outputs()}
            """Names of the outputs, and their types as onnxruntime writes them."""
        except (ort.InvalidProtobuf, ort.NoModel):
            raise ModelLoadFailed(f"{path.name} ({size} bytes) is not an ONNX model, or it is truncated") from None
        except UnicodeDecodeError:
            raise ModelLoadFailed(f"{path.name} does not load: a name in its graph is not UTF-8") from None
        except _ERRORS as error:
            raise ModelLoadFailed(f"{path.name} does not load: {_first_line(error)}") from None
        self._session = session
        self.device = device if device == "cpu" else f"{device}:{max(index, 0)}"
        provider = _PROVIDERS.get(device)
        if device != "cpu" and session.get_providers()[0] != provider:  # it silently computes with something else
            message = f"onnxruntime could not start {provider}: the driver or a required library is missing"
            raise DeviceUnusable(message, lasting=True)
        dtypes = _dtypes(path.name, session.get_inputs())
        self._inputs = [(name, INPUTS_KNOWN.index(name), dtype) for name, dtype in dtypes.items()]
        if not self.outputs:
            raise ModelLoadFailed(f"{path.name} has no output; an encoder has one with its scores or token vectors")

    def run(self, names: Sequence[str], rows: Sequence[Row]) -> list[tuple[Floats, ...]]:
        """Compute some inputs together; return for each its part of every wanted output, without the padding.

        Raises:
            ModelFailed: onnxruntime refuses; its message goes to the child's stderr only, since it may quote the input.
            DeviceLost: onnxruntime's message names the device.
        """
        arrays = pad_rows(rows)
        feed = {name: arrays[index].astype(dtype, copy=False) for name, index, dtype in self._inputs}
        try:
            outputs = self._session.run(names, feed)
        except _ERRORS as error:
            traceback.print_exc(limit=0)
            if self.device != "cpu" and _DEVICE_ERROR.search(str(error)):
                raise DeviceLost(_first_line(error)) from None
            tokens = arrays.shape[2]
            memory_short: dict[str, Any] = {"memory_short": True} if _MEMORY_ERROR.search(str(error)) else {}
            raise ModelFailed(f"the model does not compute {tokens} tokens", tokens=tokens, **memory_short) from None
        counts = [values.shape[0] if values.ndim else 0 for values in outputs]
        if wrong := [count for count in counts if count != len(rows)]:
            raise ModelFailed(f"the model gives {wrong[0]} results for {len(rows)} inputs", results=wrong[0])
        return list(zip(*(_split_rows(values, rows) for values in outputs), strict=True))


def _split_rows(values: Floats, rows: Sequence[Row]) -> list[Floats]:
    """Return the part of each input; if there is one vector per token, without those of the padding."""
    if values.ndim == 3:
        return [value[: len(row[0])] for value, row in zip(values, rows, strict=True)]
    return list(values)


def providers(device: str, index: int, available: Sequence[str]) -> list[Provider]:
    """Return the execution providers to request, the best first. Raises DeviceUnusable."""
    if device == "cpu":
        return [_CPU]
    name = _PROVIDERS.get(device, device)
    if name not in available:
        raise DeviceUnusable(f"this onnxruntime has {', '.join(available)}, and no {name}", lasting=True)
    # By default tensor cores round float32 to 19 bits, which would change scores more than the device itself does.
    return [(name, {"device_id": str(max(index, 0)), "use_tf32": "0"}), _CPU]


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _dtypes(name: str, inputs: Sequence[onnxruntime.NodeArg]) -> dict[str, type[np.int32] | type[np.int64]]:
    input_types = {value.name: value.type for value in inputs}
    unknown = [each for each in input_types if each not in INPUTS_KNOWN]
    missing = [each for each in INPUTS_NEEDED if each not in input_types]
    if unknown or missing:
        problem = f"asks for {', '.join(unknown)}" if unknown else f"does not take {', '.join(missing)}"
        raise ModelLoadFailed(f"{name} {problem}; an encoder takes {', '.join(INPUTS_KNOWN)}")
    for each, kind in input_types.items():
        if kind not in _DTYPES:
            raise ModelLoadFailed(f"{name}: input {each} is {kind}; it must be tensor(int64) or tensor(int32)")
    return {each: _DTYPES[kind] for each, kind in input_types.items()}


def _describe(session: onnxruntime.InferenceSession) -> dict[str, str]:
    """Return the `details` of a session. Raises UnicodeDecodeError."""

    def shapes(values: Sequence[onnxruntime.NodeArg]) -> str:
        return ", ".join(f"{value.name}[{','.join(map(str, value.shape))}]" for value in values)

    inputs, outputs = shapes(session.get_inputs()), shapes(session.get_outputs())
    return {"model": "onnx", "producer": session.get_modelmeta().producer_name, "inputs": inputs, "outputs": outputs}


def _first_line(error: BaseException) -> str:
    """Return the first line of onnxruntime's message, without its "[ONNXRuntimeError] : 1 : FAIL : "."""
    return str(error).strip().split("\n", 1)[0].split(" : ", 3)[-1][:300]


def choose_batch(lengths: Sequence[int], rows_max: int) -> list[int]:
    """Return the places of the inputs to compute next: the first always, then the nearest in length that fit."""
    batch, longest = [0], lengths[0]
    if rows_max == 1:
        return batch
    for index in sorted(range(1, len(lengths)), key=lambda index: abs(lengths[index] - lengths[0])):
        if len(batch) == rows_max:
            break
        width = max(longest, lengths[index])
        if width * (len(batch) + 1) <= BATCH_TOKENS_MAX:
            batch.append(index)
            longest = width
    return batch


def pad_rows(rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    """Return token ids, attention mask and type ids, [3, rows, longest], padded with zeros, which the mask excludes."""
    longest = max(len(ids) for ids, _ in rows)
    if len(rows) == 1:
        ((ids, types),) = rows
        return np.array(((ids,), ((1,) * longest,), (types,)), np.int64)
    array = np.zeros((3, len(rows), longest), np.int64)
    for index, (ids, types) in enumerate(rows):
        array[0, index, : len(ids)], array[1, index, : len(ids)], array[2, index, : len(ids)] = ids, 1, types
    return array
