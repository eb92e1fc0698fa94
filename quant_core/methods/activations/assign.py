"""From an activation scheme and a recipe's units to what each unit does to its inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection

from quant_core.calibration.ranges import collect_ranges
from quant_core.calibration.text import Tokens
from quant_core.jobs.context import Context
from quant_core.methods.activations.base import find
from quant_core.models.loading import LoadedModel
from quant_core.models.patch import InputRounding


def input_roundings(
    context: Context, loaded: LoadedModel, text: str, units: Collection[str], tokens: Callable[[], Tokens]
) -> tuple[dict[str, InputRounding], dict[str, str]]:
    """What the scheme ``text`` does to the inputs of each of the quantized ``units``, and what to know of it, by unit.

    Embeddings are not in it, for a lookup has no inputs to round, unless they are also the head's matrix.

    Args:
        context: For progress and cancel.
        loaded: The model.
        text: The scheme's name, options included; empty for none.
        units: Names of the units that are quantized.
        tokens: The calibration text, read only if ranges are learned from it.

    Raises:
        FormatError: There is no such scheme, or inputs are not finite.
    """
    if not text:
        return {}, {}
    scheme = find(text)
    slots = {
        slot.unit.name: slot
        for site in loaded.graph.sites
        for slot in site.slots
        if site.kind != "lookup" and slot.unit.name in units
    }
    seen = (
        collect_ranges(context, loaded, tokens(), list(slots.values())) if scheme.calibrated and slots else {}
    )
    roundings = {name: scheme.rounding(seen.get(name)) for name in slots}
    unseen = [name for name in slots if scheme.calibrated and name not in seen]
    return roundings, dict.fromkeys(
        unseen, "saw no calibration token; its inputs are rounded by token instead"
    )
