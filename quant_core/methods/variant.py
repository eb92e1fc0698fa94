"""A model as a recipe leaves it: rewritten, rounded, and run beside the untouched original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from transformers import PreTrainedModel

from quant_core.jobs.context import Context
from quant_core.methods.rounder import Rounder
from quant_core.models.loading import LoadedModel
from quant_core.models.patch import Weights, patched
from quant_core.schema import Setup


@dataclass(frozen=True)
class Variant:
    """What runs under a recipe; the model changes only inside ``active``."""

    loaded: LoadedModel
    """The model it is made from: the original, or a rewritten copy."""
    weights: Weights
    notes: tuple[str, ...]
    """What the user should know of how it was made, a sentence each."""

    @contextmanager
    def active(self) -> Iterator[PreTrainedModel]:
        """The model, computing as the recipe says."""
        with patched(self.weights):
            yield self.loaded.model


def make_variant(
    context: Context, loaded: LoadedModel, assignment: Mapping[str, str], setup: Setup
) -> Variant:
    """Round every named unit to its format, by full name, and do the rest that ``setup`` says."""
    rounder = Rounder(context, loaded, setup.calibration)
    weights = rounder.weights(assignment)
    return Variant(loaded, weights, tuple(f"{where}: {note}." for where, note in rounder.notes.items()))
