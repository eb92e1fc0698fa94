"""Importance-weighted grids: let a block's grid be wrong where the layer or the model does not notice.

Codes stay the nearest ones; what changes is the grid, chosen by least sum_ij v_ij (w_ij - q_ij)^2 with

    imatrix    v_ij = mean x_j^2            the diagonal of the layer's Hessian; llama.cpp's importance matrix
    fisher     v_ij = mean g_i^2 x_j^2      the diagonal of the Fisher information, (d log p(label) / d w_ij)^2

x being the layer's inputs at a token and g the gradient at its outputs, for a label drawn from the model. SqueezeLLM
weighs its k-means so, with the text's own next tokens as labels and a whole sequence's gradient squared (Kim et al.
2023, arXiv:2306.07629, equations 3 and 4). The factored form mean g_i^2 * mean x_j^2 would not do: within a row it is
the importance matrix again, and most grids belong to one row.

Families that weigh errors themselves do so; for others the range is shrunk to where the weighted error is least.
"""

from __future__ import annotations

from torch import Tensor

from quant_core.calibration.inputs import Inputs
from quant_core.formats import Codes, Format, to_blocks
from quant_core.methods.rounding._common import importance_blocks, no_say, weighted_grid
from quant_core.methods.rounding.base import Rounded, Rounding, register
from quant_core.schema import MethodInfo


class ByInputs(Rounding):
    """Weights count as much as their inputs are strong."""

    def round(self, matrix: Tensor, form: Format, inputs: Inputs | None) -> Rounded:
        """Nearest codes on weighted grids."""
        assert inputs is not None, "an importance matrix needs the layer's inputs"
        return _rounded(matrix, form, inputs.moment.diagonal()[None])


class ByFisher(Rounding):
    """Weights count as much as the model's predictions depend on them."""

    def round(self, matrix: Tensor, form: Format, inputs: Inputs | None) -> Rounded:
        """Nearest codes on weighted grids."""
        assert inputs is not None, "the Fisher needs the layer's inputs"
        assert inputs.fisher is not None, "the Fisher needs the layer's gradients"
        return _rounded(matrix, form, inputs.fisher)


def _rounded(matrix: Tensor, form: Format, importance: Tensor) -> Rounded:
    blocks = to_blocks(matrix, form)
    grid = weighted_grid(blocks, form, importance_blocks(importance, matrix, form))
    return Rounded(Codes(form.encode(blocks, grid), grid))


register(
    MethodInfo(
        name="imatrix",
        title="Importance matrix",
        help="Fits each block's grid best for the weights whose inputs are strongest.",
        source="Gerganov et al., llama.cpp",
        needs=("inputs",),
    ),
    ByInputs,
    no_say,
)
register(
    MethodInfo(
        name="fisher",
        title="Fisher-weighted",
        help="Fits each grid best for the weights on which the model's predictions depend most.",
        source="Kim et al. 2023, SqueezeLLM, arXiv:2306.07629",
        needs=("inputs", "gradients"),
    ),
    ByFisher,
    no_say,
)
