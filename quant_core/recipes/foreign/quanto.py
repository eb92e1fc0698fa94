"""quanto's quantization map.

optimum-quanto 0.2.7, ``quantize.py`` and ``nn/qmodule.py``: a type by module name. 2 and 4 bits have zero points and
groups of 128, or the largest multiple of 32 below that divides the row; 8 bits a scale a channel.
"""

from __future__ import annotations

from quant_core.recipes.foreign._common import as_json
from quant_core.recipes.foreign.base import ROWS_ONLY, LayerDialect, Layers, register
from quant_core.targets import Holds, Target

_TYPES = {
    "int2": "qint2", "int4": "qint4", "int8": "qint8", "fp8_e4m3": "qfloat8_e4m3fn", "fp8_e5m2": "qfloat8_e5m2",
}  # fmt: skip


class Quanto(LayerDialect):
    """As ``quantization_map(model)`` gives it and ``requantize`` takes it."""

    file = "quanto-map.json"
    target = Target(
        name="quanto",
        title="quanto",
        help="Quantizes by itself in PyTorch.",
        source="optimum-quanto 0.2.7, quantize.py and nn/qmodule.py",
        holds=(
            Holds(("int2", "int4"), ("group",), (128,), ("asym",)),
            Holds(("int8",), ("channel",), (), ("sym",)),
            Holds(("fp8_e4m3", "fp8_e5m2"), ("channel",)),
        ),
        stays=ROWS_ONLY | {"conv1d": "it passes over GPT-2's Conv1D without a word"},
    )

    def write(self, layers: Layers) -> str:
        """The types of the quantized layers."""
        return as_json(
            {
                module: {"weights": _TYPES[spec.family], "activations": "none"}
                for module, spec in layers.forms.items()
            }
        )


register(Quanto())
