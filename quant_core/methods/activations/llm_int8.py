"""LLM.int8(): round each token to INT8, and leave the few input columns that hold outliers as they are.

Dettmers et al. 2022, "LLM.int8()" (arXiv:2208.07339), section 3. The rules are those of bitsandbytes:

* inputs are seen in float16, and a value is an outlier from the threshold on;
* a column with an outlier in any token of the call (all sequences of a batch, or the one token of a generation step)
  is multiplied unrounded for all of them, by the same rounded weights;
* a token's scale, max|x| / 127, is found without its outliers. The paper leaves out their whole columns, bitsandbytes
  only the outliers themselves: another token's value in such a column still counts.

So the result for a token depends on what it is computed together with. Unrounded columns stay in the dtype that the
model computes in, also as in bitsandbytes.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from quant_core.calibration.ranges import Magnitudes
from quant_core.methods.activations.base import Scheme, register
from quant_core.models.patch import InputRounding
from quant_core.schema import MethodInfo, Option

_SMALL = 1e-30
"""Below any float16 but zero."""


class LlmInt8(Scheme):
    """INT8 a token, without the columns of outliers."""

    def rounding(self, seen: Magnitudes | None) -> InputRounding:
        """The same function for every unit."""
        return partial(decomposed, float(self.options["threshold"]))


def decomposed(threshold: float, inputs: Tensor) -> Tensor:
    """Inputs (tokens, columns) rounded by token, but for the columns that reach ``threshold``."""
    half = inputs.half()
    outliers = half.abs() >= threshold
    dense = half.masked_fill(outliers, 0.0).float()
    largest = dense.abs().amax(dim=1, keepdim=True).clamp(min=_SMALL)
    codes = (dense * (127.0 / largest)).round_()
    rounded = codes * (largest / 127.0)
    return rounded.to(inputs.dtype).where(~outliers.any(dim=0), inputs)


register(
    MethodInfo(
        name="llm_int8",
        title="LLM.int8()",
        help="INT8 a token; input columns where any token has an outlier are computed in 16 bits.",
        source="Dettmers et al. 2022, arXiv:2208.07339",
        options=(
            Option(
                "threshold",
                "Outliers from",
                "Size from which an input is an outlier.",
                ("6.0", "3.0", "4.0", "5.0", "8.0", "12.0"),
            ),
        ),
    ),
    LlmInt8,
)
