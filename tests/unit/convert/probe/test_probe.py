"""What a child process that reads a model could not do."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import pytest

from convert import probe
from tests.support import bert_onnx
from tests.support.mounts import tmpfs


@pytest.mark.slow
def test_a_full_disk_is_not_the_fault_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The answer of the child does not fit into the temporary folder; the error names that folder."""
    model = tmp_path / "model.onnx"
    weights = bert_onnx.random_weights(bert_onnx.TINY, outputs=2)
    model.write_bytes(bert_onnx.build(bert_onnx.TINY, weights, "hidden"))
    asked = {"model": str(model), "inputs": [[1, 2, 3, 4]] * 2000}
    with tmpfs(tmp_path / "disk", "size=256k") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with pytest.raises(OSError, match="No space left") as caught:
            probe.ask("convert.probe.onnx_probe", asked)
    assert (errno.ENOSPC, True) == (caught.value.errno, str(caught.value.filename).startswith(str(disk)))
