"""Runs ONNX Runtime on a graph: the first output, or some outputs, for each input. A child of `probe.ask`.

Request: `model`, `inputs`, lists of tokens, and optionally `outputs`, names of outputs that are joined along the last
axis. The answer is `facts["shapes"]` and `arrays["outputs"]`, float32: the output of each input, flattened, one after
the other.
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
    wanted = request.get("outputs") or [session.get_outputs()[0].name]
    outputs = [_computed(session, tokens, wanted) for tokens in request["inputs"]]
    names = [output.name for output in session.get_outputs()]
    facts = {"shapes": [list(output.shape) for output in outputs], "outputs": names}
    probe.leave(folder, facts, {"outputs": np.concatenate([output.ravel() for output in outputs])})


def _computed(session: ort.InferenceSession, tokens: list[int], outputs: list[str]) -> NDArray[np.float32]:
    ids = np.array([tokens], dtype=np.int64)
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    given = {node.name: known[node.name] for node in session.get_inputs()}
    found: NDArray[np.float32] = np.concatenate([output[0] for output in session.run(outputs, given)], axis=-1)
    return found.astype(np.float32)


if __name__ == "__main__":
    main(sys.argv[1])
