"""Cross-layer equalization: give each channel the same range where it is written and where it is read.

Of two layers with no bend between them, row i of the first is divided by s_i and column i of the second multiplied by
it, with s_i = sqrt(r1_i / r2_i), where r1_i and r2_i are the largest |w| of that row and that column; both ranges are
sqrt(r1_i r2_i) then. It needs no text.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv:1906.04721), section
4.1, equation 11: theirs is s_i = sqrt(r1_i r2_i) / r2_i, the same number. It holds for the linear half of a gated MLP
and the layer behind it, for OPT's two layers with ReLU between them, and for the attention's values and its output
projection. What norms feed stays: a norm is not rounded, so there is nothing to share. No layer is both written and
read through the same channels here, so that one pass is exact where the paper iterates. A channel that is zero on one
side keeps scale 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.methods.transforms.base import Transform, Work, register
from quant_core.models.anatomy import anatomy
from quant_core.schema import MethodInfo


class Equalize(Transform):
    """Equal ranges of each pair of layers."""

    def apply(self, work: Work) -> None:
        """Scale every pair of linear layers."""
        links = tuple(link for link in anatomy(work.loaded.model, work.loaded.graph) if link.kind != "norm")
        for link in work.each(links, "Equalizing ranges"):
            written = link.writers[0].abs().flatten(1).amax(dim=1).float()
            read = torch.stack([reader.column_maxima() for reader in link.readers]).amax(dim=0)
            link.move(equal_scales(written, link.largest(read)))


def equal_scales(written: Tensor, read: Tensor) -> Tensor:
    """The scale of each channel from the ranges of its row and its column (channels,), float32; 1 where either is 0."""
    return torch.where((written > 0) & (read > 0), (written / read).sqrt(), 1.0)


register(
    MethodInfo(
        name="equalize",
        title="Cross-layer equalization",
        help="Gives each channel between two linear layers the same range in both; needs no text.",
        source="Nagel et al. 2019, arXiv:1906.04721",
    ),
    Equalize,
)
