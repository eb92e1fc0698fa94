"""Static ranges: one a layer, learned from the calibration text and fixed; what lies beyond is clipped.

Five rules say where to clip, all from the histogram of |x| (``quant_core.calibration.ranges``):

minmax    the largest value seen;
p99.9     the upper end of the bin that the percentile lies in, and likewise p99.99;
mse       the least squared error over 128 ranges up to the largest value, each value taken for its bin's centre
          (Sung et al. 2015, arXiv:1511.06488; Banner et al. 2019, arXiv:1810.05723);
entropy   the least Kullback-Leibler divergence of the rounded distribution from the clipped one: Migacz 2017, "8-bit
          inference with TensorRT". For every i from 128 to the number of bins, P is the first i bins with all that
          lies beyond added to the last, and Q is the first i bins with each level's mass spread evenly over those of
          its bins that are not empty in P; the range ends half a bin behind the best i.

Percentiles and divergence count values, not what they weigh: they suit images, and clip the few large inputs that a
language model depends on. Migacz's 128 levels are for INT8; for FP8 levels are bounded by the midpoints between
neighbouring E4M3 values, and so of different widths. The sums over bins come from cumulative ones, so that all i are
judged at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from quant_core.calibration.ranges import Magnitudes
from quant_core.methods.activations._common import FP8_LARGEST, GRIDS, SOURCES, Fake, by_token
from quant_core.methods.activations.base import Scheme, register
from quant_core.models.patch import InputRounding
from quant_core.schema import MethodInfo, Option

FEWEST = 128
"""Bins that entropy calibration keeps at least."""
CANDIDATES = 128
"""Ranges that least squares tries."""
PERCENTILES = {"p99.99": 9999, "p99.9": 9990}
"""In ten-thousandths."""
RANGES = ("minmax", *PERCENTILES, "mse", "entropy")


class Static(Scheme):
    """One range a unit, on one of the grids."""

    calibrated = True

    def __init__(self, options: Mapping[str, str], grid: str) -> None:
        super().__init__(options)
        self._grid = grid

    def rounding(self, seen: Magnitudes | None) -> InputRounding:
        """Rounding with the range that the unit's inputs ask for; by token where nothing was seen."""
        if seen is None:
            return partial(by_token, GRIDS[self._grid])
        reach = torch.tensor(self.range(seen), device=seen.counts.device)
        return partial(_rounded, GRIDS[self._grid], reach)

    def range(self, seen: Magnitudes) -> float:
        """Where the inputs of a unit are clipped, in their own unit."""
        rule = self.options["range"]
        if rule == "minmax" or not seen.largest:
            return seen.largest
        if rule == "mse":
            return least_squares(seen, GRIDS[self._grid])
        if rule == "entropy":
            return entropy(seen, level_edges(self._grid))
        return percentile(seen, PERCENTILES[rule])


def _rounded(fake: Fake, reach: Tensor, inputs: Tensor) -> Tensor:
    return fake(inputs.float(), reach).to(inputs.dtype)


def percentile(seen: Magnitudes, share: int) -> float:
    """The upper end of the first bin up to which at least ``share`` ten-thousandths of all values lie."""
    total = seen.counts.cumsum(dim=0)
    place = int(torch.searchsorted(total * 10_000, total[-1] * share))
    return min((place + 1) * seen.width, seen.largest)


def least_squares(seen: Magnitudes, fake: Fake) -> float:
    """The range of least squared error among ``CANDIDATES`` evenly spaced up to the largest value."""
    bins = torch.arange(len(seen.counts), device=seen.counts.device)
    values = ((bins + 0.5) * seen.width).clamp(max=seen.largest)
    steps = torch.arange(
        CANDIDATES, 0, -1, device=values.device
    )  # of equal errors, the widest range is taken
    reaches = (seen.largest / CANDIDATES * steps)[:, None]
    errors = (fake(values, reaches) - values).double().square() @ seen.counts.double()
    return float(reaches[errors.argmin()])


def level_edges(grid: str) -> Tensor:
    """Where the levels of a grid begin and the last one ends, as parts of the range: (levels + 1,) float64 in 0..1."""
    if grid == "int8":
        return torch.arange(FEWEST + 1, dtype=torch.float64) / FEWEST
    numbers = torch.arange(0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    middles = (numbers[1:] + numbers[:-1]) / 2
    return torch.cat([torch.zeros(1), middles / FP8_LARGEST, torch.ones(1)])


def entropy(seen: Magnitudes, edges: Tensor) -> float:
    """The range of least divergence between what is clipped and what is rounded, by ``edges`` of the grid's levels."""
    counts = seen.counts.double()
    if len(counts) < FEWEST:
        return seen.largest
    kept = torch.arange(FEWEST, len(counts) + 1, device=counts.device)
    cuts = (edges.to(counts.device) * kept[:, None]).ceil().long()
    mass, occupied, entropies = (
        torch.nn.functional.pad(values.cumsum(dim=0), (1, 0))
        for values in (counts, (counts > 0).double(), torch.xlogy(counts, counts))
    )
    total, inside, last = mass[-1], mass[kept], counts[kept - 1]
    beyond = total - inside
    levels, places = mass[cuts].diff(dim=1), occupied[cuts].diff(dim=1)
    places[:, -1] += (last == 0) & (beyond > 0)
    clipped = levels.clone()
    clipped[:, -1] += beyond
    own = entropies[kept] - torch.xlogy(last, last) + torch.xlogy(last + beyond, last + beyond)
    cross = torch.xlogy(clipped, levels / places.clamp(min=1)).sum(dim=1)
    divergence = (own - cross) / total + (inside / total).log()
    best = int(kept[divergence.argmin()])
    return min((best + 0.5) * seen.width, seen.largest)


for _grid, (_title, _source) in SOURCES.items():
    register(
        MethodInfo(
            name=f"{_grid}/static",
            title=f"{_title}, one range a layer",
            help="Fast in any kernel: the range of a layer's inputs is learned from the calibration text and fixed.",
            source=f"{_source}; Migacz 2017, '8-bit inference with TensorRT'",
            options=(
                Option(
                    "range",
                    "Range",
                    "The largest value, a percentile, the least squared error, or the least divergence (clips most).",
                    RANGES,
                ),
            ),
        ),
        partial(Static, grid=_grid),
    )
