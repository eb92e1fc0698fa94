"""One weight in training: what is learned of it, the matrix that computes, and the codes that come out.

Learned are the step sizes of its blocks and either all of its values or, with LoRA (Hu et al. 2021, arXiv:2106.09685),
a product B A of rank r that is added to the frozen values. QLoRA (Dettmers et al. 2023, arXiv:2305.14314) adds that
product to a weight that was rounded before, and the sum is no longer one of the format's. Here it is added *before*
rounding, in every step, as in LR-QAT (Bondarenko et al. 2024, arXiv:2406.06385): merging it costs nothing, and what was
trained is what is stored.

Learning rates are in parts of the unit's mean step, so that one rate suits all weights and formats: under Adam a value
moves by about the rate a step, whatever its gradient's size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.formats import Codes, Format, Grid, from_blocks, to_blocks
from quant_core.formats.base import sixteen_bits
from quant_core.methods.slot_rounder import Quantized
from quant_core.methods.training.steps import learned_step, learns_steps, stored_grid, straight_through
from quant_core.models.layers import Slot


class TrainedUnit:
    """A unit of the model while it is trained.

    Args:
        slot: Where its values live; they are read, never written.
        start: How it is rounded at first.
        rank: Rank of the LoRA update; 0 trains all values.
        generator: A CPU generator for the first values of the update.
    """

    def __init__(self, slot: Slot, start: Quantized, rank: int, generator: torch.Generator) -> None:
        matrix = slot.matrix()
        self.slot = slot
        self.form: Format = start.form
        self.kept = start.kept
        self._rows, self._columns = matrix.shape
        self._aside = None if start.kept is None else sixteen_bits(matrix[start.kept]).float()
        dense = matrix.float() if start.kept is None else matrix.float().masked_fill(start.kept, 0.0)
        values = to_blocks(dense, self.form)
        self.step = _mean_step(self.form, start.codes.grid, values.shape[1])
        self.learned: dict[str, Tensor] = {}
        """What is trained, by name; leaves that require gradients."""
        self._zeros: Tensor | None = None
        if learns_steps(self.form):
            grid = start.codes.grid
            values = _in_cells(values, start.codes, self.form)
            self.learned["scales"] = grid.scales.float().clone()
            if grid.zero_points is not None:
                self._zeros = grid.zero_points.float().clone()
            if self._zeros is not None and self.form.spec.symmetry == "float":
                self.learned["zeros"] = self._zeros
        if rank:
            rank = min(rank, self._rows, self._columns)
            down = torch.randn(rank, self._columns, generator=generator) / rank**0.5
            self.learned["down"] = down.to(matrix.device)
            self.learned["up"] = torch.zeros(self._rows, rank, device=matrix.device)
            self._values = values
        else:
            self.learned["values"] = values.clone()
        for tensor in self.learned.values():
            tensor.requires_grad_()

    def rate(self, name: str, learning_rate: float, step_rate: float) -> float:
        """The learning rate of a learned tensor, in its own unit."""
        if name == "scales":
            return step_rate * self.step
        return {"values": learning_rate * self.step, "zeros": step_rate}.get(name, learning_rate)

    def matrix(self) -> Tensor:
        """The weight that computes, (rows, columns) float32, with gradients to all that is learned."""
        values = self._latent()
        if "scales" in self.learned:
            blocks = learned_step(values, self.learned["scales"], self._zeros, self.form)
        else:
            blocks = straight_through(values, self.form)
        matrix = from_blocks(blocks, self.form, self._rows, self._columns)
        if self.kept is not None and self._aside is not None:
            matrix = matrix.masked_scatter(self.kept, self._aside)
        return matrix

    @torch.no_grad()
    def codes(self) -> Codes:
        """Codes and grids of the weight as trained so far; dequantized they are ``matrix`` to the bit."""
        values = self._latent()
        if "scales" not in self.learned:
            return self.form.quantize(values)
        grid = stored_grid(self.form, self.learned["scales"], self._zeros)
        return Codes(self.form.encode(values, grid), grid)

    def _latent(self) -> Tensor:
        """The values before rounding, (blocks, block size)."""
        if "values" in self.learned:
            return self.learned["values"]
        update = self.learned["up"] @ self.learned["down"] * self.step
        return self._values + to_blocks(update, self.form)


def _in_cells(values: Tensor, codes: Codes, form: Format) -> Tensor:
    """``values`` where their nearest code is the one in ``codes``; elsewhere the value of that code.

    So the first step computes with exactly the weights that the rounding method chose, GPTQ's for example.
    """
    return torch.where(
        form.encode(values, codes.grid) == codes.values, values, form.decode(codes.values, codes.grid)
    )


def _mean_step(form: Format, grid: Grid, size: int) -> float:
    """Mean distance between neighbouring values of blocks of ``size``, as if they were evenly spaced."""
    low, high = form.bounds(grid, size)
    levels = 2.0 ** (form.info.value_bits / form.info.pack)
    return float((high - low).mean()) / (levels - 1.0) or 1.0
