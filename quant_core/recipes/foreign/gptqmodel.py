"""GPTQModel's ``QuantizeConfig`` with ``dynamic`` overrides.

GPTQModel 7, ``quantization/config.py``: keys of ``dynamic`` are regular expressions of module names behind ``+:`` for
other settings than the usual ones, or ``-:`` for a layer that is left alone; the first that matches holds.

Reading (``_resolve_dynamic_override``): an expression matches from the beginning of a name, one without special
characters the whole name; without a prefix it is ``+:``. All linear layers of the blocks are quantized, the head with
``lm_head`` alone. Its own rounding is GPTQ, with columns in the order of their activations unless ``act_group_aware``
and ``desc_act`` are both false.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from quant_core.errors import RecipeError
from quant_core.recipes.foreign._common import as_json, bits, group, known_format, listed, modules
from quant_core.recipes.foreign.base import ROWS_ONLY, Content, LayerDialect, Layers, Reading, register
from quant_core.recipes.patterns import Matcher, plain
from quant_core.schema import Catalog, FormatSpec, ModelInfo
from quant_core.targets import TARGETS, Target

_FORMAT = {"bits", "group_size", "sym"}
_ROUNDING = {"desc_act", "act_group_aware", "damp_percent"}
_NO_MATTER = {
    "checkpoint_format", "format", "hyb_act", "is_marlin_format", "lm_head", "meta", "method", "model_file_base_name",
    "model_name_or_path", "offload_to_disk", "offload_to_disk_path", "pack_dtype", "pack_impl", "quant_method",
    "static_groups", "true_sequential",
}  # fmt: skip
"""Settings that say how the tool works and writes, and not what it rounds to."""


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

    def reads(self, content: Content) -> bool:
        """Whether it says bits, and GPTQ or nothing of a method."""
        if not isinstance(content, Mapping) or "bits" not in content:
            return False
        return content.get("quant_method", content.get("method", "gptq")) == "gptq"

    def read(self, content: Content, info: ModelInfo, catalog: Catalog) -> Reading:
        """The usual settings for the layers of the blocks, and what ``dynamic`` says of them."""
        assert isinstance(content, Mapping)
        rules = _rules(content.get("dynamic") or {})
        layers = modules(info)
        matcher = Matcher(layers)
        first: dict[str, int] = {}
        missing, kinds = [], Counter[str]()
        for place, (pattern, _) in enumerate(rules):
            found = _names(matcher, pattern[2:])
            for module in found:
                first.setdefault(module, place)
            if not found:
                missing.append(pattern)
        forms, foreign = {}, Counter[str]()
        for module, unit in layers.items():
            if unit is None or not (unit.decided or (unit.kind == "head" and content.get("lm_head"))):
                continue
            pattern, changed = rules[first[module]] if module in first else ("+:", {})
            if pattern.startswith("-:"):
                continue
            if unit.kind == "expert":
                kinds[unit.kind] += 1
                continue
            settings = {**content, **changed}
            form = known_format(f"{_format(settings)}@{_method(settings)}", catalog)
            if form:
                forms[unit.name] = form
            else:
                foreign[" ".join(f"{name} {settings.get(name)}"[:40] for name in sorted(_FORMAT))] += 1
        notes = [
            f"{count} weights stay as they are: no format here has {what}." for what, count in foreign.items()
        ]
        if kinds:
            notes.append(
                f"{kinds['expert']} experts stay as they are for GPTQModel: {self.target.stays['expert']}."
            )
        if missing:
            notes.append(f"No layer of this model matches {listed(missing)}.")
        unread = set(map(str, content)) - _FORMAT - _ROUNDING - _NO_MATTER - {"dynamic"}
        for _, changed in rules:
            unread |= {f"dynamic {name}" for name in map(str, changed) if name not in _FORMAT | _ROUNDING}
        if unread:
            notes.append(f"No equal here for {listed(sorted(unread))}.")
        if str(content.get("damp_percent", 0.01)) not in _DAMPING:
            notes.append(f"damp_percent {str(content['damp_percent'])[:20]} is 0.01 here.")
        return Reading(forms, notes=tuple(notes))


def _settings(spec: FormatSpec) -> dict[str, Any]:
    return {"bits": bits(spec), "group_size": group(spec), "sym": spec.symmetry == "sym"}


_DAMPING = ("0.01", "0.1", "0.001")
"""What ``gptq`` here can take."""


def _rules(dynamic: object) -> list[tuple[str, Mapping[str, Any]]]:
    """Expressions with their prefix, and what each changes."""
    if not isinstance(dynamic, Mapping):
        raise RecipeError("'dynamic' is no mapping of expressions to settings.", "Correct it.")
    found = []
    for key, changed in dynamic.items():
        pattern = str(key) if str(key).startswith(("+:", "-:")) else f"+:{key}"
        if not isinstance(changed or {}, Mapping):
            raise RecipeError(f"What 'dynamic' says for {pattern[:60]!r} are no settings.", "Correct it.")
        found.append((pattern, changed or {}))
    return found


def _names(matcher: Matcher, pattern: str) -> tuple[str, ...]:
    return matcher.names(pattern if plain(pattern) is None else f"^{pattern}$")


def _format(settings: Mapping[str, Any]) -> str:
    size = settings.get("group_size", 128)
    part = "channel" if size == -1 else f"g{size}"
    return f"int{settings['bits']}/{part}/{'sym' if settings.get('sym', True) else 'asym'}"


def _method(settings: Mapping[str, Any]) -> str:
    ordered = settings.get("desc_act") or settings.get("act_group_aware", True)
    damping = str(settings.get("damp_percent", 0.01))
    return (
        "gptq" + ("" if ordered else ":order=none") + (f":damping={damping}" if damping in _DAMPING else "")
    )


register(GptqModel())
