"""Learned rounding: find by gradient descent which weights to round the other way, and how much range to give up.

A weight becomes decode(encode(W + V s)), s the distance between neighbouring values of its grid and V in [-1/2, 1/2]
what is learned: enough to reach the value below or above, and no other. Encoding has no gradient, so it is passed by
(straight through), and only the sign of the gradient counts:

    V <- clamp(V - lr sign(dL/dV), -1/2, 1/2),      lr = 1/steps, falling linearly to 0

(Cheng et al. 2023, "Optimize weight rounding via signed gradient descent", arXiv:2309.05516, section 3). Where the
family clips, the part of the range that each block covers is learned along with it, in [0.2, 1].

The loss is the error of the layer's output, (dW x)^2 summed up. Its slope comes from 32 inputs that are drawn anew in
every step: this noise leads out of corners where the slope over all inputs, whose sign says little, stays. What counts
in the end is L = tr(dW H dW') with H the mean of x x' over the whole calibration text, and no step runs the layer; the
authors' code runs whole transformer blocks. The best iterate is kept, row by row where rows are apart, and the first is
rounding to nearest: by this loss no row ends worse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.calibration.inputs import Inputs
from quant_core.formats import Codes, Format, from_blocks, to_blocks
from quant_core.methods.rounding.base import Rounded, Rounding, register
from quant_core.schema import FamilyInfo, MethodInfo, Option

LEAST = 0.2
"""Part of a block's range that is covered at least."""
BATCH = 32
"""Inputs that a step's slope comes from."""


class Learned(Rounding):
    """Rounding offsets and ranges by signed gradient descent."""

    def round(self, matrix: Tensor, form: Format, inputs: Inputs | None) -> Rounded:
        """Codes of the iterate of least output error."""
        assert inputs is not None, "learned rounding needs the layer's inputs"
        steps = int(self.options["steps"])
        blocks = to_blocks(matrix, form)
        offsets, shrink = torch.zeros_like(blocks), torch.ones_like(blocks[:, :1])
        best = offsets, shrink
        apart = form.independent and form.spec.granularity not in ("tensor", "block")
        least = torch.full_like(matrix[:, 0] if apart else matrix[:1, 0], torch.inf)
        generator = torch.Generator().manual_seed(0)
        grid = form.fit(blocks)
        for step in range(steps + 1):
            if form.info.clips:
                grid = form.fit(blocks, shrink=shrink)
            width = form.step(grid)
            wanted = blocks + offsets * width
            values = form.decode(form.encode(wanted, grid), grid)
            error = from_blocks(values, form, *matrix.shape) - matrix
            if form.spec.keep:
                error = error.masked_fill(matrix == 0, 0.0)
            loss = (error @ inputs.moment).mul_(error).sum(dim=1)
            loss = loss if apart else loss.sum()[None]
            best = _merged(loss < least, (offsets, shrink), best)
            least = torch.minimum(loss, least)
            rate = (1.0 - step / steps) / steps
            drawn = torch.randperm(len(inputs.samples), generator=generator)[:BATCH]
            x = inputs.samples[drawn.to(matrix.device)]
            slope = to_blocks(error @ x.T @ x, form)
            beyond = (wanted - values).abs() > 0.5 * width
            if form.info.clips:
                change = (slope * torch.where(beyond, values, values - blocks)).sum(dim=1, keepdim=True)
                shrink = (shrink - rate * change.sign()).clamp(LEAST, 1.0)
            offsets = (offsets - rate * slope.masked_fill_(beyond, 0.0).sign()).clamp_(-0.5, 0.5)
        offsets, shrink = best
        if form.info.clips:
            grid = form.fit(blocks, shrink=shrink)
        return Rounded(Codes(form.encode(blocks + offsets * form.step(grid), grid), grid))


def _merged(better: Tensor, new: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Offsets and ranges of the rows where the new ones are ``better`` (rows or 1,), and the old ones elsewhere."""
    which = better.repeat_interleave(len(new[0]) // len(better))[:, None]
    return torch.where(which, new[0], old[0]), torch.where(which, new[1], old[1])


def _refuses(family: FamilyInfo) -> str:
    if family.uniform:
        return ""
    return f"Learned rounding moves weights by parts of a step, and the values of {family.title} are not evenly spaced."


register(
    MethodInfo(
        name="learned",
        title="Learned rounding",
        help="Learns which weights to round the other way so that the layer's output stays right; slow but exact.",
        source="Cheng et al. 2023, arXiv:2309.05516",
        needs=("inputs", "samples"),
        options=(
            Option("steps", "Steps", "Steps of gradient descent for each layer.", ("200", "50", "1000")),
        ),
    ),
    Learned,
    _refuses,
)
