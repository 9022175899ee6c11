"""One encoder in onnxruntime: open it, know its inputs and outputs, compute rows of tokens.

One thread that never spins: a session of several threads collapses as soon as something else wants the same cores. For
more cores `run` is called on several threads at the same time, each computing its own rows on the shared weights.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort

from edge_agent.engine.runtimes.onnx_batch import Row, padded
from edge_agent.engine.runtimes.onnx_outputs import Floats
from edge_agent.errors import ModelFailed, ModelLoadFailed

INPUTS_NEEDED = ("input_ids", "attention_mask")  # without a mask a score would depend on the padding
INPUTS_KNOWN = (*INPUTS_NEEDED, "token_type_ids")  # in the order of onnx_batch.padded
_DTYPES: dict[str, type[np.int32] | type[np.int64]] = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}
_LOG_FATAL = 4  # what onnxruntime has to say is in its exceptions; its warnings help nobody on a site

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
)


class OnnxSession:
    """An open model."""

    def __init__(self, weights: str) -> None:
        """Open a file. Raises ModelLoadFailed."""
        path = Path(weights)
        _check_file(path)
        try:
            session = onnxruntime.InferenceSession(weights, _options(), providers=["CPUExecutionProvider"])
        except (ort.InvalidProtobuf, ort.NoModel):
            size = path.stat().st_size
            raise ModelLoadFailed(f"{path.name} ({size} bytes) is no ONNX model, or it is cut short") from None
        except _ERRORS as error:
            raise ModelLoadFailed(f"{path.name} does not load: {_first_line(error)}") from None
        self._session = session
        dtypes = _dtypes(path.name, session.get_inputs())
        self._inputs = [(name, INPUTS_KNOWN.index(name), dtype) for name, dtype in dtypes.items()]
        self.outputs: tuple[str, ...] = tuple(output.name for output in session.get_outputs())

    def details(self) -> dict[str, str]:
        """Return who made the model, and its inputs and outputs with their shapes."""

        def told(values: Sequence[onnxruntime.NodeArg]) -> str:
            return ", ".join(f"{value.name}[{','.join(map(str, value.shape))}]" for value in values)

        inputs, outputs = told(self._session.get_inputs()), told(self._session.get_outputs())
        producer = self._session.get_modelmeta().producer_name
        return {"model": "onnx", "producer": producer, "inputs": inputs, "outputs": outputs}

    def run(self, output: str, rows: Sequence[Row]) -> list[Floats]:
        """Compute some inputs together; return what belongs to each, without the padding.

        Raises:
            ModelFailed: onnxruntime refuses; its reason goes to the child's stderr, since it may quote the input.
        """
        arrays = padded(rows)
        feed = {name: arrays[place].astype(dtype, copy=False) for name, place, dtype in self._inputs}
        try:
            (values,) = self._session.run([output], feed)
        except _ERRORS:
            traceback.print_exc(limit=0)
            tokens = arrays.shape[2]
            raise ModelFailed(f"the model does not compute {tokens} tokens", tokens=tokens) from None
        if values.ndim == 3:
            return [value[: len(row[0])] for value, row in zip(values, rows, strict=True)]
        return list(values)


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelLoadFailed(f"{path.name} cannot be read: {error.strerror}") from None
    if size == 0:
        raise ModelLoadFailed(f"{path.name} is empty (0 bytes)")


def _dtypes(name: str, inputs: Sequence[onnxruntime.NodeArg]) -> dict[str, type[np.int32] | type[np.int64]]:
    given = {value.name: value.type for value in inputs}
    unknown = [each for each in given if each not in INPUTS_KNOWN]
    missing = [each for each in INPUTS_NEEDED if each not in given]
    if unknown or missing:
        wrong = f"asks for {', '.join(unknown)}" if unknown else f"does not take {', '.join(missing)}"
        raise ModelLoadFailed(f"{name} {wrong}; an encoder takes {', '.join(INPUTS_KNOWN)}")
    for each, kind in given.items():
        if kind not in _DTYPES:
            raise ModelLoadFailed(f"{name}: input {each} is {kind}; it must be tensor(int64) or tensor(int32)")
    return {each: _DTYPES[kind] for each, kind in given.items()}


def _first_line(error: BaseException) -> str:
    """Return what onnxruntime says, without its "[ONNXRuntimeError] : 1 : FAIL : "."""
    return str(error).strip().split("\n", 1)[0].split(" : ", 3)[-1][:300]
