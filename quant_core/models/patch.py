"""The one place that changes a model: swap weights for a while and always put the original ones back.

New values are prepared as separate tensors, and entering or leaving ``patched`` only exchanges the parameters'
storage. The original storage is never written to, so leaving restores it exactly, whatever happened inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quant_core.errors import QuantError
from quant_core.models.graph import Graph
from quant_core.registry import unknown_name

Weights = dict[nn.Parameter, Tensor]


def swap(graph: Graph, matrices: Mapping[str, Tensor]) -> Weights:
    """New storage for the parameters that hold the named units, given as (rows, columns) matrices.

    Units that share a parameter (experts) and are not named keep their values.
    """
    weights: Weights = {}
    for name, matrix in matrices.items():
        if name not in graph.slots:
            raise unknown_name("weight", name, graph.slots)
        slot = graph.slots[name]
        if tuple(matrix.shape) != (slot.unit.rows, slot.unit.columns):
            raise QuantError(
                f"{name} is {slot.unit.rows} x {slot.unit.columns}, not {' x '.join(map(str, matrix.shape))}.",
                "Use a recipe made for this model.",
            )
        if slot.parameter not in weights:
            fresh = torch.empty_like(slot.parameter.data)
            weights[slot.parameter] = fresh if slot.expert is None else fresh.copy_(slot.parameter.data)
        slot.write(weights[slot.parameter], matrix)
    return weights


@contextmanager
def patched(weights: Weights) -> Iterator[None]:
    """Let the model compute with ``weights`` inside the block."""
    kept = {parameter: parameter.data for parameter in weights}
    try:
        for parameter, data in weights.items():
            parameter.data = data
        yield
    finally:
        for parameter, data in kept.items():
            parameter.data = data
