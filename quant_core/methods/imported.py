"""A model with the weights of a quantized checkpoint: decoded, and every float tensor beside them taken along.

Norms and biases belong to it too: AWQ's are rescaled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from quant_core.checkpoints.gguf_names import apart
from quant_core.checkpoints.match import Matched, Original, match
from quant_core.checkpoints.opening import content_of, located, open_checkpoint
from quant_core.errors import ExportError
from quant_core.jobs.context import Context
from quant_core.models.layout import places, stored_names
from quant_core.models.loading import LoadedModel
from quant_core.models.patch import Weights, swap
from quant_core.models.sources import check, locate
from quant_core.models.stored import StoredTensors
from quant_core.schema import CheckpointRef


def imported_weights(
    context: Context, loaded: LoadedModel, ref: CheckpointRef
) -> tuple[Weights, tuple[str, ...]]:
    """New storage for all parameters that a checkpoint holds, and what to know of it, a sentence each.

    Args:
        context: For cancel.
        loaded: The model that it was made from.
        ref: Where it is, and what it held when it was read.

    Raises:
        ExportError: It cannot be read, has changed, or was made from another model.
    """
    files = located(ref.path, ())[1]
    signature = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    if _content(signature) != ref.content:
        raise ExportError("The quantized checkpoint has changed since it was read.", "Read it again.")
    found = open_checkpoint(ref.path)
    checkpoint = check(locate(loaded.info.ref), loaded.info.title)
    tensors = StoredTensors(checkpoint.folder, checkpoint.title)
    held = places(loaded.model, loaded.graph, tensors)
    original = Original(loaded.info.title, loaded.model.config, loaded.graph.units, held, tensors)
    matched = match(found, original)
    weights: Weights = {}
    for piece in matched.pieces:
        context.check_cancelled()
        if piece.spare:
            continue
        slot = loaded.graph.slots[piece.unit.name]
        if slot.parameter not in weights:
            weights |= swap(loaded.graph, {piece.unit.name: slot.matrix()})
        kept = weights[slot.parameter]
        place = kept if slot.expert is None else kept[slot.expert]
        matrix = place.T if slot.transposed else place
        matrix[piece.start : piece.start + piece.rows].copy_(piece.values())
    names = stored_names(loaded.model, tensors)
    others = _others(loaded, found.plain, matched, names)
    lacking = {piece.unit.name for piece in matched.pieces}
    missing = sum(unit.name not in lacking for unit in loaded.graph.units)
    notes = (f"{missing:,} weights that the checkpoint does not hold are the original's.",) if missing else ()
    return weights | others, notes


def _others(
    loaded: LoadedModel,
    plain: Mapping[str, Callable[[], Tensor]],
    matched: Matched,
    names: Mapping[str, str],
) -> Weights:
    """The parameters that are no units, as far as the checkpoint holds vectors of their shape."""
    found: Weights = {}
    for name, parameter in loaded.model.named_parameters():
        other = matched.plain.get(names.get(name, ""))
        if other is None:
            continue
        values = plain[other]()
        heads = matched.biases.get(names[name], 0)
        values = apart(values, heads) if heads else values
        if values.shape == parameter.shape and bool(torch.isfinite(values).all()):
            found[parameter] = values.to(parameter)
    return found


@lru_cache(maxsize=4)
def _content(signature: tuple[tuple[str, int, int], ...]) -> str:
    """The content of some files; their sizes and times are there so that changed ones are read again."""
    return content_of([Path(name) for name, _, _ in signature], lambda: None)
