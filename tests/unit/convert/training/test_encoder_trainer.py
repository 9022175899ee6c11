"""The head of a checkpoint that gets other labels: outputs of labels that both have are kept."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from convert.training.encoder_trainer import keep_known_outputs


def head_of(labels: int, value: float) -> torch.nn.Linear:
    """Return a head with two inputs and one value for all weights."""
    head = torch.nn.Linear(2, labels)
    with torch.no_grad():
        head.weight.fill_(value)
        head.bias.fill_(value)
    return head


def saved(folder: Path) -> Path:
    """Write a checkpoint whose head has three outputs."""
    weight, bias = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), torch.tensor([1.0, 2.0, 3.0])
    save_file({"classifier.weight": weight, "classifier.bias": bias}, folder / "model.safetensors")
    return folder


def test_outputs_of_common_labels_are_kept(tmp_path: Path):
    """Weights and biases of labels that the checkpoint has are copied, in any order, and a new label keeps its initial
    values."""
    head = head_of(3, 9.0)
    assert 2 == keep_known_outputs(head, saved(tmp_path), ["O", "B-A", "B-B"], ["O", "B-C", "B-A"])
    assert [1.0, 9.0, 2.0] == head.bias.tolist()
    assert [[1.0, 1.0], [9.0, 9.0], [2.0, 2.0]] == head.weight.tolist()


def test_unrelated_head_is_not_copied(tmp_path: Path):
    """Nothing is copied if no label is in both, the checkpoint has no head, or their number differs."""
    head = head_of(2, 9.0)
    assert 0 == keep_known_outputs(head, saved(tmp_path), ["O", "B-A", "B-B"], ["X", "Y"])
    assert 0 == keep_known_outputs(head, tmp_path / "none", ["O", "B-A"], ["O", "B-A"])
    assert 0 == keep_known_outputs(head, tmp_path, ["O", "B-A"], ["O", "B-A"])
    assert [9.0, 9.0] == head.bias.tolist()
