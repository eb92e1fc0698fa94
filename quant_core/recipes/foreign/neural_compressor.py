"""Intel Neural Compressor's ``RTNConfig`` with local settings.

neural-compressor-pt 3.10, ``torch/quantization/config.py`` and ``common/base_config.py`` (``from_dict``): settings of
all layers, and those of some by a regular expression of their names. ``dtype`` fp32 leaves a layer alone.
"""

from __future__ import annotations

import re
from typing import Any

from quant_core.recipes.foreign._common import as_json, bits, group
from quant_core.recipes.foreign.base import ROWS_ONLY, LayerDialect, Layers, register
from quant_core.schema import FormatSpec
from quant_core.targets import Holds, Target


class NeuralCompressor(LayerDialect):
    """``RTNConfig.from_dict(json.load(file))``."""

    file = "neural-compressor.json"
    solve_for = "gptq"
    target = Target(
        name="neural-compressor",
        title="Intel Neural Compressor",
        help="Quantizes by itself for CPUs and Intel GPUs.",
        source="neural-compressor-pt 3.10, torch/quantization/config.py",
        holds=(
            Holds(tuple(f"int{width}" for width in range(2, 9)), ("channel", "group"), (), ("sym", "asym")),
        ),
        stays=ROWS_ONLY | {"head": "it leaves the head as it is unless asked otherwise"},
    )

    def write(self, layers: Layers) -> str:
        """The usual settings, and those of the other layers."""
        usual = layers.usual
        local = {
            re.escape(module): _settings(spec)
            for module, spec in layers.forms.items()
            if _settings(spec) != _settings(usual)
        } | {re.escape(module): {"dtype": "fp32"} for module in layers.kept}
        return as_json({"local": local, "global": _settings(usual)} if local else _settings(usual))


def _settings(spec: FormatSpec) -> dict[str, Any]:
    return {"dtype": "int", "bits": bits(spec), "group_size": group(spec), "use_sym": spec.symmetry == "sym"}


register(NeuralCompressor())
