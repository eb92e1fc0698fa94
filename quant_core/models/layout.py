"""A model's units and where a checkpoint's files hold them, without loading a weight.

The model is laid out on PyTorch's meta device, where parameters have shapes and no values. Stored names become the
model's by the rules that transformers itself loads by: a base model's prefix added or taken away, names of old, and
experts stored one by one that it stacks into 3-D parameters (experts, outputs, inputs). What it makes by other steps
than stacking is not found here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from quant_core.errors import ModelError
from quant_core.models.graph import Graph, build_graph
from quant_core.models.layers import Slot
from quant_core.models.sources import Checkpoint
from quant_core.models.stored import StoredTensors
from quant_core.schema import Unit

_FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}


@dataclass(frozen=True)
class Place:
    """Where rows of a unit are stored: a tensor, or one expert's slice of it, perhaps as (inputs, outputs)."""

    name: str
    expert: int | None = None
    transposed: bool = False

    def shape(self, tensors: StoredTensors) -> list[int]:
        """Rows and columns; other than two numbers if no such matrix is stored."""
        shape = tensors.shape(self.name)
        if self.expert is not None:
            shape = shape[1:] if self.expert < shape[0] else []
        return shape[::-1] if self.transposed else shape

    def matrix(self, tensors: StoredTensors) -> Tensor:
        """Those rows, (rows, columns), as a view of the mapped file."""
        values = tensors.get(self.name)
        if self.expert is not None:
            values = values[self.expert]
        return values.T if self.transposed else values


def layout(
    checkpoint: Checkpoint, tensors: StoredTensors
) -> tuple[tuple[Unit, ...], dict[str, tuple[Place, ...]]]:
    """All units of a checkpoint's model, and the places of those that the files hold as they are.

    A unit's places follow each other along its rows (outputs).

    Raises:
        ModelError: ``config.json`` describes no causal language model of a type built into transformers.
    """
    model = _on_meta(checkpoint)
    graph = build_graph(model, checkpoint.bits)
    sources = _sources(model, tensors)
    return graph.units, _located(graph, sources, tensors)


def stored_names(model: PreTrainedModel, tensors: StoredTensors) -> dict[str, str]:
    """The stored tensor of each of a model's parameters that is stored as one tensor, by the parameter's name."""
    every = _sources(model, tensors)
    return {name: lists[0][0] for name, lists in every.items() if [len(each) for each in lists] == [1]}


def places(model: PreTrainedModel, graph: Graph, tensors: StoredTensors) -> dict[str, tuple[Place, ...]]:
    """Where the files hold the units of a model that is loaded, as ``layout`` tells it of one that is not."""
    return _located(graph, _sources(model, tensors), tensors)


def _located(graph: Graph, sources: _Sources, tensors: StoredTensors) -> dict[str, tuple[Place, ...]]:
    found = {}
    for name, slot in graph.slots.items():
        held = _places(slot, sources)
        if held and _fits(slot.unit, held, tensors):
            found[name] = held
    return found


def _on_meta(checkpoint: Checkpoint) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, OSError, StrictDataclassError) as error:
        kind = checkpoint.config.get("model_type", "unknown")
        raise ModelError(
            f"{checkpoint.title} ({kind}) is no causal language model that transformers can lay out from its "
            "config.json.",
            "Choose a model that writes text left to right, of a type built into transformers.",
        ) from error
    return model


_Sources = dict[str, list[list[str]]]
"""For each parameter the stored tensors that make it: lists to be joined along the outputs, each of one tensor an
expert, or of a single one where nothing is stacked."""


def _sources(model: PreTrainedModel, tensors: StoredTensors) -> _Sources:
    mapping = get_model_conversion_mapping(model)
    renamings = [step for step in mapping if isinstance(step, WeightRenaming)]
    converters = [step for step in mapping if isinstance(step, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    parameters = model.state_dict()
    direct: _Sources = {}
    stacked: dict[str, dict[str, list[str]]] = {}
    for stored in sorted(tensors.names, key=dot_natural_key):
        name, pattern = rename_source_key(stored, renamings, converters, model.base_model_prefix, parameters)
        if pattern is None:
            direct.setdefault(name, [[stored]])
        elif _stacks(by_pattern[pattern]):
            lists = stacked.setdefault(name, {each: [] for each in by_pattern[pattern].source_patterns})
            lists[pattern].append(stored)
    return direct | {name: list(lists.values()) for name, lists in stacked.items()}


def _stacks(converter: Any) -> bool:
    """Whether experts are stacked, and what is joined is joined along the outputs, and no more is done."""
    merge, *rest = converter.operations
    if not isinstance(merge, MergeModulelist) or merge.dim != 0:
        return False
    if not rest:
        return len(converter.source_patterns) == 1
    return len(rest) == 1 and isinstance(rest[0], Concatenate) and rest[0].dim == 1


def _places(slot: Slot, sources: _Sources) -> tuple[Place, ...]:
    """Where a unit is stored under its own name or one that it shares; empty if it is not."""
    name = slot.unit.name.partition("[")[0]
    lists = next((sources[each] for each in (name, *slot.unit.tied) if each in sources), [])
    if slot.expert is None:
        return tuple(Place(stored, transposed=slot.transposed) for (stored,) in lists)
    if [len(each) for each in lists] == [1]:
        return (Place(lists[0][0], slot.expert),)
    if all(slot.expert < len(each) for each in lists):
        return tuple(Place(each[slot.expert]) for each in lists)
    return ()


def _fits(unit: Unit, places: Sequence[Place], tensors: StoredTensors) -> bool:
    """Whether the places are plain floats and make the unit's shape."""
    dtypes = {tensors.get(place.name).dtype for place in places}
    if not dtypes <= _FLOATS or len(dtypes) > 1:
        return False
    shapes = [place.shape(tensors) for place in places]
    if any(len(shape) != 2 or shape[1] != unit.columns for shape in shapes):
        return False
    return sum(shape[0] for shape in shapes) == unit.rows
