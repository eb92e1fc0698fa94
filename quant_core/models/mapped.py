"""Weights that stay in the checkpoint's files, mapped into memory: for models larger than memory.

transformers maps a checkpoint whose dtype is asked for, and copies it where another is. A mapped weight takes no memory
that the system could not take back. Computing in 16 bits on a CPU is slow and rough, so a block's weights are turned
into ``COMPUTE`` while the block is at work, and what is outside the blocks (norms, the head) once; embeddings are
looked up as they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

COMPUTE = torch.float32
"""What is computed in."""


@contextmanager
def resident(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Hold the modules' weights in ``COMPUTE`` inside the block, also for a backward pass in it."""
    stored = [
        (weight, weight.data)
        for module in modules
        for weight in module.parameters()
        if weight.dtype != COMPUTE
    ]
    try:
        for weight, data in stored:
            weight.data = data.to(COMPUTE)
        yield
    finally:
        for weight, data in stored:
            weight.data = data


def compute_in_blocks(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Have a mapped model compute in ``COMPUTE``, one block at a time, whenever it is run without gradients."""
    inside = {weight for block in blocks for weight in block.parameters()}
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    looked_up = {module.weight for module in embeddings}
    others = [module for module in model.modules() if not isinstance(module, nn.Embedding)]
    multiplied = {weight for module in others for weight in module.parameters(recurse=False)}
    for weight in model.parameters():
        if weight not in inside and (weight in multiplied or weight not in looked_up):
            weight.data = weight.data.to(COMPUTE)
    for embedding in embeddings:
        embedding.register_forward_hook(lambda module, args, output: output.to(COMPUTE))
    for block in blocks:
        forward: Callable[..., Any] = block.forward
        block.forward = partial(_computed, block, forward)


def _computed(block: nn.Module, forward: Callable[..., Any], *args: Any, **options: Any) -> Any:
    with resident([block]):
        return forward(*args, **options)
