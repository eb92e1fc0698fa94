"""SmoothQuant: move the outliers of activations into the weights, so that both can be rounded.

Behind every norm channel j is divided by s_j = max|x_j|^alpha / max|w_j|^(1 - alpha), and the weights that read it are
multiplied by s_j; alpha says how much of the difficulty goes to the weights. max|w_j| is over all layers that read the
channel. It is made for rounding activations too; with rounded weights alone it can do harm.

Xiao et al. 2022, "SmoothQuant" (arXiv:2211.10438), equation 4. A channel without activation or without weight keeps
scale 1. The paper smooths the layers behind norms; the option ``where`` extends the same rule to what the attention's
values and the linear half of a gated MLP feed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.methods.transforms.base import Transform, Work, read_inputs, register
from quant_core.models.anatomy import anatomy
from quant_core.schema import MethodInfo, Option


class SmoothQuant(Transform):
    """Scales by the ratio of the largest activation to the largest weight."""

    def apply(self, work: Work) -> None:
        """Scale what the norms feed, or every link."""
        links = anatomy(work.loaded.model, work.loaded.graph)
        if self.options["where"] == "norms":
            links = tuple(link for link in links if link.kind == "norm")
        for link in work.each(links, "Smoothing"):
            read = read_inputs(work, link)
            if read:
                largest = torch.stack([inputs.largest for _, inputs in read]).amax(dim=0)
                weight = torch.stack([reader.column_maxima() for reader in link.readers]).amax(dim=0)
                alpha = float(self.options["alpha"])
                link.move(smooth_scales(link.largest(largest), link.largest(weight), alpha))


def smooth_scales(activation: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """The scale of each channel from the largest |x| and the largest |w| (channels,), float32; 1 where either is 0."""
    scales = activation.pow(alpha) / weight.pow(1 - alpha)
    return torch.where((activation > 0) & (weight > 0), scales, 1.0)


register(
    MethodInfo(
        name="smoothquant",
        title="SmoothQuant",
        help="Moves outliers of the activations into the weights; meant for rounding activations as well.",
        source="Xiao et al. 2022, arXiv:2211.10438",
        needs=("inputs",),
        options=(
            Option(
                "alpha",
                "Migration strength",
                "How much of the activations' range the weights take over: 0 none, 1 all.",
                ("0.5", "0.1", "0.2", "0.3", "0.4", "0.6", "0.7", "0.8", "0.85", "0.9"),
            ),
            Option(
                "where",
                "Layers",
                "Only those behind norms, as in the paper, or also the attention's output and the MLP's last layer.",
                ("norms", "all"),
            ),
        ),
    ),
    SmoothQuant,
)
