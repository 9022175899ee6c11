"""What a child process that reads a model could not do."""

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
def test_a_full_disk_is_not_the_fault_of_the_model(tmp_path: Path):
    """The answer of the child does not fit into the temporary folder; the error names that folder."""
    model = tmp_path / "model.onnx"
    model.write_bytes(bert_onnx.build(bert_onnx.TINY, bert_onnx.random_weights(bert_onnx.TINY, outputs=2), "hidden"))
    with tmpfs(tmp_path / "disk", "size=256k") as disk:
        command = [sys.executable, "-c", ASK, str(model)]
        done = subprocess.run(
            command, env={**os.environ, "TMPDIR": str(disk)}, capture_output=True, text=True, check=True
        )
    assert done.stdout.startswith(f"ENOSPC {disk}/edge-convert-"), done.stderr
