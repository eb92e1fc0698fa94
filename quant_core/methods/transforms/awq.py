"""AWQ: scale up the inputs' channels that carry most activation, because their weights' errors count most.

For every place that feeds layers (a norm, the attention's values, the linear half of a gated MLP), the weights that
read channel j are multiplied by s_j = mean|x_j|^alpha and what writes it is divided by s_j. alpha is searched over 0,
0.05, ... 1 for the least output error E|dW x|^2 = tr(dW H dW') with dW = Q(W diag(s)) / diag(s) - W and H = E[x x'],
summed over all layers that read the channel, each rounded to nearest in the format it will have. alpha = 0 is no
scaling, so that the error is never larger than without. As in the authors' program, s is divided by
sqrt(max s * min s), which keeps the largest and the smallest about 1, and is at least 1e-4 before that.

Lin et al. 2023, "AWQ: Activation-aware Weight Quantization" (arXiv:2306.00978), equations 4 and 5. We differ in that
the error is that of each layer and not of the whole attention or MLP, from moments and not from samples; in that
grouped-query attention is scaled too (one scale for all that read a channel of the values); and in that the search for
a weight clipping is left to the rounding methods. In a table of scores the formats of a unit are many: the search then
takes the table's first. A method in a format's name (``@gptq``) plays no part in the search.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quant_core.calibration.inputs import Inputs
from quant_core.formats import Format, fake_quantize
from quant_core.methods.transforms.base import Transform, Work, mean_size, read_inputs, register
from quant_core.models.anatomy import Link, anatomy
from quant_core.models.layers import Slot
from quant_core.schema import MethodInfo

ALPHAS = tuple(step / 20 for step in range(21))
"""Exponents that are tried; the first is no scaling."""


class Awq(Transform):
    """Scales by mean activation, each exponent by the least output error."""

    def apply(self, work: Work) -> None:
        """Scale every link that feeds a unit to be rounded."""
        for link in work.each(anatomy(work.loaded.model, work.loaded.graph), "Searching AWQ's scales"):
            if not any(slot.unit.name in work.formats for reader in link.readers for slot in reader.slots):
                continue
            read = read_inputs(work, link)
            if read:
                best = search(link, read, work.formats)
                link.move(awq_scales(mean_size(link, read), best))


def awq_scales(size: Tensor, alpha: float) -> Tensor:
    """The scale of each channel, float32, from its mean |x| (channels,): exactly 1 for ``alpha`` 0."""
    scales = size.pow(alpha).clamp(min=1e-4)
    return scales / (scales.max() * scales.min()).sqrt()


def search(link: Link, read: list[tuple[Slot, Inputs]], formats: Mapping[str, Format]) -> float:
    """The exponent of ``ALPHAS`` with the least output error of all units that read a link; the first of equals."""
    size = mean_size(link, read)
    totals = torch.zeros(len(ALPHAS), dtype=torch.float64)
    for slot, inputs in read:
        if slot.unit.name not in formats:
            continue
        matrix, form = slot.matrix().float(), formats[slot.unit.name]
        for index, alpha in enumerate(ALPHAS):
            columns = link.spread(awq_scales(size, alpha))
            totals[index] += inputs.rows * output_error(matrix, columns, form, inputs.moment)
    return ALPHAS[int(totals.argmin())]


def output_error(matrix: Tensor, columns: Tensor, form: Format, moment: Tensor) -> float:
    """tr(dW H dW') of a float32 ``matrix`` (rows, columns) rounded after its columns were multiplied.

    Args:
        matrix: W.
        columns: s, (columns,).
        form: The format it is rounded to, to nearest.
        moment: H = E[x x'] of the inputs before scaling, (columns, columns).
    """
    error = fake_quantize(form, matrix * columns) / columns - matrix
    return float((error @ moment * error).sum())


register(
    MethodInfo(
        name="awq",
        title="AWQ",
        help="Scales up the weights that meet the largest activations, as far as that lowers the layers' output error.",
        source="Lin et al. 2023, arXiv:2306.00978",
        needs=("inputs",),
    ),
    Awq,
    searches=True,
)
