"""Rounding keys and values: the number format of ``quant_core.kv_cache``, a row a token and head.

Keys are rounded as they are cached, behind the rotary positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from quant_core import formats
from quant_core.errors import ModelError
from quant_core.kv_cache import kv_format
from quant_core.models.loading import LoadedModel
from quant_core.models.patch import CacheRounding, rounded_cache


def cache_rounding(text: str) -> CacheRounding:
    """The function that the KV cache named ``text`` applies to keys and values (batch, heads, tokens, head_dim).

    ``FormatError`` if there is no such cache.
    """
    form = formats.find(kv_format(text, formats.infos()).name)

    def rounding(states: Tensor) -> Tensor:
        width = states.shape[-1]
        size = form.spec.group_size or width
        rows = pad(states.float(), (0, -width % size))
        blocks = rows.reshape(-1, size)
        rounded = form.dequantize(form.quantize(blocks)).view(rows.shape)
        return rounded[..., :width].to(states.dtype)

    return rounding


def check_cache(loaded: LoadedModel, rounding: CacheRounding) -> str:
    """Try the rounding on two tokens: what the user should know of it, a sentence; empty if every block does it.

    ``ModelError`` if the model's attention is not one whose keys and values can be seen.
    """
    seen: list[int] = []

    def counted(states: Tensor) -> Tensor:
        seen.append(states.shape[-2])
        return rounding(states)

    model: Any = loaded.model
    with torch.no_grad(), rounded_cache(model, counted):
        model(torch.zeros(1, 2, dtype=torch.long, device=loaded.device), use_cache=False)
    layers = len(seen) // 2
    if not layers:
        raise ModelError(
            f"{loaded.info.title} computes its attention in a way of its own: its keys and values cannot be rounded.",
            "Leave the KV cache as it is.",
        )
    if layers < loaded.info.blocks:
        return f"The KV cache is rounded in {layers} of {loaded.info.blocks} blocks, where there is an attention."
    return ""
