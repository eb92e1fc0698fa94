"""GPTQ's inner loop as one GPU kernel: a batch of columns, rounded one after the other, each error passed on.

Every row is on its own, so that a program holds a few rows of the batch in registers and walks through its columns:

    q_j = clamp(round(w_j / s_j + z_j)),   e_j = (w_j - s_j (q_j - z_j)) / R_jj,   w_k -= e_j R_jk  for k > j

with R the upper Cholesky factor of the inverse Hessian (Frantar et al. 2022, arXiv:2210.17323, algorithm 1). The loop
in ``gptq`` does the same step by step and for every format; this one is for uniform integers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
    from triton.language.extra.cuda import libdevice
except ImportError:  # a build of PyTorch for the CPU comes without it
    triton = None

ROWS = 8
"""Rows a program holds."""


def available(device: torch.device) -> bool:
    """Whether the kernel can run on ``device``."""
    return triton is not None and device.type == "cuda"


def round_columns(
    work: Tensor, factor: Tensor, scales: Tensor, zeros: Tensor | None, low: int, high: int
) -> tuple[Tensor, Tensor]:
    """Codes and scaled errors of a batch of columns; ``work`` is used up.

    Args:
        work: Weights (rows, width) float32, contiguous; the width is a power of two up to 256.
        factor: The batch's square of R, (width, width) float32.
        scales: Scale of each value, (rows, width) float32, positive.
        zeros: Zero point of each value, (rows, width) float32, or None.
        low: Smallest code.
        high: Largest code.

    Returns:
        Codes as int8 (rows, width), and e as float32 (rows, width).
    """
    rows, width = work.shape
    codes = torch.empty(rows, width, dtype=torch.int8, device=work.device)
    errors = torch.empty_like(work)
    grid = (triton.cdiv(rows, ROWS),)
    _kernel[grid](
        work, factor.contiguous(), scales, scales if zeros is None else zeros, codes, errors, rows,
        float(low), float(high), WIDTH=width, ROWS=ROWS, HAS_ZERO=zeros is not None, num_warps=1,
    )  # fmt: skip
    return codes, errors


def _loop(  # type: ignore[no-untyped-def]  # Triton reads annotations as types of its own
    work_ptr, factor_ptr, scale_ptr, zero_ptr, code_ptr, error_ptr, rows, low, high,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, HAS_ZERO: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = row < rows
    place = row[:, None].to(tl.int64) * WIDTH + column[None, :]
    work = tl.load(work_ptr + place, mask=inside[:, None], other=0.0)
    start = row.to(tl.int64) * WIDTH
    for step in range(WIDTH):
        scale = tl.load(scale_ptr + start + step, mask=inside, other=1.0)
        factor = tl.load(factor_ptr + step * WIDTH + column)
        diagonal = tl.load(factor_ptr + step * WIDTH + step)
        value = tl.sum(tl.where(column[None, :] == step, work, 0.0), axis=1)
        code = libdevice.div_rn(value, scale)
        if HAS_ZERO:
            zero = tl.load(zero_ptr + start + step, mask=inside, other=0.0)
            code = tl.clamp(libdevice.rint(code + zero), low, high)
            rounded = (code - zero) * scale
        else:
            code = tl.clamp(libdevice.rint(code), low, high)
            rounded = code * scale
        error = libdevice.div_rn(value - rounded, diagonal)
        tl.store(code_ptr + start + step, code.to(tl.int8), mask=inside)
        tl.store(error_ptr + start + step, error, mask=inside)
        work = tl.where(column[None, :] > step, work - error[:, None] * factor[None, :], work)


_kernel: Any = triton.jit(_loop) if triton is not None else None
