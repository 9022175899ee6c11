"""Runs a model library on a file in its own process, so that a file that crashes the library does not stop the run.

    answer = probe.ask("convert.probe.llama_probe", {"model": "model.gguf", "texts": ["a", "b"]})
    answer.facts["plain"], answer.arrays["logits"]

The child reads `request.json` in a folder made for it, and writes `facts.json` and one NAME.npy for each array.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.durable import atomic_files
from edge_agent.errors import ModelLoadFailed

REQUEST, FACTS = "request.json", "facts.json"
REFUSED = 3
"""Exit code of a child whose last line on stderr is the reason of a refusal."""
_REMEDY = "Export the file again. If the error repeats, this model does not work with the pinned runtime."


@dataclass(frozen=True)
class ProbeAnswer:
    """The results of the child."""

    facts: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def ask(child: str, request: Mapping[str, Any]) -> ProbeAnswer:
    """Run a child module on a request.

    Raises:
        ModelLoadFailed: the child refuses or dies; the message has its last line of output.
        OSError: the disk of the temporary folder is full.
    """
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as folder:
        Path(folder, REQUEST).write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-P", "-m", child, folder]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603 - ours
        if result.returncode != 0:
            atomic_files.require_free_space(Path(folder, FACTS))  # numpy does not say that the disk is full
            raise ModelLoadFailed(_failure(child, result.returncode, result.stderr), remedy=_REMEDY)
        facts = json.loads(Path(folder, FACTS).read_text(encoding="utf-8"))
        arrays = {path.stem: np.load(path) for path in Path(folder).glob("*.npy")}
    return ProbeAnswer(facts, arrays)


def read_request(folder: str) -> dict[str, Any]:
    """In the child: read the request."""
    request: dict[str, Any] = json.loads(Path(folder, REQUEST).read_text(encoding="utf-8"))
    return request


def write_answer(folder: str, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """In the child: write the answer."""
    for name, array in arrays.items():
        np.save(Path(folder, name + ".npy"), array)
    Path(folder, FACTS).write_text(json.dumps(facts), encoding="utf-8")


def refuse(reason: str) -> None:
    """In the child: exit with a reason."""
    sys.stderr.write(f"\n{reason}\n")
    raise SystemExit(REFUSED)


def _failure(child: str, code: int, stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else "it printed no error"
    if code == REFUSED:
        return last
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"the process of {child} ended with {name}: {last[:300]}"
