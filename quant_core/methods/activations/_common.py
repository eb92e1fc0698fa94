"""The two grids of activations, and the dynamic rounding that they allow.

With r the range that is covered, in float32:

    INT8   scale = r / 127.5,   x ~ scale * clamp(round(x / scale), -128, 127), halves to even
    FP8    scale = r / 448,     x ~ scale * e4m3(x / scale), beyond 448 the largest value

as compressed-tensors does (some kernels divide by 127, which makes the steps 0.4 % longer and spares the largest value
half a step).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Fake = Callable[[Tensor, Tensor], Tensor]
"""From float32 values and the range to cover, which broadcasts against them, to the values on the grid."""
FP8_LARGEST = torch.finfo(torch.float8_e4m3fn).max
_TINY = torch.finfo(torch.float32).tiny


def int8(values: Tensor, reach: Tensor) -> Tensor:
    """Float32 ``values`` on the signed 8-bit grid that covers ``reach`` on both sides of zero."""
    scale = (reach / 127.5).clamp(min=_TINY)
    return (values / scale).round_().clamp_(-128, 127).mul_(scale)


def fp8(values: Tensor, reach: Tensor) -> Tensor:
    """Float32 ``values`` on the E4M3 grid whose largest value is ``reach``."""
    scale = (reach / FP8_LARGEST).clamp(min=_TINY)
    return (values / scale).clamp_(-FP8_LARGEST, FP8_LARGEST).to(torch.float8_e4m3fn).float().mul_(scale)


GRIDS: dict[str, Fake] = {"int8": int8, "fp8": fp8}
SOURCES = {
    "int8": ("INT8", "Dettmers et al. 2022, arXiv:2208.07339"),
    "fp8": ("FP8 E4M3", "Micikevicius et al. 2022, arXiv:2209.05433"),
}
"""What the grids are called on screen, and where they come from."""


def by_token(fake: Fake, inputs: Tensor) -> Tensor:
    """Inputs (tokens, columns) with each token's range covered, in the dtype they came in."""
    values = inputs.float()
    return fake(values, values.abs().amax(dim=-1, keepdim=True)).to(inputs.dtype)
