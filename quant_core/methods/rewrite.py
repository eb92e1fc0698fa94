"""A rewritten copy of a model: transforms applied in order, the original left as it is.

Units keep their names, so that a recipe means the same for the copy. The one exception: a transform that folds the last
norm into a head tied to the embedding makes the head a unit of its own; what a recipe says of the shared weight then
goes for both. ``quant_core.costs.untied`` tells pages the same without a copy.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from quant_core import costs
from quant_core.calibration.text import Tokens, tokenize
from quant_core.errors import ModelError
from quant_core.formats import Format, find
from quant_core.jobs.context import Context
from quant_core.methods import transforms
from quant_core.methods.rounder import Rounder
from quant_core.models.anatomy import ARCHITECTURES
from quant_core.models.graph import build_graph
from quant_core.models.loading import LoadedModel
from quant_core.models.memory import free_memory
from quant_core.schema import ORIGINAL, Calibration, dump, replace

_HEADROOM = 1.2
"""Memory wanted, as a multiple of the copy: it is run, and a few tensors at a time are held twice."""

_last: WeakKeyDictionary[nn.Module, tuple[str, LoadedModel]] = WeakKeyDictionary()
"""The copy made last of each model that is in memory, with what it was made by."""


def rewritten(
    context: Context,
    loaded: LoadedModel,
    names: Sequence[str],
    assignment: Mapping[str, str],
    calibration: Calibration | Tokens,
) -> LoadedModel:
    """The model after the transforms ``names``; the model itself if there are none.

    The last copy made of a model is kept as long as the model is, and given again for the same request.

    Args:
        context: For progress, cancel, and text that the model writes itself.
        loaded: The original, which stays as it is whatever happens.
        names: Transforms with options, in the order they are applied (``rotate``, ``smoothquant:alpha=0.7``).
        assignment: Unit to full format name, for transforms that search; units not named keep their weights.
        calibration: The text that transforms learn from, or its tokens.

    Raises:
        QuantError: There is no such transform or option.
        ModelError: A transform does not know the architecture or cannot rewrite it, or the copy does not fit.
    """
    if not names:
        return loaded
    chosen = [transforms.find(name) for name in names]
    for entry, _ in chosen:
        _check_architecture(entry, loaded)
    formats = _formats(assignment) if any(entry.searches for entry, _ in chosen) else {}
    learns = any(entry.info.needs for entry, _ in chosen)
    key = _key(names, formats, calibration if learns else None)
    held = _last.get(loaded.model)
    if held is not None and held[0] == key:
        return held[1]
    _last.pop(loaded.model, None)
    _check_memory(loaded)
    if learns and isinstance(calibration, Calibration):
        text, tokens, length = calibration.text, calibration.tokens, calibration.sequence
        calibration = tokenize(context, loaded, text, tokens, length)
    copied = _copy(loaded, unties=any(entry.info.unties for entry, _ in chosen))
    for _, transform in chosen:
        transform.apply(transforms.Work(context, copied, Rounder(context, copied, calibration), formats))
    _last[loaded.model] = key, copied
    return copied


def for_copy(assignment: Mapping[str, str], loaded: LoadedModel, copied: LoadedModel) -> dict[str, str]:
    """``assignment`` for a rewritten copy: a head that is no longer tied gets what the shared weight gets.

    Unless it is named itself.
    """
    result = dict(assignment)
    for unit in loaded.graph.units:
        for tied in unit.tied:
            if unit.name in assignment and tied in copied.graph.slots:
                result.setdefault(tied, assignment[unit.name])
    return result


def _check_architecture(entry: transforms.Entry, loaded: LoadedModel) -> None:
    name = type(loaded.model).__name__
    if name not in ARCHITECTURES:
        known = ", ".join(wiring.title for wiring in ARCHITECTURES.values() if not entry.refuses(wiring))
        raise ModelError(
            f"{entry.info.title} does not know how the layers of {name} feed each other.",
            f"Leave it out; it works with {known}.",
        )
    reason = entry.refuses(ARCHITECTURES[name])
    if reason:
        raise ModelError(f"{entry.info.title} cannot rewrite {loaded.info.title}.", f"{reason} Leave it out.")


def _formats(assignment: Mapping[str, str]) -> dict[str, Format]:
    """The format of each unit without its method; units that stay as they are are left out."""
    found = {unit: find(name.partition("@")[0]) for unit, name in assignment.items()}
    return {unit: form for unit, form in found.items() if form.spec.family != ORIGINAL}


def _key(
    names: Sequence[str], formats: Mapping[str, Format], calibration: Calibration | Tokens | None
) -> str:
    if isinstance(calibration, Tokens):
        text: object = [list(calibration.ids.shape), calibration.ids.flatten().tolist()]
    else:
        text = None if calibration is None else dump(calibration)
    named = {unit: form.name for unit, form in formats.items()}
    content = json.dumps([list(names), named, text], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _check_memory(loaded: LoadedModel) -> None:
    size = sum(parameter.numel() * parameter.element_size() for parameter in loaded.model.parameters())
    needed, free = size * _HEADROOM, free_memory(loaded.device)
    if needed > free:
        raise ModelError(
            f"A rewritten copy of {loaded.info.title} needs about {needed / 1e9:.1f} GB on the "
            f"{loaded.device.type.upper()}, and {free / 1e9:.1f} GB are free.",
            "Leave the rewrites out, choose a 16-bit dtype or a smaller model, or free some memory.",
        )


def _copy(loaded: LoadedModel, *, unties: bool) -> LoadedModel:
    """A copy that shares no storage with the original; with ``unties``, its head is a weight of its own."""
    model = copy.deepcopy(loaded.model)
    untied = costs.untied(loaded.info) if unties else loaded.info
    if untied is not loaded.info:
        head: Any = model.get_output_embeddings()
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False
    graph = build_graph(model, loaded.graph.units[0].bits)
    return LoadedModel(model, loaded.tokenizer, graph, replace(untied, units=graph.units))
