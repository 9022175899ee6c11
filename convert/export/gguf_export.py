"""Exports checkpoints to GGUF with llama.cpp's converter, and handles or refuses what it gets wrong without an error.

The converter is of the same release that the agent runs. It is not on PyPI, but in the source archive of
llama-cpp-python, together with a gguf library that differs from the one on PyPI of the same version. So `setup` builds
both from the pinned archive once, into a folder of their own, and every conversion is a process with that folder on its
path. Afterwards no network is needed.

- BERT classifiers: the converter drops the pooler, so llama.cpp would classify without it. The pooler is renamed to the
  layer that llama.cpp computes in its place.
- Gemma 3 with a query scalar other than its head size, or with global attention in layers other than every sixth:
  llama.cpp reads neither setting.
- Adapters with a scale other than alpha / rank: llama.cpp supports no other.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from convert.pipeline.stage import Progress, Report
from convert.training import checkpoint_loading
from edge_agent.durable import atomic_files
from edge_agent.errors import FileMissing, HashMismatch, InvalidRequest, ModelLoadFailed, RequirementUnmet

VERSION = "0.3.36"
"""Version of llama-cpp-python, as pinned in pyproject.toml."""
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
"""SHA-256 of its source archive on PyPI."""
CACHE_VARIABLE = "EDGE_CONVERT_CACHE"
HF_SCRIPT, LORA_SCRIPT = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"
_ARCHIVE_PREFIX = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
_NEEDED_FILES = ("conversion/", "gguf-py/", "pyproject.toml", "README.md", "LICENSE")
_STEPS = 4


@dataclass(frozen=True)
class GgufConverter:
    """An installed converter."""

    scripts: Path
    """The folder with HF_SCRIPT and LORA_SCRIPT."""
    library: Path
    """The folder with the gguf package that they need."""

    def run(self, script: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run one of the scripts."""
        path = os.pathsep.join([str(self.scripts), str(self.library)])
        environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        environment["TQDM_DISABLE"] = "1"  # so that the last line is the error
        command = [sys.executable, str(self.scripts / script), *arguments]
        return subprocess.run(  # noqa: S603 - the converter that was set up
            command, capture_output=True, text=True, errors="replace", check=False, env=environment
        )


def _user_cache() -> Path:
    """Return the folder of the converter: $EDGE_CONVERT_CACHE, or one in the user's cache."""
    configured = os.environ.get(CACHE_VARIABLE)
    user = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(configured) if configured else Path(user, "edge-convert")


def find(checkout: Path | None = None) -> GgufConverter:
    """Return the converter: that of a llama.cpp checkout if one is given, else the one that `setup` made.

    Raises:
        FileMissing: the checkout has no converter.
        RequirementUnmet: `setup` has not run.
    """
    if checkout is not None:
        if not (checkout / HF_SCRIPT).is_file():
            raise FileMissing(f"{checkout} has no {HF_SCRIPT}", remedy="Name a checkout of llama.cpp.")
        return GgufConverter(checkout, checkout / "gguf-py")
    site = _site(_user_cache())
    if not (site / HF_SCRIPT).is_file():
        message = f"llama.cpp's converter is not set up: {site} does not exist"
        raise RequirementUnmet(message, remedy="Run 'edge-convert setup' once, with network; later runs need none.")
    return GgufConverter(site, site)


def setup(cache: Path | None = None, archive: Path | None = None, progress: Progress = lambda *_: None) -> Path:
    """Build the converter unless it exists, and return its folder.

    `archive` is the source archive if it was downloaded by other means; its hash is checked too.

    Raises:
        HashMismatch: the archive is not the pinned one.
        RequirementUnmet: pip cannot download or build a package.
    """
    site = _site(cache or _user_cache())
    if (site / HF_SCRIPT).is_file():
        return site
    site.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=site.parent, prefix=".setup-") as name:
        folder = Path(name)
        progress("downloading the source archive of llama-cpp-python", 0, _STEPS)
        source = archive or download(folder)
        _check_archive(source)
        progress("unpacking llama.cpp's converter", 1, _STEPS)
        tree = _unpack(source, folder / "source")
        progress("building it", 2, _STEPS)
        wheels = folder / "wheels"
        _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(tree), str(tree / "gguf-py"))
        progress("installing it", 3, _STEPS)
        target = folder / "site"
        files = [str(wheel) for wheel in sorted(wheels.glob("*.whl"))]
        _pip("install", "--no-deps", "--no-index", "--no-compile", "--target", str(target), *files)
        target.replace(site)
    progress("installing it", _STEPS, _STEPS)
    return site


def _site(cache: Path) -> Path:
    return cache / f"llama-cpp-python-{VERSION}"


