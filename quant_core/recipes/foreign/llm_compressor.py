"""llm-compressor recipes, whose output vLLM and SGLang serve.

llm-compressor 0.14, ``modifiers/quantization`` and ``modifiers/gptq``: a modifier with a ``config_groups`` entry for
each format, whose ``weights`` are compressed-tensors' ``QuantizationArgs`` and whose targets are module names. Layers
that the recipe rounds by GPTQ go to a ``GPTQModifier``, all others to a ``QuantizationModifier``.
"""

from __future__ import annotations

from typing import Any

import yaml

from quant_core.recipes.foreign._common import bits
from quant_core.recipes.foreign.base import ROWS_ONLY, LayerDialect, Layers, register
from quant_core.schema import FormatSpec, replace
from quant_core.targets import Holds, Target

_INTEGERS = tuple(f"int{width}" for width in range(2, 9))


class LlmCompressor(LayerDialect):
    """One modifier a way of rounding, one group a format."""

    file = "llm-compressor.yaml"
    solve_for = "compressed-tensors"
    target = Target(
        name="llm-compressor",
        title="llm-compressor",
        help="Quantizes by itself for vLLM and SGLang.",
        source="llm-compressor 0.14, modifiers/quantization/quantization/mixin.py; compressed-tensors 0.20",
        holds=(
            Holds(_INTEGERS, ("channel", "group", "tensor"), (), ("sym", "asym")),
            Holds(("fp8_e4m3",), ("channel", "tensor")),
            Holds(("mxfp4",), multiple=32),
            Holds(("nvfp4",), multiple=16),
        ),
        stays=ROWS_ONLY | {"conv1d": "it knows nn.Linear only"},
        notes=("vLLM and SGLang serve 4 and 8 bits, and one format for q/k/v and for gate/up.",),
    )

    def write(self, layers: Layers) -> str:
        """A recipe with one stage."""
        modifiers: dict[str, Any] = {}
        for name, by_gptq in (("QuantizationModifier", False), ("GPTQModifier", True)):
            groups: dict[FormatSpec, list[str]] = {}
            for module, spec in layers.forms.items():
                if spec.method.startswith("gptq") == by_gptq:
                    groups.setdefault(replace(spec, method=""), []).append(module)
            if groups:
                modifiers[name] = {
                    "ignore": list(layers.kept),
                    "config_groups": {
                        f"group_{number}": {"targets": targets, "weights": arguments(spec)}
                        for number, (spec, targets) in enumerate(groups.items())
                    },
                }
        return yaml.safe_dump({"quant_stage": {"quant_modifiers": modifiers}}, sort_keys=False, width=120)


def arguments(spec: FormatSpec) -> dict[str, Any]:
    """A format as compressed-tensors' ``QuantizationArgs``."""
    if spec.family == "mxfp4":
        return {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "group", "group_size": 32,
                "scale_dtype": "uint8", "zp_dtype": "uint8"}  # fmt: skip
    if spec.family == "nvfp4":
        return {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16,
                "scale_dtype": "float8_e4m3fn", "zp_dtype": "float8_e4m3fn"}  # fmt: skip
    kind = (
        {"num_bits": 8, "type": "float"}
        if spec.family == "fp8_e4m3"
        else {"num_bits": bits(spec), "type": "int"}
    )
    found: dict[str, Any] = {
        **kind,
        "symmetric": spec.symmetry != "asym",
        "strategy": spec.granularity,
    }
    return found | ({"group_size": spec.group_size} if spec.granularity == "group" else {})


register(LlmCompressor())
