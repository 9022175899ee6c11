"""Checks a PEFT adapter for the source: it must be LoRA, complete, and made for this base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from convert.pipeline.stage import Report
from convert.prepare import checkpoint_source
from edge_agent.errors import FileMissing, InvalidRequest, ModelLoadFailed

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_KINDS_REMEDY = "Merge it into its base with PEFT (merge_and_unload), save that, and name it as 'checkpoint'."


def take(source: Path, checkpoint: Path, out: Path, base: str) -> Report:
    """Check an adapter against the prepared checkpoint and copy it.

    Raises:
        FileMissing: a file of it is missing.
        InvalidRequest: it is not a LoRA adapter, or it names another base.
        ModelLoadFailed: its shapes are those of another base.
    """
    config = _config(source)
    made_for = str(config.get("base_model_name_or_path") or "")
    _check_name(source, made_for, base)
    pairs = _check_shapes(source, checkpoint)
    out.mkdir(parents=True)
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(source / name, out / name)
    return {"made_for": made_for, "rank": config.get("r"), "alpha": config.get("lora_alpha"), "tensors": 2 * pairs}


def _config(source: Path) -> dict[str, Any]:
    for name in (CONFIG, WEIGHTS):
        if not (source / name).is_file():
            raise FileMissing(f"{source} has no {name}", remedy=_missing_remedy(source, name))
    config: dict[str, Any] = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InvalidRequest(f"{source} is a PEFT adapter of type {kind}; only LORA is supported", remedy=_KINDS_REMEDY)
    if config.get("modules_to_save"):
        said = f"{source} replaces whole modules of its base ({', '.join(config['modules_to_save'])})"
        raise InvalidRequest(said, remedy=_KINDS_REMEDY)
    return config


def _missing_remedy(source: Path, name: str) -> str:
    if name == WEIGHTS and (source / "adapter_model.bin").is_file():
        return "Its weights are pickled (adapter_model.bin): where you trust it, load and save it again with PEFT."
    return "Name the directory that PEFT's save_pretrained wrote."


def _check_name(source: Path, made_for: str, base: str) -> None:
    """Compare names if both have the form of a hub, "owner/name"; the name of a folder means nothing."""
    hub_names = [name for name in (made_for, base) if name.count("/") == 1 and not name.startswith((".", "/"))]
    if len({name.lower() for name in hub_names}) > 1:
        said = f"the adapter {source} was made for {made_for}; the source is {base}"
        raise InvalidRequest(said, remedy=f"Name {made_for} as the base.")


def _check_shapes(source: Path, checkpoint: Path) -> int:
    """Return how many linear layers the adapter changes; each must have the shape of the base's layer."""
    base, adapter = checkpoint_source.shapes(checkpoint), checkpoint_source.shapes(source)
    downs = [name for name in adapter if name.endswith(".lora_A.weight")]
    for down in downs:
        up = down.replace(".lora_A.", ".lora_B.")
        layer = down.removeprefix(_PREFIX).replace(".lora_A.weight", ".weight")
        # The names of a bare encoder lack the prefix, such as "bert.", of a model with a head.
        wanted = base.get(layer) or base.get(layer.partition(".")[2])
        given = [*adapter.get(up, [0])[:1], *adapter[down][1:]]
        if wanted != given:
            there = f"is {wanted[0]} x {wanted[1]}" if wanted else "does not exist"
            raise ModelLoadFailed(
                f"the adapter {source} is for another base: it changes {layer} of {' x '.join(map(str, given))}, "
                f"which {there} in the source",
                remedy="Name the base that adapter_config.json states.",
            )
    if not downs:
        raise ModelLoadFailed(f"{source / WEIGHTS} holds no LoRA weights", remedy="Save the adapter again with PEFT.")
    return len(downs)
