"""Fits what tells how strange an input is, on the training texts of an encoder, and puts it into its candidates.

    found = fit(job, task, exported, tokenizer)       # None: the graph or the recipe has nothing to fit it on
    found.put_into(candidate)

The training texts are the ones that the model knows; the rows that calibrate the gate later are others. The vectors
are those of the float32 graph, and every candidate gets the same nodes, in float32, behind its quantized ones.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from tokenizers import Tokenizer

from convert import probe
from convert.data import row_files
from convert.data.row_files import DataRow
from convert.pipeline.stage import Report, StageJob
from convert.quantize import ood_graph
from convert.quantize.ood_graph import Detector, Floats, Pooling
from edge_agent.formats.manifest import TaskSpec

ROWS_MAX = 8192
ROWS_MIN = 20
SIZE_BYTES_MAX = 1_000_000
RANK_MAX = 256
"""Directions kept, those of the largest variance within a class; see docs/decisions/0061."""
POOLING: Pooling = "mean"
_SHRINKAGE = 1e-3
"""Added to every variance, of their mean: a direction that hardly varies must not decide alone."""


@dataclass(frozen=True)
class Fitted:
    """A detector, and where in the graph it belongs."""

    hidden: str
    detector: Detector
    rows: int

    def put_into(self, weights: Path) -> bool:
        """Add the score to a graph in place; False where it has no place for it."""
        model = onnx.load(weights)
        if not ood_graph.append(model, self.hidden, self.detector):
            return False
        onnx.save(model, weights)
        return True

    def report(self) -> Report:
        """Return what was fitted, for the report."""
        return {
            "rows": self.rows,
            "classes": len(self.detector.classes),
            "rank": int(self.detector.whitening.shape[1]),
            "pooling": self.detector.pooling,
            "size_bytes": self.detector.size_bytes,
        }


def fit(job: StageJob, task: TaskSpec, exported: Path, tokenizer: Path) -> Fitted | None:
    """Fit a detector; None where there is nothing to fit it on.

    Raises:
        ModelLoadFailed: onnxruntime does not compute the graph.
        What `data.rows` raises.
    """
    if not job.recipe.data.train:
        return None
    model = onnx.load(exported)
    hidden = ood_graph.find(model, task.kind)
    rows = _drawn(row_files.rows(job.recipe, "train"))
    if not hidden or len(rows) < ROWS_MIN:
        return None
    job.progress("reading the training texts", 0, len(rows))
    vectors = _vectors(model, hidden, [row.text for row in rows], tokenizer)
    labels = np.array([row.label for row in rows])
    return Fitted(hidden, fitted(vectors, labels, POOLING), len(rows))


def fitted(vectors: Floats, labels: npt.NDArray[np.str_], pooling: Pooling) -> Detector:
    """Fit a detector on vectors [rows, width] and the label of each; rows without labels are one class."""
    found, places = np.unique(labels, return_inverse=True)
    means = np.stack([vectors[places == place].mean(axis=0) for place in range(len(found))])
    within = vectors - means[places]
    centre = vectors.mean(axis=0)
    whitening = whiten(within.astype(np.float64), _rank_of(vectors.shape[1], len(found)))
    classes = (means - centre) @ whitening
    return Detector(pooling, centre.astype(np.float32), whitening.astype(np.float32), classes.astype(np.float32))


def whiten(within: npt.NDArray[np.float64], rank: int) -> npt.NDArray[np.float64]:
    """Return [width, rank]: what gives differences from the class means the unit covariance."""
    covariance = within.T @ within / len(within)
    lengths, directions = np.linalg.eigh(covariance)
    lengths = lengths + _SHRINKAGE * lengths.mean()
    return np.asarray((directions / np.sqrt(lengths))[:, -rank:])


def _rank_of(width: int, classes: int) -> int:
    """Return how many directions fit into SIZE_BYTES_MAX."""
    room = SIZE_BYTES_MAX - 4 * (width + classes)
    return max(1, min(width, RANK_MAX, room // (2 * (width + classes))))


def _drawn(rows: Sequence[DataRow]) -> list[DataRow]:
    """Return at most ROWS_MAX rows, chosen by a hash of their texts: alike whatever the order of the file."""
    return sorted(rows, key=lambda row: hashlib.sha256(row.key.encode()).hexdigest())[:ROWS_MAX]


def _vectors(model: onnx.ModelProto, hidden: str, texts: Sequence[str], tokenizer: Path) -> Floats:
    """Return the vector of each text, one at a time, as it is served."""
    served = Tokenizer.from_file(str(tokenizer))
    served.no_truncation()
    served.no_padding()
    served.encode_special_tokens = True
    inputs = [list(served.encode(text).ids) for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vectors.onnx")
        ood_graph.vectors_only(model, hidden, POOLING)
        onnx.save(model, path)
        answer = probe.ask("convert.probe.onnx", {"model": str(path), "inputs": inputs})
    return np.asarray(answer.arrays["outputs"].reshape(len(texts), -1), np.float32)
