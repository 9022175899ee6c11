"""ONNX graphs with one output for each question."""

import numpy as np
import onnx
import onnxruntime

from convert.export.onnx_export import output_of, split_logits
from convert.quantize import ood_detector
from edge_agent.formats.questions import QuestionSpec
from tests.support.bundles import DEFAULT_LABELS, tiny_onnx

WIDTH = len(DEFAULT_LABELS["classify"])
QUESTIONS = (
    QuestionSpec(name="urgent", type="predicate", instructions="It cannot wait."),
    QuestionSpec(name="rest", type="choice", instructions="?", labels=tuple(map(str, range(WIDTH - 2)))),
)


def test_logits_are_split_by_question():
    """One run of the graph gives the logits of each question in its own output, and the OOD detector finds the same
    layers as before the split."""
    before, after = (onnx.load_from_string(tiny_onnx("classify")) for _ in range(2))
    split_logits(after, QUESTIONS)
    session, old = (onnxruntime.InferenceSession(each.SerializeToString()) for each in (after, before))
    assert (
        ["logits.urgent", "logits.rest"]
        == [each.name for each in session.get_outputs()]
        == [*map(output_of, QUESTIONS)]
    )
    ids = np.arange(4, 10).reshape(1, -1)
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    parts = session.run(None, given)
    assert [(1, 2), (1, WIDTH - 2)] == [each.shape for each in parts]
    np.testing.assert_array_equal(old.run(None, given)[0], np.concatenate(parts, axis=1))
    assert ood_detector.find(before, "classify") == ood_detector.find(after, "decide") != ()
