"""GPTQ: round a matrix column by column, and let the columns still to come make up for each error.

The error of a layer's output over the calibration text is tr(dW H dW'), H the mean of x x' over its inputs. Once a
column's weights w are rounded to q, the remaining columns are least wrong if they move by the second of

    e = (w - q) / U_jj,      W_k -= e U_jk   for k > j,      inverse(H) = U' U,  U upper triangular

(Frantar et al. 2022, arXiv:2210.17323, algorithm 1; Hassibi and Stork 1993, "Optimal brain surgeon"). Updates beyond a
batch of 128 columns are put off to its end. U comes from H = R R' with R upper triangular, a Cholesky factorization
from the last column backwards: then U = inverse(R), and H need not be inverted on the way.

Where we differ from the paper's code:

* Columns are visited by falling H_jj (its ``actorder``), but their grids are fitted beforehand on the original weights
  in the order of storage, so that nothing but the codes changes. The same is done whenever a grid reaches beyond a
  group of a row. In storage order, a group's grid is fitted when the loop comes to it, on the weights as moved so far.
* Grids are fitted to the loop's own loss, sum e^2 = sum (w - q)^2 / U_jj^2, where a family weighs errors or clips.
* A column that no input ever reached (H_jj = 0) is rounded to nearest instead of set to zero.
* The damping that is added to the diagonal, a part of its mean, is raised tenfold until the factorization succeeds.
* Weights kept in 16 bits are in their place from the start: no error, and nothing moved onto them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.calibration.inputs import Inputs
from quant_core.errors import FormatError
from quant_core.formats import Codes, Format, Grid, place, to_blocks
from quant_core.formats.integer import IntegerFormat
from quant_core.methods.rounding import _columns
from quant_core.methods.rounding._common import best_grid, importance_blocks, weighted_grid
from quant_core.methods.rounding.base import Rounded, Rounding, register
from quant_core.schema import MethodInfo, Option

BATCH = 128
"""Columns after which the columns still to come are updated."""


class Gptq(Rounding):
    """Column by column with feedback of the error."""

    def round(self, matrix: Tensor, form: Format, inputs: Inputs | None) -> Rounded:
        """Codes of the least output error that the loop finds.

        Raises:
            FormatError: The inputs' moment has no factorization whatever the damping, as with infinite inputs.
        """
        assert inputs is not None, "GPTQ needs the layer's inputs"
        asked = float(self.options["damping"])
        hessian = alive(inputs.moment.float())
        order = torch.arange(len(hessian), device=hessian.device)
        if self.options["order"] == "activation":
            order = inputs.moment.diagonal().argsort(descending=True, stable=True)
        factor, damping = inverse_factor(hessian[order][:, order], asked)
        loop = _Loop(matrix, form, factor, order, self.options["grid"])
        rounded = loop.run(refit=self.options["order"] == "none" and _along_rows(form))
        codes = Codes(form.encode(to_blocks(rounded, form), loop.grid), loop.grid)
        return Rounded(codes, "" if damping == asked else f"damping was raised to {damping:g}")


class _Loop:
    """The loop over one matrix; works on its transpose, so that a column lies in one piece."""

    def __init__(self, matrix: Tensor, form: Format, factor: Tensor, order: Tensor, choice: str) -> None:
        self.matrix, self.form, self.factor, self.choice = matrix, form, factor, choice
        self.order = order
        self.size = form.blocks(*matrix.shape).size
        self.importance = self._importance() if choice == "loss" else None
        self.grid = self._fit(to_blocks(matrix, form), self.importance)
        self._parts: dict[int, Grid] = {}

    def run(self, refit: bool) -> Tensor:
        """The rounded matrix (rows, columns); ``refit`` fits each block's grid anew when the loop comes to it."""
        if self._suits_kernel(refit):
            return self._run_kernel(refit)
        rows, columns = self.matrix.shape
        weights = self.matrix.T[self.order]
        kept = weights == 0 if self.form.spec.keep else None
        rounded = torch.empty_like(weights)
        where = [place(self.form, rows, columns, column) for column in self.order.tolist()]
        batch = self.size if refit and BATCH % self.size and self.size % BATCH else BATCH
        for first in range(0, columns, batch):
            last = min(first + batch, columns)
            square = self.factor[first:last, first:last]
            feedback = square.T.contiguous()
            scale = 1.0 / square.diagonal()
            errors = weights.new_zeros(last - first, rows)
            for index in range(last - first):
                column = first + index
                blocks, position = where[column]
                if refit and position == 0:
                    ahead = weights[column : column + self.size]
                    now = ahead - self.factor[first:column, column : column + self.size].T @ errors[:index]
                    self._refit(now, column // self.size)
                grid = self._part(blocks)
                value = torch.addmv(weights[column], errors[:index].T, feedback[index, :index], alpha=-1)
                codes = self.form.encode(value[:, None], grid, position)
                nearest = self.form.decode(codes, grid, position)[:, 0]
                if kept is not None:
                    nearest = nearest.masked_fill(kept[column], 0.0)
                rounded[column] = nearest
                errors[index] = (value - nearest) * scale[index]
            weights[last:].addmm_(self.factor[first:last, last:].T, errors, alpha=-1)
        result = torch.empty_like(self.matrix)
        result.T[self.order] = rounded
        return result

    def _suits_kernel(self, refit: bool) -> bool:
        """Whether ``_columns`` can run a batch: integers, a GPU, and batches of a width that it takes."""
        along = self.form.spec.granularity in ("group", "channel")
        if not isinstance(self.form, IntegerFormat) or not along or self.form.spec.keep:
            return False
        columns, width = len(self.order), self._width(refit)
        return _columns.available(self.matrix.device) and width in (32, 64, 128, 256) and columns % width == 0

    def _width(self, refit: bool) -> int:
        return min(self.size, BATCH) if refit else BATCH

    def _run_kernel(self, refit: bool) -> Tensor:
        """As ``run``, a batch of columns at a time; what is refitted is whole groups."""
        assert isinstance(self.form, IntegerFormat)
        rows, columns = self.matrix.shape
        weights = self.matrix[:, self.order]
        rounded = torch.empty_like(weights)
        group = self.order // self.size
        per_row = len(self.grid.scales) // rows
        width = self._width(refit)
        for first in range(0, columns, width):
            last = first + width
            if refit and first % self.size == 0:
                self._refit(weights[:, first : first + self.size].T, first // self.size)
            scales = self.grid.scales.float().view(rows, per_row)[:, group[first:last]]
            zeros = self.grid.zero_points
            zero = None if zeros is None else zeros.float().view(rows, per_row)[:, group[first:last]]
            square = self.factor[first:last, first:last].contiguous()
            codes, errors = _columns.round_columns(
                weights[:, first:last].contiguous(), square, scales, zero, self.form.low, self.form.high
            )
            rounded[:, first:last] = (codes.float() if zero is None else codes.float() - zero) * scales
            weights[:, last:].addmm_(errors, self.factor[first:last, last:], alpha=-1)
        result = torch.empty_like(self.matrix)
        result[:, self.order] = rounded
        return result

    def _part(self, blocks: Tensor) -> Grid:
        """The grids of a column's ``blocks`` (rows,); columns that share the first row's block share all of them."""
        key = int(blocks[0])
        if key not in self._parts:
            self._parts[key] = self.grid.take(blocks.to(self.matrix.device))
        return self._parts[key]

    def _refit(self, ahead: Tensor, number: int) -> None:
        """Fit the grids of every row's block ``number`` on the weights (up to block size, rows) it is to hold."""
        values = torch.nn.functional.pad(ahead.T, (0, self.size - len(ahead))).contiguous()
        every = slice(number, None, len(self.grid.scales) // len(values))
        fitted = self._fit(values, None if self.importance is None else self.importance[every])
        self._parts = {number: fitted}
        for stored, fresh in zip(_tensors(self.grid), _tensors(fitted), strict=True):
            if len(stored) == len(self.grid.scales):
                stored[every] = fresh

    def _fit(self, blocks: Tensor, importance: Tensor | None) -> Grid:
        if importance is not None:
            return weighted_grid(blocks, self.form, importance)
        if self.choice == "mse" and self.form.info.clips:
            return best_grid(blocks, self.form)
        return self.form.fit(blocks)

    def _importance(self) -> Tensor:
        """How much the loop's loss weighs each value's squared error, in blocks."""
        weight = torch.empty_like(self.factor[0])
        weight[self.order] = self.factor.diagonal().square().reciprocal()
        return importance_blocks(weight, self.matrix, self.form)


def _tensors(grid: Grid) -> list[Tensor]:
    zero = [] if grid.zero_points is None else [grid.zero_points]
    return [grid.scales, *zero, *(grid.extras[name] for name in sorted(grid.extras))]


def _along_rows(form: Format) -> bool:
    """Whether blocks are parts of a row with grids of their own."""
    return form.independent and (form.spec.granularity == "group" or form.info.block > 0)


def alive(moment: Tensor) -> Tensor:
    """A moment (n, n) scaled to a mean of 1 on the diagonal, with 1 where it is 0."""
    scale = moment.diagonal().mean()
    scaled = moment / torch.where(scale > 0, scale, 1.0)
    diagonal = scaled.diagonal()
    diagonal.masked_fill_(diagonal == 0, 1.0)
    return scaled


def inverse_factor(hessian: Tensor, damping: float) -> tuple[Tensor, float]:
    """Upper triangular U with U' U = inverse(H + damping mean(diag H) 1), and the damping that it took.

    In float32, or through float64 where that fails.

    Args:
        hessian: Symmetric, (n, n) float32.
        damping: Raised tenfold, up to eight times, until there is a factorization.
    """
    mean = hessian.diagonal().mean()
    wide = [torch.float32] if hessian.device.type == "mps" else [torch.float32, torch.float64]
    for power in range(9):
        used = damping * 10**power
        for dtype in wide:
            damped = hessian.to(dtype, copy=True)
            damped.diagonal().add_(mean * used)
            backwards, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
            if bool(failed):
                continue
            ones = torch.eye(len(damped), dtype=dtype, device=damped.device)
            factor = torch.linalg.solve_triangular(backwards.flip(0, 1), ones, upper=True).float()
            if bool(torch.isfinite(factor).all()):
                return factor, used
    raise FormatError(
        "GPTQ cannot use the layer's inputs: their second moment is not finite or no moment at all.",
        "Load the model in float32 or bfloat16, or use another calibration text.",
    )


register(
    MethodInfo(
        name="gptq",
        title="GPTQ",
        help="Rounds column by column and moves the weights still to come so that the layer's output stays right.",
        source="Frantar et al. 2022, arXiv:2210.17323",
        needs=("inputs",),
        options=(
            Option(
                "order",
                "Order",
                "Which inputs are rounded first: the strongest, or as they are stored.",
                ("activation", "none"),
            ),
            Option(
                "grid",
                "Grid",
                "What each block's grid is chosen by: what errors cost, their squares, or the weights' range.",
                ("loss", "mse", "range"),
            ),
            Option(
                "damping",
                "Damping",
                "Part of the mean square input that is added to each, against following noise.",
                ("0.01", "0.1", "0.001"),
            ),
        ),
    ),
    Gptq,
)
