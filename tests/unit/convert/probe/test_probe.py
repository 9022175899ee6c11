"""Failures of the child process that reads a model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import bert_onnx
from tests.support.mounts import tmpfs

ASK = """
import errno, sys
from convert import probe
try:
    probe.ask("convert.probe.onnx_probe", {"model": sys.argv[1], "inputs": [[1, 2, 3, 4]] * 2000})
except OSError as error:
    print(errno.errorcode[error.errno], error.filename)
"""


@pytest.mark.slow
def test_full_temporary_folder_is_not_blamed_on_the_model(tmp_path: Path):
    """If the child's result does not fit into the temporary folder, the error names that folder and not the model."""
    model = tmp_path / "model.onnx"
    model.write_bytes(bert_onnx.build(bert_onnx.TINY, bert_onnx.random_weights(bert_onnx.TINY, outputs=2), "hidden"))
    with tmpfs(tmp_path / "disk", "size=256k") as disk:
        command = [sys.executable, "-c", ASK, str(model)]
        done = subprocess.run(
            command, env={**os.environ, "TMPDIR": str(disk)}, capture_output=True, text=True, check=True
        )
    assert done.stdout.startswith(f"ENOSPC {disk}/edge-convert-"), done.stderr
