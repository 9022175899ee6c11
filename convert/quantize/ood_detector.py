"""The out-of-distribution score of an encoder: fits it on the training texts, and adds its nodes to the graphs.

    layers = find(onnx.load("model.onnx"), "classify")    # in the graph as exported, whose shapes are known
    append(model, layers, detector)                       # to any quantized form of it: tensors keep their names

The run that computes the answer also computes the score, so a site reads one more output, and no other file. The vector
of an input joins two layers, the middle one and the one that the head reads: of each the mean of the token vectors
without padding, divided by its length. The middle layer separates languages and noise, the last one topics.

The score is the product of two distances to the training texts. The Mahalanobis distance to the nearest class (Lee et
al. 2018, Podolskiy et al. 2021) is exact inside the space of the largest principal components; outside that space every
direction has the same variance (Tipping & Bishop 1999). The other distance is between directions: the chord from the
unit vector of the input, relative to the mean, to the nearest centroid of the training vectors (few neighbours for the
many of Sun et al. 2022). Matrices are stored in half precision and used in single precision.

A third factor raises the score of a vector that lies in the direction of other requests (`background_texts`): the
linear discriminant between the training texts and these (Fisher 1936), in standard deviations of the training texts,
beyond the second one. It is 1 for most ordinary inputs.

For a classify task, a fourth factor is the doubt of the model, a power of the probability that is not on the largest
label (maximum softmax probability, Hendrycks & Gimpel 2017). Distances detect languages, noise and other
topics; the doubt detects a request between two labels, such as one of a label that is missing.

    found = fit(job, task, exported, tokenizer)       # None: the graph or the recipe does not allow a detector
    found.put_into(candidate)

Other rows calibrate the gate later. The vectors come from the float32 graph, and every candidate gets the same nodes,
in float32, after its quantized ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper
from safetensors import safe_open
from safetensors.numpy import save_file

from convert import probe
from convert.data import row_files
from convert.data.data_row import DataRow, main_question, rows_of
from convert.encoder import served_tokenizer
from convert.pipeline.stage import Progress, Report, StageJob
from convert.quantize.background_texts import background_texts
from convert.quantize.graph_nodes import Factor, GraphNodes
from edge_agent.formats.calibration import OUTPUT_NAME
from edge_agent.formats.manifest import Kind, TaskSpec

Floats = npt.NDArray[np.float32]

VECTOR_NAME = "ood_vector"
OPSET_MIN = 18
"""From there on every reduction takes its axes as an input."""
_PREFIX = "/ood"
_OUTPUTS = ("logits", "last_hidden_state", "sentence_embedding")
_HEADS = ("MatMul", "Gemm")
_METADATA_KEY = "detector"


@dataclass(frozen=True)
class Detector:
    """The parameters of the score."""

    centre: Floats
    """[width]"""
    whitening: Floats
    """[width, rank]: `(vector - centre) @ whitening` has unit variance within a class, and no correlation."""
    variances: Floats
    """[rank]: within a class, of the directions of `whitening`."""
    outside: float
    """Variance of one direction outside the space of `whitening`."""
    classes: Floats
    """[classes, rank]: the means of the classes, centred and whitened."""
    centroids: Floats
    """[centroids, rank]: `(vector - centre) @ whitening @ centroids.T` is the vector's length times each cosine."""
    contrast: Floats | None = None
    """[width]: `(vector - centre) @ contrast` less CONTRAST_MIN is the logarithm of the third factor; None = 1."""

    def scores(self, vectors: Floats, logits: Floats | None = None) -> Floats:
        """Return the score of each vector, [rows], as the graph computes it.

        Args:
            vectors: of the inputs, [rows, width].
            logits: of the labels, [rows, labels]; None = a score without doubt factor.
        """
        centred = vectors - self.centre
        white = centred @ _to_half_precision(self.whitening)
        classes = _to_half_precision(self.classes)
        nearest = ((classes**2).sum(axis=1) - 2 * white @ classes.T).min(axis=1)
        length = (centred**2).sum(axis=1)
        squared = (white**2) @ self._weights + length / self.outside + nearest
        cosine = (white @ _to_half_precision(self.centroids).T).max(axis=1) / np.sqrt(length)
        raised = 0.0 if self.contrast is None else np.maximum(centred @ self.contrast - CONTRAST_MIN, 0)
        doubt: Floats | float = 1.0
        if logits is not None:
            weight = DOUBT_WEIGHT * math.log(logits.shape[1])
            largest = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)
            doubt = (1 + DOUBT_MIN - largest) ** weight
        return np.asarray(np.sqrt(np.maximum(squared * (2 - 2 * cosine), 0)) * np.exp(raised) * doubt, np.float32)

    @property
    def _weights(self) -> Floats:
        """[rank]: 1 for the distance inside the space, minus the part that the whole length counts already."""
        return np.asarray(1 - self.variances / self.outside, np.float32)

    def add_to(self, nodes: GraphNodes, layers: Sequence[str], logits: str = "", labels: int = 0) -> None:
        """Add the nodes that compute the score of an input; with `logits` of `labels` labels, the doubt factor too.

        On a short text a node costs more than its arithmetic, so there are few nodes; see docs/decisions/0072.
        """
        white, along, length = self._coordinates(nodes, layers)
        norm = nodes.add("Sqrt", [length])
        # The squared chord is 2 - 2 * cosine with the norm as denominator: here it multiplies 2, below it is a factor.
        chord = nodes.lowest("Gemm", [white, nodes.half(-2 * self.centroids.T), norm], beta=2.0)
        factors = [
            Factor(self._squared(nodes, white, length), power=1 / 2),
            Factor(chord, power=1 / 2),
            Factor(norm, power=-1 / 2),
            Factor(nodes.add("Exp", [along]), power=1, least=1),
        ]
        if logits:
            doubt_max = nodes.constant(np.array(1 + DOUBT_MIN, np.float32))
            doubt = nodes.lowest("Sub", [doubt_max, nodes.add("Softmax", [logits], axis=1)])
            factors.append(Factor(doubt, power=DOUBT_WEIGHT * math.log(labels)))
        nodes.multiply(factors, OUTPUT_NAME)

    def _coordinates(self, nodes: GraphNodes, layers: Sequence[str]) -> list[str]:
        """Add everything that is linear in the vector, as one product; return the names of its parts.

        The squared distance from the centre is linear as well, because the length of a vector is known: 1 in each
        layer. Rounding changes it by some 1e-6; with two encoders, on a till's texts and CLINC150, it is 1 to 2.

        Returns:
            the whitened coordinates [batch, rank], the logarithm of the third factor [batch, 1], and the squared
            distance from the centre [batch, 1].
        """
        contrast = np.zeros_like(self.centre) if self.contrast is None else self.contrast
        singles = np.stack([contrast, -2 * self.centre], axis=1)
        centre = self.centre.astype(np.float64)
        offset = -centre @ np.concatenate([_to_half_precision(self.whitening), singles], axis=1)
        offset[-2:] = offset[-2] - CONTRAST_MIN, len(layers) + centre @ centre
        matrix = nodes.add("Concat", [nodes.half(self.whitening), nodes.constant(singles)], axis=1)
        product = nodes.add("Gemm", [_add_vector(nodes, layers), matrix, nodes.constant(offset.astype(np.float32))])
        return nodes.split(product, (len(self.variances), 1, 1))

    def _squared(self, nodes: GraphNodes, white: str, length: str) -> str:
        """Add the squared Mahalanobis distance to the nearest class; return its name."""
        lengths = nodes.constant((_to_half_precision(self.classes) ** 2).sum(axis=1))
        nearest = nodes.lowest("Gemm", [white, nodes.half(-2 * self.classes.T), lengths])
        squares, weights = nodes.add("Mul", [white, white]), nodes.constant(self._weights[:, np.newaxis])
        return nodes.add("Add", [nodes.add("Gemm", [squares, weights, length], beta=1 / self.outside), nearest])

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        halves = (self.whitening, self.classes, self.centroids)
        singles = (self.centre, self.centre, self.variances, self.variances, self.classes[:, 0])
        return 2 * sum(each.size for each in halves) + 4 * sum(each.size for each in singles)


