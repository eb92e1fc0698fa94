"""MSE-optimal clipping: give up the largest values of a block if that lets all others be more exact.

For every block the range is shrunk step by step, and the grid of least squared error is kept. The full range is one
of the candidates, so that the error is never larger than rounding to nearest: block by block, or for the whole matrix
where a format's blocks share something.
Sung et al. 2015 (arXiv:1511.06488); Banner et al. 2019 (arXiv:1810.05723).
"""

from __future__ import annotations

from torch import Tensor

from quant_core.calibration.inputs import Inputs
from quant_core.formats import Codes, Format, to_blocks
from quant_core.methods.rounding._common import best_grid
from quant_core.methods.rounding.base import Rounded, Rounding, register
from quant_core.schema import FamilyInfo, MethodInfo


class Clip(Rounding):
    """Each block's range by least squared error."""

    def round(self, matrix: Tensor, form: Format, inputs: Inputs | None) -> Rounded:
        """Codes on the best grid that shrinking the range gives each block."""
        blocks = to_blocks(matrix, form)
        grid = best_grid(blocks, form)
        return Rounded(Codes(form.encode(blocks, grid), grid))


def _refuses(family: FamilyInfo) -> str:
    return "" if family.clips else f"The range of {family.title} follows from its own rule and cannot be set."


register(
    MethodInfo(
        name="mse",
        title="MSE clipping",
        help="Shrinks each block's range to where the squared error is least; needs no text.",
        source="Banner et al. 2019, arXiv:1810.05723",
    ),
    Clip,
    _refuses,
)
