"""Rounding in one pass over the weights: grid, codes and values as a single kernel on a GPU.

The arithmetic is the format's own ``fit``, ``encode`` and ``decode``, traced and fused by ``torch.compile``, which is
told to divide and cast as eager PyTorch does. So the eager path is the same code run step by step, and the two agree.
A weight is read once and written once; eager PyTorch reads and writes it a dozen times.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from quant_core.formats import base
from quant_core.formats.base import Format, find

log = logging.getLogger(__name__)

SMALLEST = 2**22
"""Values below which building a kernel, a few seconds a format, takes longer than it saves."""

_broken: set[str] = set()
"""Formats whose kernel could not be built on this machine."""

RoundTrip = Callable[[Tensor], tuple[Tensor, Tensor]]

_OPTIONS: dict[str, str | int | bool | Callable[..., object]] = {
    "eager_numerics.division_rounding": True,
    "emulate_precision_casts": True,
}
"""Inductor divides approximately and keeps more bits than a cast leaves, unless it is told not to."""


def fake_quantize(form: Format, matrix: Tensor, check: bool = True) -> Tensor:
    """The matrix (rows, columns) after rounding to the nearest values of ``form``, in the dtype it came in.

    On a GPU in one pass where the format and the matrix allow it, else step by step. In float32 always step by step: a
    compiler was seen to divide otherwise in the last bit there, which moved a scale in ten thousand.

    Args:
        form: The format.
        matrix: The values.
        check: Whether to wait for the GPU to say that all went well. Otherwise what cannot be rounded may come out as
            values that are not finite.

    Raises:
        FormatError: A value is not finite, or beyond what the format's scale can hold.
    """
    whole = matrix.is_cuda and matrix.dtype.itemsize == 2 and matrix.numel() >= SMALLEST
    if whole and form.name not in _broken and suits(form, matrix):
        try:
            values, scales = round_trip(form, matrix)
        except Exception:  # no C compiler, no Triton, an unknown GPU: the libraries raise many types
            log.info("no fused kernel for %s", form.name, exc_info=True)
            _broken.add(form.name)
            return base.fake_quantize(form, matrix)
        if not check or bool(
            torch.isfinite(scales.float()).all()
        ):  # a value that is not finite leaves no finite scale
            return values
    return base.fake_quantize(form, matrix)


def suits(form: Format, matrix: Tensor) -> bool:
    """Whether ``matrix`` (rows, columns) can go through the fused kernel: blocks along the rows that fill up."""
    if not form.fused or form.spec.keep or form.spec.granularity not in ("group", "channel"):
        return False
    return matrix.is_contiguous() and matrix.shape[1] % form.blocks(*matrix.shape).size == 0


def round_trip(form: Format, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (rows, columns) that ``suits``, rounded in its own dtype, and the scales of its blocks."""
    blocks = matrix.view(-1, form.blocks(*matrix.shape).size)
    torch._dynamo.maybe_mark_dynamic(blocks, 0)
    torch._dynamo.mark_static(
        blocks, 1
    )  # a kernel that does not know the size of a block is three times slower
    values, scales = compiled(form.spec.format, matrix.device)(blocks)
    return values.view(matrix.shape), scales


@lru_cache(maxsize=64)
def compiled(name: str, device: torch.device) -> RoundTrip:
    """The kernel of a format, by full name: blocks (blocks, block size) in any float dtype to values and scales."""
    form = find(name)
    form.prepare(device)

    def run(blocks: Tensor) -> tuple[Tensor, Tensor]:
        wide = blocks.float()
        grid = form.fit(wide)
        return form.nearest(wide, grid).to(blocks.dtype), grid.scales

    run.__code__ = run.__code__.replace(
        co_name=f"round_trip_{name}"
    )  # the compiler counts shapes by code object
    fast: RoundTrip = torch.compile(run, fullgraph=True, options=_OPTIONS)
    return fast