def find(model: onnx.ModelProto, kind: Kind) -> tuple[str, ...]:
    """Return the tensors [batch, tokens, width] from which the vector of an input is made; () if there are none.

    The last one is the input of the head of an exported graph; the one before it is the middle norm, if any.
    """
    opset = next((each.version for each in model.opset_import if not each.domain), 0)
    if opset < OPSET_MIN or "attention_mask" not in {each.name for each in model.graph.input}:
        return ()
    graph = onnx.shape_inference.infer_shapes(model).graph
    ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in (*graph.value_info, *graph.output)}
    headless = kind == "embed"
    for tensor, node in _answer_path(graph):
        if headless and ranks.get(tensor) == 3:
            return (*_middle_of(graph, tensor), tensor)
        headless = headless or node.op_type in _HEADS
    return ()


def logits_of(model: onnx.ModelProto, kind: Kind) -> str:
    """Return the output [batch, labels] of a graph that classifies; empty for other kinds."""
    return _OUTPUTS[0] if kind == "classify" and labels_of(model, _OUTPUTS[0]) > 1 else ""


def labels_of(model: onnx.ModelProto, logits: str) -> int:
    """Return how many labels an output of logits has; 0 = there is no such output, or its shape is not known."""
    shapes = (each.type.tensor_type.shape.dim for each in model.graph.output if each.name == logits)
    return next((int(shape[1].dim_value) for shape in shapes if len(shape) == 2), 0)


