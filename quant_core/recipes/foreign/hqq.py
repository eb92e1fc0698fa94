"""HQQ's settings, which go by role and not by block.

hqq 0.2.8, ``models/base.py`` (``name_to_linear_tag``): a layer is named without its block (``self_attn.q_proj``), so
that all blocks share its settings. ``core/quantize.py``: 1 to 8 bits in groups along a row (axis 1), float zero
points.
"""

from __future__ import annotations

from collections import defaultdict

from quant_core.recipes.foreign._common import as_json, bits
from quant_core.recipes.foreign.base import ROWS_ONLY, LayerDialect, Layers, register
from quant_core.schema import ModelInfo, Problem, Recipe
from quant_core.targets import Holds, Target


class Hqq(LayerDialect):
    """``AutoHQQHFModel.quantize_model(model, quant_config=json.load(file))``."""

    file = "hqq.json"
    target = Target(
        name="hqq",
        title="HQQ",
        help="Quantizes by itself in PyTorch, without calibration.",
        source="hqq 0.2.8, models/base.py and core/quantize.py",
        holds=(Holds(("int2", "int3", "int4", "int5", "int6", "int8"), ("group",), (), ("float",)),),
        stays=ROWS_ONLY | {"conv1d": "it knows nn.Linear only", "head": "it leaves the head as it is"},
    )

    def problems(self, info: ModelInfo, recipe: Recipe) -> tuple[Problem, ...]:
        """Beside the others: blocks that differ."""
        found = defaultdict(list)
        for name in (unit.name for unit in info.units if unit.kind == "linear" and unit.name in recipe.units):
            found[tag(name.removesuffix(".weight"))].append(name)
        split = [
            name
            for names in found.values()
            if len({recipe.units[name].format for name in names}) > 1
            for name in names
        ]
        reason = "HQQ's settings go by role, and the recipe gives blocks different formats."
        return (*super().problems(info, recipe), *([Problem(reason, tuple(split))] if split else []))

    def write(self, layers: Layers) -> str:
        """``BaseQuantizeConfig`` by role."""
        return as_json(
            {
                tag(module): {
                    "weight_quant_params": {
                        "nbits": bits(spec), "channel_wise": True, "group_size": spec.group_size, "optimize": True,
                        "round_zero": False, "axis": 1, "view_as_float": False,
                    },
                    "scale_quant_params": None,
                    "zero_quant_params": None,
                    "offload_meta": False,
                }
                for module, spec in layers.forms.items()
            }
        )  # fmt: skip


def tag(module: str) -> str:
    """``model.layers.3.self_attn.q_proj`` -> ``self_attn.q_proj``."""
    return ".".join(
        part for part in module.split(".") if part not in ("model", "layers") and not part.isnumeric()
    )


register(Hqq())
