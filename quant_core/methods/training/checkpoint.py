"""A training's state on disk, so that one that was stopped goes on as if it had not been.

All there is to it: what is learned, Adam's two moments and step counts, and how far the training was. Which sequences
come next follows from the seed and the step, so that no generator's state needs to be kept. The file is named by the
request's content key: the same request, asked again, finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from quant_core.methods.trained import read_head, write_tensors
from quant_core.store.arrays import SUFFIX, array_file

KEPT = 3
"""Trainings that may be stopped and go on; the checkpoints of older ones are removed."""
_SLOTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class Progress:
    """How far a training is."""

    text_hash: str
    kl_before: float
    start: str
    """The rounding method it started from where the names leave that open."""
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    """Of every step done."""


def checkpoint_path(folder: Path, key: str) -> Path:
    """Where the checkpoint of the request with a content key is."""
    return array_file(folder, "training", key)


def read_progress(path: Path, text_hash: str) -> Progress | None:
    """How far the stopped training was; None if there is none, or it was on another text."""
    head = read_head(path)
    if head is None or head.get("text_hash") != text_hash:
        return None
    return Progress(**head)


def save(path: Path, progress: Progress, learned: Mapping[str, Tensor], adam: torch.optim.Adam) -> None:
    """Write a checkpoint whole, and remove those of all but the last few trainings."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in learned.items():
        tensors[name] = tensor.detach()
        state = adam.state.get(tensor, {})
        tensors |= {f"{name}|{slot}": state[slot] for slot in _SLOTS if slot in state}
    write_tensors(path, tensors, asdict(progress))
    others = sorted(path.parent.glob(f"training-*{SUFFIX}"), key=lambda file: file.stat().st_mtime)
    for old in others[:-KEPT]:
        old.unlink(missing_ok=True)


def restore(path: Path, learned: Mapping[str, Tensor], adam: torch.optim.Adam) -> None:
    """Put what a checkpoint holds back into ``learned`` and ``adam``, whose parameters are in the same order."""
    tensors = load_file(path)
    states: dict[int, dict[str, Any]] = {}
    for index, (name, tensor) in enumerate(learned.items()):
        with torch.no_grad():
            tensor.copy_(tensors[name])
        state = {slot: tensors[f"{name}|{slot}"] for slot in _SLOTS if f"{name}|{slot}" in tensors}
        if state:
            states[index] = state
    adam.load_state_dict({"state": states, "param_groups": adam.state_dict()["param_groups"]})