def _answer_path(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.NodeProto]]:
    """Yield the answering output and the tensors from which it is computed, each with its node, backwards."""
    producers = {name: node for node in graph.node for name in node.output}
    names = [each.name for each in graph.output]
    tensor = next((name for name in _OUTPUTS if name in names), names[0])
    while tensor in producers:
        yield tensor, producers[tensor]
        tensor = next((name for name in producers[tensor].input if name in producers), "")


def _middle_of(graph: onnx.GraphProto, hidden: str) -> tuple[str, ...]:
    """Return the middle one of the norms up to a tensor, in the order of the graph; () with fewer than three.

    BERT has one norm after the embeddings and two per layer, so it is the output of a layer, or of its attention.
    """
    norms: list[str] = []
    for node in graph.node:
        if node.op_type == "LayerNormalization":
            norms.append(node.output[0])
        if hidden in node.output:
            break
    return (norms[(len(norms) - 1) // 2],) if len(norms) >= 3 else ()


def append(model: onnx.ModelProto, layers: Sequence[str], detector: Detector, logits: str = "") -> bool:
    """Add the output to a graph; return False, without a change, if the graph lacks one of the tensors.

    Args:
        model: the graph.
        layers: of `find`.
        detector: what to add.
        logits: the tensor [batch, labels] of an encoder that classifies; empty = a score without doubt factor.
    """
    required = {*layers, *([logits] if logits else [])}
    if not layers or not required <= {name for node in model.graph.node for name in node.output}:
        return False
    detector.add_to(GraphNodes(model.graph, _PREFIX), layers, logits, labels_of(model, logits) if logits else 0)
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch"]))
    return True


def keep_only_vectors(model: onnx.ModelProto, layers: Sequence[str]) -> None:
    """Make the vector of an input the only output of a graph."""
    nodes = GraphNodes(model.graph, _PREFIX)
    nodes.add("Identity", [_add_vector(nodes, layers)], VECTOR_NAME)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(VECTOR_NAME, TensorProto.FLOAT, ["batch", "width"]))


def _to_half_precision(values: Floats) -> Floats:
    return values.astype(np.float16).astype(np.float32)


def _add_vector(nodes: GraphNodes, layers: Sequence[str]) -> str:
    """Add the nodes that compute the vector of each input; return its name, [batch, width of all layers]."""
    mask = nodes.add("Unsqueeze", [nodes.add("Cast", ["attention_mask"], to=TensorProto.FLOAT), nodes.axis(1)])
    # The mean would divide this sum over the tokens by their number; the direction is the same.
    totals = [nodes.add("MatMul", [mask, each]) for each in layers]
    units = [nodes.add("LpNormalization", [each], axis=-1, p=2) for each in totals]
    return nodes.add("Squeeze", [nodes.add("Concat", units, axis=-1), nodes.axis(1)])


ROWS_MAX = 8192
ROWS_MIN = 20
SIZE_BYTES_MAX = 1_000_000
RANK_MAX = 160
"""Principal components that are whitened, at most half of all directions; see docs/decisions/0072, "160 directions"."""
CENTROIDS_MAX, ROWS_A_CENTROID = 128, 8
CONTRAST_WEIGHT = 0.15
CONTRAST_MIN = 2 * CONTRAST_WEIGHT
"""Each standard deviation along the contrast beyond the second one multiplies the score by exp(CONTRAST_WEIGHT)."""
DOUBT_WEIGHT, DOUBT_MIN = 0.03, 0.05
"""(1 + DOUBT_MIN - largest probability) ** (DOUBT_WEIGHT * log(labels)); see docs/decisions/0072. From 95% on, the
doubt hardly falls; the fewer the labels, the less a confident answer tells about the input."""
BACKGROUND_MIN = 50
"""Fewest background texts that do not resemble the training texts; with fewer there is no contrast."""
_CONTRAST_SHRINKAGE = 0.1
"""Share of the mean variance that is added to each: some hundred texts do not determine 768 directions."""
_RESEMBLING_QUANTILE = 0.95
"""A background text with a score below this quantile of the training texts resembles them."""
_ROUNDS = 12
"""Rounds of k-means."""
_SHRINKAGE = 1e-3
"""Share of the mean variance that is added to each: a direction that hardly varies must not decide alone."""


@dataclass(frozen=True)
class FittedDetector:
    """A detector, and the tensors of the graph that it reads."""

    layers: tuple[str, ...]
    detector: Detector
    rows: int
    logits: str = ""
    """The graph's output of logits, for a classify task."""

    def put_into(self, weights: Path) -> bool:
        """Add the score to a graph in place; False if the graph lacks the tensors."""
        model = onnx.load(weights)
        if not append(model, self.layers, self.detector, self.logits):
            return False
        onnx.save(model, weights)
        return True

    def save(self, path: Path) -> None:
        """Write it to a safetensors file, for a bundle that is assembled without a recipe. Raises OSError."""
        detector = self.detector
        halves = {"whitening": detector.whitening, "classes": detector.classes, "centroids": detector.centroids}
        singles = {"centre": detector.centre, "variances": detector.variances}
        if detector.contrast is not None:
            singles["contrast"] = detector.contrast
        # safetensors writes the memory of an array and ignores its strides.
        arrays = {name: np.ascontiguousarray(each, np.float16) for name, each in halves.items()}
        arrays |= {name: np.ascontiguousarray(each, np.float32) for name, each in singles.items()}
        metadata = {"layers": list(self.layers), "logits": self.logits, "rows": self.rows, "outside": detector.outside}
        save_file(arrays, path, metadata={_METADATA_KEY: json.dumps(metadata)})
        path.chmod(0o644)  # safetensors writes it readable by its owner only

    def report(self) -> Report:
        """Return the fitted sizes, for the report."""
        return {
            "rows": self.rows,
            "classes": len(self.detector.classes),
            "centroids": len(self.detector.centroids),
            "rank": int(self.detector.whitening.shape[1]),
            "layers": len(self.layers),
            "contrast": self.detector.contrast is not None,
            "doubt": bool(self.logits),
            "size_bytes": self.detector.size_bytes,
        }


def fit(job: StageJob, task: TaskSpec, exported: Path, tokenizer: Path) -> FittedDetector | None:
    """Fit a detector; None if the graph or the training split does not allow one.

    Raises:
        ModelLoadFailed: onnxruntime cannot compute the graph.
        As `row_files.rows`.
    """
    if not job.recipe.data.train or task.kind == "redact":
        return None  # a redaction model reads every text: none is held up as out-of-distribution
    return fit_rows(row_files.rows(job.recipe, "train"), task, exported, tokenizer, progress=job.progress)


def fit_rows(
    rows: Sequence[DataRow],
    task: TaskSpec,
    exported: Path,
    tokenizer: Path,
    *,
    layers: tuple[str, ...] = (),
    progress: Progress,
) -> FittedDetector | None:
    """Fit a detector on training rows, as `fit`.

    Args:
        rows: of the training split.
        task: of the bundle.
        exported: the graph.
        tokenizer: its tokenizer.json.
        layers: the tensors to read; () = those that `find` returns.
        progress: called once, with the number of texts.
    """
    model = onnx.load(exported)
    layers, logits = layers or find(model, task.kind), logits_of(model, task.kind)
    agent_tokenizer = served_tokenizer(tokenizer)
    # By a hash of their texts, so that the order of the file does not matter.
    sampled = sorted(rows, key=lambda row: hashlib.sha256(row.key.encode()).hexdigest())[:ROWS_MAX]
    encoded_rows = [(row, tuple(agent_tokenizer.encode(row.text).ids)) for row in sampled]
    # A site refuses longer inputs, and the graph may have no positions for them.
    accepted = [(row, ids) for row, ids in encoded_rows if len(ids) <= task.limits.input_tokens_max]
    if not layers or len(accepted) < ROWS_MIN:
        return None
    progress("reading the training texts", 0, len(accepted))
    inputs = [*(ids for _, ids in accepted), *(agent_tokenizer.encode(text).ids for text in background_texts())]
    vectors, background = np.split(_vectors(model, layers, inputs), [len(accepted)])
    detector = fit_detector(vectors, _classes(task, [row for row, _ in accepted]))
    return FittedDetector(layers, with_contrast(detector, vectors, background), len(accepted), logits)


def read_saved(path: Path) -> FittedDetector:
    """Read what `FittedDetector.save` wrote. Raises OSError; SafetensorError, ValueError, KeyError: another file."""
    with safe_open(path, framework="numpy") as file:
        metadata = json.loads((file.metadata() or {})[_METADATA_KEY])
        arrays = {name: np.asarray(file.get_tensor(name), np.float32) for name in file.keys()}  # noqa: SIM118
    detector = Detector(**arrays, outside=metadata["outside"])
    return FittedDetector(tuple(metadata["layers"]), detector, metadata["rows"], metadata["logits"])


def _classes(task: TaskSpec, rows: Sequence[DataRow]) -> npt.NDArray[np.str_]:
    """Return the label of each row; for decide, the answer to the main question, empty if the row has none."""
    question = main_question(task)
    if question is None or task.kind == "classify":
        return np.array([row.label for row in rows])
    labels = {index: row.label for index, row in rows_of(task, question, rows)}
    return np.array([labels.get(index, "") for index in range(len(rows))])


def fit_detector(vectors: Floats, labels: npt.NDArray[np.str_]) -> Detector:
    """Fit a detector on vectors [rows, width] and the label of each; rows without labels are one class."""
    classes, numbers = np.unique(labels, return_inverse=True)
    centre = vectors.mean(axis=0).astype(np.float64)
    centred = vectors - centre
    means = np.stack([centred[numbers == number].mean(axis=0) for number in range(len(classes))])
    within = centred - means[numbers]
    shrinkage = _SHRINKAGE * float((within**2).mean())
    lengths, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    directions_of_centroids = _centroids(_unit_vectors(centred))
    rank = _rank_of(vectors.shape[1], len(classes) + len(directions_of_centroids))
    whitening, variances = whiten(within, directions[:, -rank:], shrinkage)
    # Coordinates of length 1 in the space, multiplied by the deviations that whitening divides by.
    inside = _unit_vectors(directions_of_centroids @ whitening * np.sqrt(variances)) * np.sqrt(variances)
    return Detector(
        centre.astype(np.float32),
        whitening.astype(np.float32),
        variances.astype(np.float32),
        float(lengths[:-rank].mean()) + shrinkage,
        (means @ whitening).astype(np.float32),
        inside.astype(np.float32),
    )


def with_contrast(detector: Detector, vectors: Floats, background: Floats) -> Detector:
    """Return a detector with the contrast of its training texts to a background.

    Args:
        detector: the detector of the training texts.
        vectors: of the training texts, [rows, width].
        background: of other texts, [texts, width]; those that resemble the training texts are left out.
    """
    limit = np.quantile(detector.scores(vectors), _RESEMBLING_QUANTILE)
    others = background[detector.scores(background) > limit]
    if len(others) < BACKGROUND_MIN:
        return detector
    centred, difference = vectors - vectors.mean(axis=0), others.mean(axis=0) - vectors.mean(axis=0)
    within = np.concatenate([centred, others - others.mean(axis=0)]).astype(np.float64)
    covariance = within.T @ within / len(within)
    shrinkage = _CONTRAST_SHRINKAGE * np.trace(covariance) / len(covariance)
    direction = np.linalg.solve(covariance + shrinkage * np.eye(len(covariance)), difference)
    deviation = float((centred @ direction).std())
    return replace(detector, contrast=(CONTRAST_WEIGHT / deviation * direction).astype(np.float32))


def _unit_vectors(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def _centroids(directions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the centroids of unit vectors by spherical k-means, of length 1; the first rows are the start."""
    centroids = directions[: min(CENTROIDS_MAX, max(1, len(directions) // ROWS_A_CENTROID))].copy()
    for _ in range(_ROUNDS):
        nearest = (directions @ centroids.T).argmax(axis=1)
        for index in np.unique(nearest):
            centroids[index] = directions[nearest == index].sum(axis=0)
        centroids = _unit_vectors(centroids)
    return centroids


def whiten(
    within: npt.NDArray[np.float64], space: npt.NDArray[np.float64], shrinkage: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the whitening of differences from class means within a space, and the variance of each direction.

    Args:
        within: [rows, width], the differences.
        space: [width, rank], orthonormal.
        shrinkage: added to each variance.

    Returns:
        whitening [width, rank], which gives the differences unit covariance; variances [rank].
    """
    inner = within @ space
    variances, directions = np.linalg.eigh(inner.T @ inner / len(inner))
    variances = variances + shrinkage
    return space @ (directions / np.sqrt(variances)), variances


def _rank_of(width: int, points: int) -> int:
    """Return the number of directions that fit into SIZE_BYTES_MAX; `points` are class means and centroids together."""
    halves_max = (SIZE_BYTES_MAX - 4 * (2 * width + points)) // 2
    return max(1, min(width // 2, RANK_MAX, halves_max // (width + points + 4)))


def _vectors(model: onnx.ModelProto, layers: Sequence[str], inputs: Sequence[Sequence[int]]) -> Floats:
    """Return the vector of each input, a list of tokens; computed one at a time, as a site does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vectors.onnx")
        keep_only_vectors(model, layers)
        onnx.save(model, path)
        answer = probe.ask("convert.probe.onnx_probe", {"model": str(path), "inputs": list(map(list, inputs))})
    return np.asarray(answer.arrays["outputs"].reshape(len(inputs), -1), np.float32)
