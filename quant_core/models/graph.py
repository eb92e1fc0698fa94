"""Which weights of a model can be quantized: every unit with its name, block, role and shape, ties counted once."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from quant_core.models.layers import Site, Slot, is_experts, is_matrix
from quant_core.schema import Unit

_FUSED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}


@dataclass(frozen=True)
class Graph:
    """Units in the model's order, where their values live, and which modules apply them."""

    slots: dict[str, Slot]
    sites: tuple[Site, ...]
    other_parameters: int
    """Parameters that belong to no unit (norms, biases, positions, routers)."""

    @property
    def units(self) -> tuple[Unit, ...]:
        """All units, decided or not."""
        return tuple(slot.unit for slot in self.slots.values())


def _block(name: str) -> int:
    found = re.search(r"\.(\d+)\.", name)
    return int(found.group(1)) if found else -1


def block_path(unit: Unit) -> str:
    """The name of the module that is a unit's block; empty for a unit outside the blocks."""
    found = re.match(r".*?\.\d+(?=\.)", unit.name)
    return found[0] if found and unit.block >= 0 else ""


def build_graph(model: PreTrainedModel, bits: int) -> Graph:
    """List the model's units; ``bits`` is what a value takes in the checkpoint."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    slots: dict[str, Slot] = {}
    sites: list[Site] = []
    for path, module in model.named_modules():
        if is_experts(module):
            made = _expert_slots(path, module, bits)
            sites.append(Site(module, tuple(made), "experts"))
        elif is_matrix(module) or module is embedding:
            made = [_matrix_slot(path, module, module is head, names, bits)]
            sites.append(Site(module, tuple(made), "lookup" if module is embedding else "matrix"))
        else:
            continue
        for slot in made:
            slots.setdefault(slot.unit.name, slot)
    slots = _with_distinct_roles(slots)
    counted = {id(slot.parameter) for slot in slots.values()}
    other = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in counted)
    return Graph(slots, tuple(sites), other)


def _with_distinct_roles(slots: dict[str, Slot]) -> dict[str, Slot]:
    """Call GPT-2's two ``c_proj`` of a block ``attn.c_proj`` and ``mlp.c_proj``: a role is met once in a block."""
    met = Counter((slot.unit.block, slot.unit.role) for slot in slots.values())
    twice = {role for (_, role), count in met.items() if count > 1}
    return {
        name: replace(slot, unit=replace(slot.unit, role=".".join(name.split(".")[-3:-1])))
        if slot.unit.role in twice
        else slot
        for name, slot in slots.items()
    }


def _matrix_slot(path: str, module: nn.Module, is_head: bool, names: dict[int, list[str]], bits: int) -> Slot:
    parameter = module.get_parameter("weight")
    own, *tied = names[id(parameter)]
    transposed = isinstance(module, Conv1D)
    rows, columns = reversed(parameter.shape) if transposed else parameter.shape
    parent, _, role = path.rpartition(".")
    if len(tied) or not is_matrix(module):
        kind, role, block = "embedding", own.split(".")[-2], -1
    else:
        kind = "head" if is_head else "conv1d" if transposed else "linear"
        block = -1 if is_head else _block(own)
    unit = Unit(
        name=own,
        block=block,
        role=role,
        kind=kind,  # type: ignore[arg-type]  # one of the literals by construction
        rows=int(rows),
        columns=int(columns),
        bits=bits,
        decided=block >= 0,
        fused=f"{parent}.{_FUSED[role]}" if role in _FUSED and block >= 0 else "",
        tied=tuple(tied),
    )
    return Slot(unit, parameter, transposed)


def _expert_slots(path: str, module: nn.Module, bits: int) -> list[Slot]:
    slots = []
    for role in ("gate_up_proj", "down_proj"):
        parameter = module.get_parameter(role)
        experts, rows, columns = parameter.shape
        for expert in range(experts):
            unit = Unit(
                name=f"{path}.{role}[{expert}]",
                block=_block(f"{path}.{role}"),
                role=f"{role}[{expert}]",
                kind="expert",
                rows=rows,
                columns=columns,
                bits=bits,
                decided=True,
                fused=path,
            )
            slots.append(Slot(unit, parameter, expert=expert))
    return slots
