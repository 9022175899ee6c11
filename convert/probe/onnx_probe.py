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
    names = request.get("outputs") or [session.get_outputs()[0].name]
    outputs = [_compute(session, tokens, names) for tokens in request["inputs"]]
    output_names = [output.name for output in session.get_outputs()]
    facts = {"shapes": [list(output.shape) for output in outputs], "outputs": output_names}
    probe.write_answer(folder, facts, {"outputs": np.concatenate([output.ravel() for output in outputs])})


def _compute(session: ort.InferenceSession, tokens: list[int], outputs: list[str]) -> NDArray[np.float32]:
    ids = np.array([tokens], dtype=np.int64)
    tensors = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    feeds = {node.name: tensors[node.name] for node in session.get_inputs()}
    joined: NDArray[np.float32] = np.concatenate([output[0] for output in session.run(outputs, feeds)], axis=-1)
    return joined.astype(np.float32)


if __name__ == "__main__":
    main(sys.argv[1])
