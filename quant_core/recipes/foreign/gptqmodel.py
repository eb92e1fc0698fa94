"""GPTQModel's ``QuantizeConfig`` with ``dynamic`` overrides.

GPTQModel 7, ``quantization/config.py``: keys of ``dynamic`` are regular expressions of module names behind ``+:`` for
other settings than the usual ones, or ``-:`` for a layer that is left alone; the first that matches holds.
"""

from __future__ import annotations

import re
from typing import Any

from quant_core.recipes.foreign._common import as_json, bits, group
from quant_core.recipes.foreign.base import ROWS_ONLY, LayerDialect, Layers, register
from quant_core.schema import FormatSpec
from quant_core.targets import TARGETS, Target


class GptqModel(LayerDialect):
    """The settings of most layers, and those that differ by name."""

    file = "gptqmodel.json"
    solve_for = "gptq"
    target = Target(
        name="gptqmodel",
        title="GPTQModel",
        help="Quantizes by GPTQ for transformers, vLLM and SGLang.",
        source="GPTQModel 7, quantization/config.py",
        holds=TARGETS["gptq"].holds,
        stays=ROWS_ONLY | {"head": "it leaves the head out unless asked otherwise"},
    )

    def write(self, layers: Layers) -> str:
        """``QuantizeConfig`` as JSON."""
        usual = layers.usual
        dynamic: dict[str, Any] = {f"-:^{re.escape(module)}$": {} for module in layers.kept}
        for module, spec in layers.forms.items():
            if _settings(spec) != _settings(usual):
                dynamic[f"+:^{re.escape(module)}$"] = _settings(spec)
        return as_json({"quant_method": "gptq", **_settings(usual), "desc_act": False, "dynamic": dynamic})


def _settings(spec: FormatSpec) -> dict[str, Any]:
    return {"bits": bits(spec), "group_size": group(spec), "sym": spec.symmetry == "sym"}


register(GptqModel())
