"""A model as a recipe leaves it: rewritten, rounded, and run beside the untouched original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from quant_core.jobs.context import Context
from quant_core.methods.activations import input_roundings
from quant_core.methods.imported import imported_weights
from quant_core.methods.kv_cache import cache_rounding, check_cache
from quant_core.methods.rewrite import for_copy, rewritten
from quant_core.methods.rounder import Rounder, rounder_for
from quant_core.models.loading import LoadedModel
from quant_core.models.patch import (
    CacheRounding,
    InputRounding,
    Weights,
    patched,
    rounded_cache,
    rounded_inputs,
)
from quant_core.schema import ORIGINAL, CheckpointRef, Setup, VariantSpec, replace


@dataclass(frozen=True)
class Variant:
    """What runs under a recipe; the model changes only inside ``active``."""

    loaded: LoadedModel
    """The model it is made from: the original, or a rewritten copy."""
    weights: Weights
    notes: tuple[str, ...]
    """What the user should know of how it was made, a sentence each."""
    inputs: Mapping[str, InputRounding] = field(default_factory=dict)
    """What is done to the inputs of a unit, by its name."""
    cache: CacheRounding | None = None
    """What is done to keys and values."""

    @contextmanager
    def active(self) -> Iterator[PreTrainedModel]:
        """The model, computing as the recipe says."""
        with ExitStack() as stack:
            stack.enter_context(patched(self.weights))
            stack.enter_context(rounded_inputs(self.loaded.graph, self.inputs))
            if self.cache is not None:
                stack.enter_context(rounded_cache(self.loaded.model, self.cache))
            yield self.loaded.model


def make_variant(
    context: Context, loaded: LoadedModel, assignment: Mapping[str, str], setup: Setup
) -> Variant:
    """Round every named unit to its format, by full name, and do the rest that ``setup`` says."""
    made = rewritten(context, loaded, setup.transforms, assignment, setup.calibration)
    return _round(context, made, for_copy(assignment, loaded, made), setup)


def imported_variant(context: Context, loaded: LoadedModel, ref: CheckpointRef) -> Variant:
    """The model with the values of a quantized checkpoint that was made from it; nothing is rounded."""
    weights, notes = imported_weights(context, loaded, ref)
    return Variant(loaded, weights, notes)


def variants_of(context: Context, loaded: LoadedModel, specs: Sequence[VariantSpec]) -> list[Variant]:
    """The variants that are named, in their order; one that changes nothing is the original."""
    plain = Variant(loaded, {}, ())

    def made(spec: VariantSpec) -> Variant:
        if spec.checkpoint is not None:
            return imported_variant(context, loaded, spec.checkpoint)
        changes = spec.assignment or spec.setup != Setup()
        return make_variant(context, loaded, spec.assignment, spec.setup) if changes else plain

    return [made(spec) for spec in specs]


def _round(context: Context, loaded: LoadedModel, assignment: Mapping[str, str], setup: Setup) -> Variant:
    """The variant of a model that is rewritten already."""
    rounder = rounder_for(context, loaded, setup)
    units = [name for name, form in assignment.items() if form != ORIGINAL]
    around = surround(context, loaded, units, setup, rounder)
    weights = rounder.weights(assignment)
    notes = (f"{where}: {note}." for where, note in rounder.notes.items())
    return replace(around, weights=weights, notes=(*notes, *around.notes))


def surround(
    context: Context, loaded: LoadedModel, units: Sequence[str], setup: Setup, rounder: Rounder
) -> Variant:
    """All that ``setup`` does to a model that is rewritten already, but for rounding its weights.

    Args:
        context: For progress, cancel, and text that the model writes itself.
        loaded: The model.
        units: Those whose inputs are rounded.
        setup: What is done.
        rounder: Gives the text that the rounding of inputs learns from.
    """
    cache = cache_rounding(setup.kv_cache) if setup.kv_cache else None
    inputs, unseen = input_roundings(context, loaded, setup.activations, units, rounder.tokens)
    notes = ["" if cache is None else check_cache(loaded, cache)]
    notes += [f"{where}: {note}." for where, note in unseen.items()]
    return Variant(loaded, {}, tuple(filter(None, notes)), inputs, cache)
