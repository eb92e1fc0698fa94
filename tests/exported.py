"""Recipes and exports of tiny models, for the tests of the exporters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.export.run import export
from quant_core.formats import find
from quant_core.methods.variant import make_variant
from quant_core.models.loading import LoadedModel, load
from quant_core.schema import (
    ORIGINAL,
    Exported,
    ExportRequest,
    ModelInfo,
    ModelRef,
    Recipe,
    RecipeEntry,
    Setup,
    Unit,
)
from tests.tiny import FakeContext, save

NO_SETUP = Setup()
TOKENS = torch.arange(3, 43).reshape(2, 20)


def recipe_of(info: ModelInfo, choose: Callable[[Unit], str], setup: Setup = NO_SETUP) -> Recipe:
    """A recipe that gives every unit the format that ``choose`` names."""
    units = {}
    for unit in info.units:
        form = find(choose(unit))
        bits = form.storage(unit.rows, unit.columns).total / (unit.rows * unit.columns)
        units[unit.name] = RecipeEntry(form.name, {}, bits)
    return Recipe(
        version=1,
        model=info.ref.source,
        revision="",
        fingerprint=info.fingerprint,
        units=units,
        average_bits=4.0,
        total_bytes=1e6,
        original_bytes=2e6,
        predicted_kl=None,
        predicted_stderr=None,
        calibration="",
        calibration_hash="",
        seed=0,
        budget=None,
        pins={},
        measured=None,
        libraries={},
        setup=setup,
    )


def mixed(info: ModelInfo, forms: Sequence[str], setup: Setup = NO_SETUP) -> Recipe:
    """A recipe that gives the decided units of block ``b`` the ``b``-th of the formats, in turn."""
    return recipe_of(info, lambda unit: forms[unit.block % len(forms)] if unit.decided else ORIGINAL, setup)


def written(loaded: LoadedModel, recipe: Recipe, runtime: str, folder: Path) -> Exported:
    """The recipe exported to ``folder``."""
    info = loaded.info
    request = ExportRequest(info.ref, info.fingerprint, recipe, runtime, str(folder))
    return export(FakeContext(loaded), request)


def opened(kind: str, folder: Path) -> LoadedModel:
    """A tiny model of an architecture, saved beside what is going to be written."""
    return load(ModelRef(str(save(kind, folder / "model"))))


def simulated_weights(loaded: LoadedModel, recipe: Recipe) -> dict[str, NDArray[np.float32]]:
    """The quantized weights by name, (rows, columns), as the recipe is simulated."""
    units = {unit.name: unit for unit in loaded.info.units}
    variant = make_variant(FakeContext(loaded), loaded, recipe.assignment(), recipe.setup)
    with variant.active() as model:
        values = {name: model.get_parameter(name) for name in recipe.assignment()}
        return {
            name: (matrix.T if units[name].kind == "conv1d" else matrix).detach().float().clone().numpy()
            for name, matrix in values.items()
        }


def simulated(loaded: LoadedModel, recipe: Recipe) -> Tensor:
    """Logits of ``TOKENS`` as the recipe is simulated."""
    variant = make_variant(FakeContext(loaded), loaded, recipe.assignment(), recipe.setup)
    with variant.active() as model, torch.no_grad():
        logits: Tensor = model(TOKENS).logits
    return logits
