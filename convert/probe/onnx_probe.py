"""Runs ONNX Runtime on a graph: the first output for each input. A child of `probe.ask`.

Request: `model` and `inputs`, lists of tokens; the answer is `facts["shapes"]` and `arrays["outputs"]`, float32: the
first output of each input, flattened, one after the other.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from convert import probe


def main(folder: str) -> None:
    """Answer one request."""
    request = probe.read_request(folder)
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(request.get("threads", 2))
    options.log_severity_level = 4
    session = ort.InferenceSession(str(request["model"]), options, providers=["CPUExecutionProvider"])
    outputs = [_first(session, tokens) for tokens in request["inputs"]]
    names = [output.name for output in session.get_outputs()]
    facts = {"shapes": [list(output.shape) for output in outputs], "outputs": names}
    probe.leave(folder, facts, {"outputs": np.concatenate([output.ravel() for output in outputs])})


def _first(session: ort.InferenceSession, tokens: list[int]) -> NDArray[np.float32]:
    ids = np.array([tokens], dtype=np.int64)
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    wanted = {node.name: known[node.name] for node in session.get_inputs()}
    first: NDArray[np.float32] = session.run(None, wanted)[0][0]
    return first.astype(np.float32)


if __name__ == "__main__":
    main(sys.argv[1])
