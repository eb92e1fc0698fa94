"""ModelOpt's quantization configuration.

nvidia-modelopt 0.47, ``torch/quantization/config.py``: a list of entries whose ``quantizer_name`` is matched against
the quantizers' names, the last match holding; first all are switched off, then each layer's weight quantizer is set.
Integers are symmetric, ``block_sizes`` along the last axis (-1) are groups, ``axis`` 0 is a scale a channel. ModelOpt
reads YAML, which can name the axis -1.
"""

from __future__ import annotations

from typing import Any

import yaml

from quant_core.recipes.foreign._common import bits
from quant_core.recipes.foreign.base import ROWS_ONLY, LayerDialect, Layers, register
from quant_core.schema import FormatSpec
from quant_core.targets import Holds, Target


class ModelOpt(LayerDialect):
    """``mtq.quantize(model, yaml.safe_load(file), forward_loop)``."""

    file = "modelopt.yaml"
    solve_for = "compressed-tensors"
    target = Target(
        name="modelopt",
        title="ModelOpt",
        help="Quantizes by itself for TensorRT-LLM, vLLM and SGLang.",
        source="nvidia-modelopt 0.47, torch/quantization/config.py",
        holds=(
            Holds(("int4", "int8"), ("channel", "group", "tensor"), (), ("sym",)),
            Holds(("fp8_e4m3",), ("channel", "tensor")),
            Holds(("mxfp4",), multiple=32),
            Holds(("nvfp4",), multiple=16),
        ),
        stays=ROWS_ONLY | {"conv1d": "it knows nn.Linear only"},
    )

    def write(self, layers: Layers) -> str:
        """``quant_cfg`` and the algorithm that finds ranges."""
        entries: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
        for module, spec in layers.forms.items():
            entries.append(
                {"quantizer_name": f"{module}.weight_quantizer", "cfg": _attributes(spec), "enable": True}
            )
        return yaml.safe_dump({"quant_cfg": entries, "algorithm": "max"}, sort_keys=False, width=120)


def _attributes(spec: FormatSpec) -> dict[str, Any]:
    """A format as ``QuantizerAttributeConfig``."""
    if spec.family == "mxfp4":
        return {"num_bits": [2, 1], "block_sizes": {-1: 32, "type": "dynamic", "scale_bits": [8, 0]}}
    if spec.family == "nvfp4":
        return {"num_bits": [2, 1], "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": [4, 3]}}
    width: int | list[int] = [4, 3] if spec.family == "fp8_e4m3" else bits(spec)
    if spec.granularity == "group":
        return {"num_bits": width, "block_sizes": {-1: spec.group_size, "type": "static"}}
    return {"num_bits": width, "axis": 0 if spec.granularity == "channel" else None}


register(ModelOpt())
