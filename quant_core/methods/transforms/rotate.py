"""Rotation of the residual stream by a random Hadamard matrix, which spreads outliers over all channels.

RMSNorm without its weight commutes with an orthogonal Q, since |x Q| = |x|. So each norm's weight is folded into the
layers that read it, the embedding becomes E Q, every layer that reads the stream W Q, and every one that writes to it
Q' W (its bias Q' b). The head reads it too; where it was tied to the embedding it becomes a weight of its own, because
the last norm's weight goes into it alone.

Q = diag(signs) (H kron O): H is Sylvester's Hadamard matrix of the hidden size's power-of-two part, O a random
orthogonal matrix of its odd part, the signs are random. All is drawn by a seeded CPU generator and applied in float64
(float32 on devices without it), and rounded once.

Ashkboos et al. 2024, "QuaRot" (arXiv:2404.00456), section 4, stage 1a. We differ in taking no stored Hadamard matrices
for odd parts, and in adding no rotation that would have to be computed while the model runs (their stages 1b to 1d), so
that the model stays one that any runtime can load. A LayerNorm subtracts the mean, which Q does not keep: refused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.methods.transforms.base import Transform, Work, register
from quant_core.models.anatomy import Wiring, residual
from quant_core.schema import MethodInfo, Option

_PART = 4096
"""Rows that are multiplied at once, so that a large embedding is never held in float64 as a whole."""


class Rotate(Transform):
    """A random rotation of the residual stream."""

    def apply(self, work: Work) -> None:
        """Fold the norms and rotate; the head must be untied already."""
        stream = residual(work.loaded.model, work.loaded.graph)
        device = stream.embedding.device
        width = stream.embedding.shape[1]
        dtype = torch.float32 if device.type == "mps" else torch.float64
        rotation = hadamard_rotation(width, int(self.options["seed"])).to(dtype).to(device)
        work.context.progress(0.0, "Rotating the residual stream")
        _times(stream.embedding, rotation)
        for weight, readers in stream.norms:
            work.context.check_cancelled()
            fold = weight.to(dtype)[:, None] * rotation
            for reader in readers:
                _times(reader.values, fold)
            weight.fill_(1.0)
        for writer in stream.writers:
            work.context.check_cancelled()
            _times(writer.values.transpose(-1, -2), rotation)
            if writer.bias is not None:
                _times(writer.bias[None], rotation)


def _times(values: Tensor, factor: Tensor) -> None:
    """Replace ``values`` (..., rows, n) by values @ factor, in place and in parts."""
    for matrix in values if values.dim() == 3 else values[None]:
        for part in matrix.split(_PART):
            part.copy_(part.to(factor.dtype) @ factor)


def hadamard_rotation(size: int, seed: int) -> Tensor:
    """A random orthogonal matrix (size, size), float64, built on the largest Hadamard matrix that divides ``size``.

    All entries have the same size if ``size`` is a power of two.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (size, 1), generator=generator).double() * 2 - 1
    power = size & -size
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    while len(hadamard) < power:
        hadamard = torch.cat([hadamard.repeat(1, 2), torch.cat([hadamard, -hadamard], dim=1)])
    odd = size // power
    q, r = torch.linalg.qr(torch.randn(odd, odd, dtype=torch.float64, generator=generator))
    orthogonal = q * r.diagonal().sign()  # evenly distributed: Mezzadri 2007, arXiv:math-ph/0609050
    return signs * torch.kron(hadamard * power**-0.5, orthogonal.contiguous())


def _refuses(wiring: Wiring) -> str:
    return (
        "" if wiring.rms else f"The LayerNorm of {wiring.title} subtracts the mean, which no rotation keeps."
    )


register(
    MethodInfo(
        name="rotate",
        title="Rotation",
        help="Turns the residual stream by a random Hadamard matrix, so that no channel stands out; a head tied to the "
        "embedding becomes a weight of its own and adds to the size.",
        source="Ashkboos et al. 2024, arXiv:2404.00456",
        options=(Option("seed", "Seed", "Which random rotation.", tuple(str(seed) for seed in range(8))),),
        unties=True,
    ),
    Rotate,
    _refuses,
)
