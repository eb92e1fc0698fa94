"""Where a GGUF file keeps a checkpoint's tensors: names, rows in another order, experts stacked, gate and up apart.

Names are those of gguf-py's ``get_tensor_name_map``. llama.cpp's rotary embedding of Llama, Mistral and Mixtral turns
neighbouring rows of a head against each other where transformers turns rows half a head apart, so that queries and keys
are stored in llama.cpp's order; Qwen's and GPT-2's stay as they are. Experts of a block are slices of one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gguf
import torch
from torch import Tensor

from quant_core.errors import ExportError

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gpt2": gguf.MODEL_ARCH.GPT2,
}
"""llama.cpp's architectures by transformers' ``model_type``."""
_EXPERTS = {
    "w1": "ffn_gate_exps",
    "w2": "ffn_down_exps",
    "w3": "ffn_up_exps",
    "down_proj": "ffn_down_exps",
    "gate_up_proj": "ffn_gate_exps ffn_up_exps",
}
_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|\.attn\.bias|\.attn\.masked_bias)$")
"""Constants that old checkpoints hold and llama.cpp works out."""


@dataclass(frozen=True)
class Part:
    """Rows of a stored tensor, and the GGUF tensor or the slice of one that they make."""

    tensor: str
    start: int = 0
    count: int | None = None
    """Which rows; None for all."""
    expert: int | None = None
    heads: int = 0
    """Heads whose rows are put in llama.cpp's order; 0 for rows that stay where they are."""

    def take(self, rows: Tensor) -> Tensor:
        """The rows it is about, out of all those of the stored tensor, in llama.cpp's order."""
        some = rows if self.count is None else rows[self.start : self.start + self.count]
        return interleaved(some, self.heads) if self.heads else some


class Names:
    """The tensors of one model.

    Args:
        config: transformers' configuration of it, of a type in ``ARCHITECTURES``.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._gpt2 = config.model_type == "gpt2"
        self._map = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)

    def parts(self, name: str, rows: int, expert: int | None = None) -> Iterator[Part]:
        """What a stored tensor, or one expert's slice of it, of so many rows becomes; nothing for what is left out.

        Raises:
            ExportError: llama.cpp has no such tensor.
        """
        if _BUFFERS.search(name):
            return
        routed = re.fullmatch(r"model\.layers\.(\d+)\.\w+\.experts(?:\.(\d+))?\.(\w+?)(?:\.weight)?", name)
        if routed and routed[3] in _EXPERTS:
            block, number, role = routed.groups()
            expert = expert if number is None else int(number)
            tensors = _EXPERTS[role].split()
            for place, tensor in enumerate(tensors):
                count = rows // len(tensors)
                yield Part(f"blk.{block}.{tensor}.weight", place * count, count, expert)
            return
        found = self._map.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None or expert is not None:
            raise ExportError(
                f"llama.cpp has no place for the tensor {name}.",
                "Check that the checkpoint is what its config.json says, or choose another runtime.",
            )
        yield Part(found, heads=self._heads(found))

    def _heads(self, tensor: str) -> int:
        if ARCHITECTURES[self._config.model_type] is not gguf.MODEL_ARCH.LLAMA:
            return 0
        if ".attn_q." in tensor:
            return int(self._config.num_attention_heads)
        return int(self._config.num_key_value_heads) if ".attn_k." in tensor else 0

    def transposed(self, name: str) -> bool:
        """Whether a tensor is stored as (inputs, outputs): GPT-2's Conv1D."""
        return self._gpt2 and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))


def interleaved(rows: Tensor, heads: int) -> Tensor:
    """Rows of ``heads`` heads, the second half of each put between the first: 0, d/2, 1, d/2 + 1, ..."""
    return rows[_order(len(rows), heads)]


def apart(rows: Tensor, heads: int) -> Tensor:
    """Undo ``interleaved``."""
    return rows[_order(len(rows), heads).argsort()]


def _order(count: int, heads: int) -> Tensor:
    return torch.arange(count).reshape(heads, 2, -1).transpose(1, 2).flatten()