def download(folder: Path) -> Path:
    """Download the source archive into a folder, and check its hash.

    pip runs its build script for the metadata, which takes a minute. Raises RequirementUnmet.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    only_source = ("--no-binary", "llama-cpp-python")
    _pip("download", "--no-deps", *only_source, "--require-hashes", "--dest", str(folder), "-r", str(requirements))
    return folder / f"llama_cpp_python-{VERSION}.tar.gz"


def _check_archive(archive: Path) -> None:
    if not archive.is_file():
        raise FileMissing(f"{archive} does not exist", remedy="Name the source archive of llama-cpp-python.")
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        message = f"{archive} is not the source archive of llama-cpp-python {VERSION}: its sha256 is {digest}"
        raise HashMismatch(message, remedy=f"Download llama_cpp_python-{VERSION}.tar.gz from PyPI.")


def _unpack(archive: Path, target: Path) -> Path:
    """Unpack the files of the converter, about 1% of the archive."""
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Debian 12's Python 3.11.2 has none
        for member in tar:
            relative = member.name.removeprefix(_ARCHIVE_PREFIX)
            top = "/" not in relative and relative.endswith(".py")
            if member.name.startswith(_ARCHIVE_PREFIX) and (top or relative.startswith(_NEEDED_FILES)):
                tar.extract(member, target)
    return target / _ARCHIVE_PREFIX


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603 - pip
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or result.stderr.splitlines()
        raise RequirementUnmet(
            f"'pip {arguments[0]}' failed: {lines[0][:300] if lines else 'it printed no error'}",
            remedy="The setup needs the network, or --archive with the file. Configure a proxy in pip.",
        )


def last_error(result: subprocess.CompletedProcess[str]) -> str:
    """Return the line with a script's error."""
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    error_lines = [line for line in lines if line.startswith(("ERROR", "NotImplementedError", "FileNotFoundError"))]
    return (error_lines or lines or ["it printed no error"])[-1]


def check_result(result: subprocess.CompletedProcess[str], out: Path) -> None:
    """Raise ModelLoadFailed if a script did not write its file, OSError if the disk is full."""
    if result.returncode != 0 or not out.is_file():
        atomic_files.require_free_space(out)
        message = f"llama.cpp's converter failed: {last_error(result)[:500]}"
        raise ModelLoadFailed(message, remedy="docs/architectures.md lists the architectures that work.")


BASE, ADAPTER = "base.gguf", "adapter.gguf"
F32_BYTES_MAX = 4 * 10**9
"""Bytes of weights above which the file is F16."""
_GEMMA3_27B_LAYERS = 62
_GEMMA3_PATTERN = 6
_POOLER_NAMES = ("bert.pooler.dense.", "classifier.dense.")
_MERGE_REMEDY = "Set 'adapter: merged' under 'export' in the recipe."


@dataclass(frozen=True)
class GgufExport:
    """The input of an export."""

    checkpoint: Path
    adapter: Path | None = None
    merged: bool = False
    """Merge the adapter into the weights, instead of writing a separate file."""


def export(request: GgufExport, converter: GgufConverter, out: Path, progress: Progress) -> Report:
    """Write `base.gguf`, and `adapter.gguf` if it stays separate.

    Raises:
        InvalidRequest: the model, its tokenizer or its adapter is of a kind that the converter gets wrong.
        ModelLoadFailed: the weights do not fill the model, or the converter fails.
    """
    _refuse_architecture(checkpoint_loading.read_config(request.checkpoint))
    report: Report = {"base": BASE, "type": weight_type(request.checkpoint), "converter": converter.scripts.name}
    if request.adapter is None:
        progress("converting", 0, 1)
        to_gguf(converter, request.checkpoint, out / BASE)
    elif request.merged:
        progress("merging and converting", 0, 1)
        with tempfile.TemporaryDirectory(dir=out, prefix=".merged-") as folder:
            merged = _merge_adapter(request.checkpoint, request.adapter, Path(folder, "checkpoint"))
            to_gguf(converter, merged, out / BASE)
    else:
        _refuse_adapter(request.adapter)
        progress("converting the base", 0, 2)
        to_gguf(converter, request.checkpoint, out / BASE)
        progress("converting the adapter", 1, 2)
        adapter_to_gguf(converter, request.adapter, request.checkpoint, out / ADAPTER)
        report["adapter"] = ADAPTER
    return report


def to_gguf(converter: GgufConverter, checkpoint: Path, out: Path) -> None:
    """Convert a checkpoint of any architecture that the converter knows. Raises as `export` does."""
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".bert-") as folder:
        config = checkpoint_loading.read_config(checkpoint)
        if config.get("architectures") == ["BertForSequenceClassification"]:
            checkpoint = _with_pooler(checkpoint, Path(folder, "checkpoint"))
        name = str(config.get("_name_or_path") or config["model_type"]).rstrip("/").rpartition("/")[2]
        kind = weight_type(checkpoint).lower()
        arguments = [str(checkpoint), "--outfile", str(out), "--outtype", kind, "--model-name", name]
        result = converter.run(HF_SCRIPT, arguments)
    _raise_known_failure(result, config)
    check_result(result, out)


def adapter_to_gguf(converter: GgufConverter, adapter: Path, checkpoint: Path, out: Path) -> None:
    """Convert a PEFT adapter. Raises ModelLoadFailed."""
    arguments = [str(adapter), "--base", str(checkpoint), "--outfile", str(out), "--outtype", "f16"]
    check_result(converter.run(LORA_SCRIPT, arguments), out)


