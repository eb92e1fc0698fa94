"""Which layers moved one prediction: the KL divergence at a single place with each unit rounded alone.

Nothing is estimated: each unit's rounded weights stand in for its own, all others stay as they are, and the prediction
behind the text is compared with the original's. What lies before the unit answers as it did (``models.prefix``), so
that a unit costs the part of a pass behind it. The divergences of units alone do not add up to that of all together,
since errors reinforce or cancel each other; both are given.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from quant_core.calibration.interruption import interruptible
from quant_core.jobs.context import Context
from quant_core.methods.rewrite import for_copy
from quant_core.methods.variant import Variant, make_variant
from quant_core.metrics import Baseline
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel
from quant_core.models.patch import bypassed, patched, swap
from quant_core.models.prefix import Prefix
from quant_core.schema import ORIGINAL, Attribution, AttributionRequest


def attribute(context: Context, request: AttributionRequest) -> Attribution:
    """Measure every rounded unit alone at the place behind ``request.ids``, and all of the recipe together.

    Where a setup rewrites the model, units are rounded in the rewritten one and compared with it unrounded; rounded
    activations and KV cache count in the whole alone.
    """
    loaded = context.loaded(request.model, request.roots, request.fingerprint)
    begun = time.monotonic()
    ids = torch.tensor([request.ids], device=loaded.device)
    variant = make_variant(context, loaded, request.assignment, request.setup)
    whole = _whole(context, loaded, variant, ids)
    made = variant.loaded
    slots = _rounded(made, for_copy(request.assignment, loaded, made))
    with patched(variant.weights):
        matrices = [slot.matrix() for slot in slots]
    return Attribution(
        units=tuple(slot.unit.name for slot in slots),
        kl=_alone(context, made, ids, slots, matrices) if slots else (),
        whole=whole,
        tokens=len(request.ids),
        seconds=time.monotonic() - begun,
        notes=variant.notes,
    )


def _rounded(loaded: LoadedModel, assignment: dict[str, str]) -> list[Slot]:
    """The units that a recipe rounds, in the model's order."""
    slots = loaded.graph.slots
    return [slot for name, slot in slots.items() if assignment.get(name, ORIGINAL) != ORIGINAL]


def _whole(context: Context, loaded: LoadedModel, variant: Variant, ids: Tensor) -> float:
    with interruptible(context, loaded):
        before = _last(loaded.model, ids)
    with interruptible(context, variant.loaded), variant.active() as model:
        after = _last(model, ids)
    return float(Baseline(before).counted(after)[0])


def _alone(
    context: Context, loaded: LoadedModel, ids: Tensor, slots: list[Slot], matrices: list[Tensor]
) -> tuple[float, ...]:
    with interruptible(context, loaded):
        prefix = Prefix(loaded, slots, ids)
        logits = prefix.begin(ids)
    baseline = Baseline(logits[:, -1])
    found = []
    for done, (slot, matrix) in enumerate(zip(slots, matrices, strict=True)):
        context.progress(done / len(slots), f"layer {done + 1} of {len(slots)}: {slot.unit.name}")
        with interruptible(context, loaded):
            answers = prefix.answers(slot, logits)
            with bypassed(answers), patched(swap(loaded.graph, {slot.unit.name: matrix})):
                found.append(float(baseline.counted(_last(loaded.model, ids))[0]))
    return tuple(found)


def _last(model: Any, ids: Tensor) -> Tensor:
    """What a model predicts behind tokens (1, length): logits (1, vocabulary)."""
    with torch.no_grad():
        logits: Tensor = model(ids, use_cache=False).logits
    return logits[:, -1]
