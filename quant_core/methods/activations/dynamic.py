"""Dynamic ranges: each token's inputs are scaled by their own largest value, found while the model runs.

It needs no text and never clips, and it is what most 8-bit kernels for language models do; one outlier in a token
makes the grid of all its other values coarse.
Yao et al. 2022, "ZeroQuant" (arXiv:2206.01861), section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from quant_core.calibration.ranges import Magnitudes
from quant_core.methods.activations._common import GRIDS, SOURCES, by_token
from quant_core.methods.activations.base import Scheme, register
from quant_core.models.patch import InputRounding
from quant_core.schema import MethodInfo


class Dynamic(Scheme):
    """Every token by itself, on one of the grids."""

    def __init__(self, options: Mapping[str, str], grid: str) -> None:
        super().__init__(options)
        self._grid = grid

    def rounding(self, seen: Magnitudes | None) -> InputRounding:
        """The same function for every unit."""
        return partial(by_token, GRIDS[self._grid])


for _grid, (_title, _source) in SOURCES.items():
    register(
        MethodInfo(
            name=f"{_grid}/token",
            title=f"{_title} a token",
            help="Each token's inputs are scaled by their own largest value while the model runs; needs no text.",
            source=f"{_source}; Yao et al. 2022, arXiv:2206.01861",
        ),
        partial(Dynamic, grid=_grid),
    )
