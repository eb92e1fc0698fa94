"""AutoRound's ``layer_config``.

auto-round 0.16, ``compressors/layer_config_resolver.py``: settings by module name; 16 bits leave a layer alone.
"""

from __future__ import annotations

from quant_core.recipes.foreign._common import as_json, bits, group
from quant_core.recipes.foreign.base import ROWS_ONLY, LayerDialect, Layers, register
from quant_core.targets import Holds, Target


class AutoRound(LayerDialect):
    """``AutoRound(model, scheme, layer_config=json.load(file))``."""

    file = "autoround-layer-config.json"
    solve_for = "gptq"
    target = Target(
        name="autoround",
        title="AutoRound",
        help="Learns the rounding by itself, for transformers and vLLM.",
        source="auto-round 0.16, compressors/layer_config_resolver.py",
        holds=(Holds(("int2", "int3", "int4", "int8"), ("channel", "group"), (), ("sym", "asym")),),
        stays=ROWS_ONLY,
    )

    def write(self, layers: Layers) -> str:
        """Settings of every linear layer."""
        told = {
            module: {
                "bits": bits(spec), "group_size": group(spec), "sym": spec.symmetry == "sym", "data_type": "int",
            }
            for module, spec in layers.forms.items()
        }  # fmt: skip
        return as_json(told | {module: {"bits": 16} for module in layers.kept})


register(AutoRound())
