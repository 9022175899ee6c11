"""A ready ONNX token classifier as source: what is refused, and what is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.pipeline import recipe
from convert.prepare import onnx_source
from edge_agent.errors import FileMissing, InvalidRequest, ManifestInvalid, ModelFailed, ModelLoadFailed
from tests.support.recipes import ready_classifier, recipe_of


def test_its_files_are_taken_with_the_licence(tmp_path: Path):
    """Graph, tokenizer, names of the outputs and licence lie where the later stages read them."""
    report = onnx_source.take(ready_classifier(tmp_path / "source"), tmp_path / "out")
    assert ("onnx", "model.onnx", "bert") == (report["kind"], report["graph"], report["architecture"])
    names = ["LICENSE", "config.json", "model.onnx", "tokenizer.json"]
    assert names == sorted(each.name for each in (tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda at: (at / "config.json").unlink(), FileMissing, "has no config.json"),
        (lambda at: (at / "config.json").write_text("{"), ModelLoadFailed, "not valid JSON"),
        (lambda at: (at / "config.json").write_text("{}"), InvalidRequest, "no 'id2label'"),
        (lambda at: (at / "config.json").write_text('{"id2label": {"a": "O"}}'), InvalidRequest, "no 'id2label'"),
        (lambda at: (at / "tokenizer.json").unlink(), FileMissing, "has no tokenizer.json"),
        (lambda at: (at / "tokenizer.json").write_text("{}"), ModelLoadFailed, "not a tokenizer.json"),
        (lambda at: (at / "onnx" / "model.onnx").unlink(), FileMissing, "has no graph"),
        (
            lambda at: (at / "onnx" / "model.onnx").write_bytes(b"PK\x03\x04 garbage"),
            ModelLoadFailed,
            "not an ONNX graph",
        ),
        (
            lambda at: (at / "second.onnx").write_bytes(b""),
            InvalidRequest,
            "several graphs: onnx/model.onnx, second.onnx",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, change, error, said):
    """A missing or damaged file, unnamed outputs, two graphs: the message names the file."""
    source = ready_classifier(tmp_path / "source")
    change(source)
    with pytest.raises(error, match=said):
        onnx_source.take(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("shape", "value", "said"), [((3, 4), 0.0, "the task has 5 tags"), ((3, 5), np.nan, "not finite")]
)
def test_outputs_that_are_no_tags_fail_the_verification(shape, value, said):
    """Another number of outputs than tags, or values that are not finite, stop the run."""
    with pytest.raises(ModelFailed, match=said):
        onnx_source.check_outputs([np.full(shape, value, np.float32)], [3], 5)


def test_a_ready_source_is_not_quantized(tmp_path: Path):
    """A recipe that asks for it is refused, with what to do instead."""
    recipe_of(tmp_path)
    file = tmp_path / "recipe.yaml"
    file.write_text(file.read_text().replace("{checkpoint: m}", "{onnx: m}") + "quantize: {types: [fp32]}\n")
    with pytest.raises(ManifestInvalid, match="or name a checkpoint"):
        recipe.read(file)