def weight_type(checkpoint: Path) -> str:
    """Return the type of the exported weights: float32 is exact, but limited to small models."""
    size = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    return "F32" if size <= F32_BYTES_MAX else "F16"


def _refuse_architecture(config: dict[str, Any]) -> None:
    if not checkpoint_loading.is_decoder(config):
        remedy = "Set 'runtime: onnx' in task.yaml for an encoder, or name a causal language model."
        raise InvalidRequest(f"the llama runtime serves decoders; the source is {_architecture(config)}", remedy=remedy)
    if str(config["model_type"]).startswith("gemma3"):
        _refuse_gemma3(config.get("text_config") or config)


def _refuse_gemma3(text: dict[str, Any]) -> None:
    """Raise InvalidRequest for settings of Gemma 3 that llama.cpp assumes and does not read."""
    scalar, size = text.get("query_pre_attn_scalar", 256), text.get("head_dim", 256)
    if text.get("num_hidden_layers") == _GEMMA3_27B_LAYERS:
        size = text["hidden_size"] / text["num_attention_heads"]
    if scalar != size:
        raise InvalidRequest(
            f"Gemma 3 with query_pre_attn_scalar {scalar} and heads of {size}: llama.cpp would compute with {size}",
            remedy="Start from a Gemma 3 whose query_pre_attn_scalar is the size of its heads.",
        )
    layers = text.get("layer_types") or []
    global_layers = [index for index, kind in enumerate(layers, 1) if kind == "full_attention"]
    if global_layers != list(range(_GEMMA3_PATTERN, len(layers) + 1, _GEMMA3_PATTERN)):
        message = f"Gemma 3 with global attention in layers {global_layers}: llama.cpp assumes every sixth layer"
        raise InvalidRequest(message, remedy="Start from a Gemma 3 with the published layer pattern.")


def _refuse_adapter(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    unsupported = {
        "use_rslora": "is scaled by the root of its rank (rsLoRA)",
        "use_dora": "changes magnitudes too (DoRA)",
        "alpha_pattern": "has another alpha in some layers",
        "lora_bias": "has biases",
    }
    for key, description in unsupported.items():
        if config.get(key):
            raise InvalidRequest(f"the adapter {description}, which llama.cpp does not support", remedy=_MERGE_REMEDY)
    if config.get("bias", "none") != "none":
        raise InvalidRequest("the adapter changes biases, which llama.cpp does not support", remedy=_MERGE_REMEDY)


def _raise_known_failure(result: subprocess.CompletedProcess[str], config: dict[str, Any]) -> None:
    """Raise InvalidRequest if the converter failed for a known cause."""
    if result.returncode == 0:
        return
    if "pre-tokenizer was not recognized" in result.stderr:
        raise InvalidRequest(
            "llama.cpp does not know this tokenizer's pre-tokenizer: it recognizes one by its result on a test"
            " string, and this tokenizer was retrained or edited",
            remedy="Use the unchanged tokenizer of the model that yours was fine-tuned from.",
        )
    if "is not supported" in result.stderr:
        message = f"llama.cpp's converter does not know the architecture {_architecture(config)}"
        raise InvalidRequest(message, remedy="docs/architectures.md lists the architectures that work.")
    if "FileNotFoundError" in result.stderr or "tokenizer.model" in result.stderr:
        raise InvalidRequest(
            f"the converter misses a file of this model's tokenizer: {last_error(result)[:300]}",
            remedy="Copy tokenizer.model, or the named file, from the model that yours was fine-tuned from.",
        )


def _architecture(config: dict[str, Any]) -> str:
    return ", ".join(config.get("architectures") or [str(config["model_type"])])


def _merge_adapter(checkpoint: Path, adapter: Path, out: Path) -> Path:
    """Return a copy whose weights include the adapter. It names its base, which `save_pretrained` leaves out.

    The converter takes what it writes as `general.finetune` from the folder's name, so this must not be a random one.
    """
    checkpoint_loading.open_model(checkpoint, adapter, "causal").save_pretrained(out)
    base = checkpoint_loading.read_config(checkpoint).get("_name_or_path")
    if base:
        config = checkpoint_loading.read_config(out) | {"_name_or_path": base}
        (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _copy_rest(checkpoint, out)
    return out


def _with_pooler(checkpoint: Path, out: Path) -> Path:
    """Return a copy in which the pooler has the name of the layer that llama.cpp computes before the classifier."""
    out.mkdir()
    for file in checkpoint.glob("*.safetensors"):
        tensors = {name.replace(*_POOLER_NAMES): tensor for name, tensor in load_file(file).items()}
        save_file(tensors, out / file.name, metadata={"format": "pt"})
    _copy_rest(checkpoint, out)
    return out


def _copy_rest(checkpoint: Path, out: Path) -> None:
    for file in checkpoint.iterdir():
        if file.is_file() and file.suffix != ".safetensors" and not (out / file.name).exists():
            shutil.copyfile(file, out / file.name)
