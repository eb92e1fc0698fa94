"""GPTQ checkpoints, for GPTQModel and vLLM.

The layout is told in ``checkpoints.gptq``; scales are float16. The original format (``gptq``) stores zero points less
1, in which 0 has no place: a reader that adds 1 to packed words carries into the neighbour. ``gptq_v2`` stores them as
they are. So ``gptq`` is written where all formats are symmetric (the zero point is the middle), and ``gptq_v2``
otherwise.

What a layer takes is in ``quantization_config`` of ``config.json``, and alike in ``quantize_config.json``: one setting
for most, and ``dynamic`` for the others and for those that stay (``-:``), regular expressions on names. vLLM looks up
the weights that it fuses by one name (``gptq_utils.py``, ``get_dynamic_override``), which the expressions know too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quant_core.checkpoints.gptq import decode
from quant_core.checkpoints.tensors import Stored, number, part, read_config
from quant_core.export._common import integer_bits, pack_rows, unsigned
from quant_core.export.base import Check, SafetensorsExporter, register
from quant_core.export.source import Rounded, Source
from quant_core.export.staging import write_json
from quant_core.schema import FormatSpec

_FUSED = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj", "gate_proj": "gate_up_proj",
          "up_proj": "gate_up_proj"}  # fmt: skip


class Gptq(SafetensorsExporter):
    """Integers of 2, 3, 4 or 8 bits, with and without zero points."""

    name = "gptq"

    def write(self, source: Source, folder: Path, keep: Check) -> None:
        """As all, and ``quantize_config.json`` beside ``config.json``."""
        super().write(source, folder, keep)
        write_json(folder / "quantize_config.json", _settings(source))

    def pack(self, rounded: Rounded, source: Source) -> Mapping[str, Tensor]:
        """``qweight``, ``qzeros``, ``scales`` and ``g_idx``."""
        entry, bits = rounded.entry, integer_bits(rounded.entry.form.spec)
        codes, scales, zeros = unsigned(rounded)
        size = entry.columns // scales.shape[1]
        return {
            f"{entry.module}.qweight": pack_rows(codes, bits).T,
            f"{entry.module}.qzeros": pack_rows(zeros.T - _less(source), bits),
            f"{entry.module}.scales": scales.T,
            f"{entry.module}.g_idx": torch.arange(entry.columns, dtype=torch.int32) // size,
        }

    def config(self, source: Source) -> dict[str, Any]:
        """The original's, with ``quantization_config``."""
        return {**source.config, "quantization_config": _settings(source)}

    def notes(self, source: Source) -> tuple[str, ...]:
        """That zero points are stored by the second version of the format, where they are."""
        if _less(source):
            return ()
        return (
            "Zero points are stored as they are (gptq_v2), which GPTQModel reads; vLLM takes formats without zero "
            "points alone, and an older one that does not know gptq_v2 has all of them one step off.",
        )

    def read_back(self, folder: Path) -> Iterator[tuple[str, Tensor]]:
        """``scale * (q - zero)`` for every packed layer, by the settings that its name matches."""
        stored = Stored(folder)
        settings = part(read_config(folder), "quantization_config")
        less = {"gptq": 1, "gptq_v2": 0}[part(settings, "checkpoint_format")]
        for name in stored.names:
            module, _, last = name.rpartition(".")
            if last != "qweight":
                continue
            bits = number(_matching(settings, module), "bits", 8)
            index = stored.get(f"{module}.g_idx", torch.int32, -1).long()
            yield f"{module}.weight", decode(stored, module, bits, index, less)


def _less(source: Source) -> int:
    """What stored zero points are less than what they are."""
    return int(all(entry.form.spec.symmetry == "sym" for entry in source.entries))


def _matching(settings: Mapping[str, Any], module: str) -> Mapping[str, Any]:
    """The settings of a layer: those of the first expression that matches, else the common ones."""
    for pattern, changed in part(settings, "dynamic").items():
        if re.match(pattern[2:], module):
            return {**settings, **changed}
    return settings


def _settings(source: Source) -> dict[str, Any]:
    """``quantization_config``."""
    most, _ = Counter(entry.form.spec for entry in source.entries).most_common(1)[0]
    quantized = {entry.module: entry.form.spec for entry in source.entries}
    dynamic: dict[str, dict[str, Any]] = {}
    for name in source.layers:
        spec = quantized.get(name)
        if spec is None:
            dynamic[f"-:{_pattern(name)}"] = {}
        elif spec != most:
            dynamic[f"+:{_pattern(name)}"] = _setting(spec)
    return {
        "quant_method": "gptq",
        "checkpoint_format": "gptq" if _less(source) else "gptq_v2",
        "pack_dtype": "int32",
        **_setting(most),
        "desc_act": False,
        "lm_head": False,
        "dynamic": dynamic,
    }


def _setting(spec: FormatSpec) -> dict[str, Any]:
    size = spec.group_size if spec.granularity == "group" else -1
    return {"bits": integer_bits(spec), "group_size": size, "sym": spec.symmetry == "sym"}


def _pattern(module: str) -> str:
    """An expression that matches a layer, and what vLLM fuses it to: all experts of a block, q/k/v, gate/up."""
    block, experts, _ = module.partition(".experts.")
    if experts:
        return f"^{re.escape(block)}\\.experts(?:\\..*)?$"
    parent, _, last = module.rpartition(".")
    names = f"(?:{last}|{_FUSED[last]})" if last in _FUSED else re.escape(last)
    return f"^{re.escape(parent)}\\.{names}$" if parent else f"^{names}$"


register(Gptq())
