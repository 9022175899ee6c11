"""A head that gets more labels keeps what the checkpoint's head knows of the others."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from convert.training.encoder_trainer import keep_known_outputs


def head_of(labels: int, value: float) -> torch.nn.Linear:
    """Return a head of two inputs, all its weights of one value."""
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


def test_labels_that_both_have_start_as_they_were(tmp_path: Path):
    """Rows follow their labels, in whatever order; a new label keeps its own start."""
    head = head_of(3, 9.0)
    assert 2 == keep_known_outputs(head, saved(tmp_path), ["O", "B-A", "B-B"], ["O", "B-C", "B-A"])
    assert [1.0, 9.0, 2.0] == head.bias.tolist()
    assert [[1.0, 1.0], [9.0, 9.0], [2.0, 2.0]] == head.weight.tolist()


def test_another_head_is_left_alone(tmp_path: Path):
    """No label in common, a checkpoint without a head, or one of other sizes: nothing is copied."""
    head = head_of(2, 9.0)
    assert 0 == keep_known_outputs(head, saved(tmp_path), ["O", "B-A", "B-B"], ["X", "Y"])
    assert 0 == keep_known_outputs(head, tmp_path / "none", ["O", "B-A"], ["O", "B-A"])
    assert 0 == keep_known_outputs(head, tmp_path, ["O", "B-A"], ["O", "B-A"])
    assert [9.0, 9.0] == head.bias.tolist()
