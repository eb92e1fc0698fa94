"""llm-compressor recipes, whose output vLLM and SGLang serve.

llm-compressor 0.14, ``modifiers/quantization`` and ``modifiers/gptq``: a modifier with a ``config_groups`` entry for
each format, whose ``weights`` are compressed-tensors' ``QuantizationArgs`` and whose targets are module names. Layers
that the recipe rounds by GPTQ go to a ``GPTQModifier``, all others to a ``QuantizationModifier``.

Reading: ``recipe/recipe.py`` (modifiers lie in groups of stages, in order), ``quantization/mixin.py`` (``scheme`` and
``targets``, or ``config_groups``); compressed-tensors 0.20, ``utils/match.py`` (names before expressions before
classes; expressions match from the beginning of a name) and ``quantization/quant_scheme.py`` (presets). A later
modifier holds where it matches too. ``AWQModifier`` and ``SmoothQuantModifier`` are rewrites of the model here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from quant_core.errors import RecipeError
from quant_core.recipes.foreign._common import bits, known_format, left, listed, modules
from quant_core.recipes.foreign.base import ROWS_ONLY, Content, LayerDialect, Layers, Reading, register
from quant_core.recipes.patterns import Matcher
from quant_core.schema import Catalog, FormatSpec, ModelInfo, Setup, Unit, replace
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

    def reads(self, content: Content) -> bool:
        """Whether there is a modifier in it."""
        return bool(_modifiers(content))

    def read(self, content: Content, info: ModelInfo, catalog: Catalog) -> Reading:
        """What all its modifiers leave, one after the other."""
        reader = _Reader(info, catalog, self.target.stays)
        for name, said in _modifiers(content):
            reader.take(name, said)
        return reader.reading()


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


# --- reading

_CLASSES = {"linear": "Linear", "head": "Linear", "conv1d": "Conv1D", "embedding": "Embedding", "expert": ""}
"""Of the modules that hold weights of a kind (``Unit.kind``)."""
_NO_MATTER = {
    "block_size", "bypass_divisibility_checks", "end", "group", "index", "offload_device", "offload_hessians",
    "sequential_targets", "start",
}  # fmt: skip
"""Arguments that say how the tool works, and not what it makes."""
_READ = {
    "QuantizationModifier": {
        "config_groups", "ignore", "kv_cache_scheme", "observer", "scheme", "targets", "weight_observer",
    },
    "SmoothQuantModifier": {"smoothing_strength"},
}  # fmt: skip
_READ["AWQModifier"] = _READ["QuantizationModifier"]
_READ["GPTQModifier"] = _READ["QuantizationModifier"] | {"actorder", "dampening_frac"}
_INT8 = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
_FP8 = {"num_bits": 8, "type": "float"}
_FP4 = {"num_bits": 4, "type": "float", "symmetric": True}
_MX = {"strategy": "group", "group_size": 32, "scale_dtype": "uint8"}
_NV = {"strategy": "tensor_group", "group_size": 16}
_G128 = {"type": "int", "strategy": "group", "group_size": 128}
_PRESETS: dict[str, dict[str, Any]] = {
    "UNQUANTIZED": {},
    "W4A16_ASYM": {"weights": _G128 | {"num_bits": 4, "symmetric": False}},
    "W8A8": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel"}, "input_activations": _INT8},
    "W4AFP8": {
        "weights": _G128 | {"num_bits": 4}, "input_activations": _FP8 | {"strategy": "token", "dynamic": True},
    },
    "FP8": {"weights": _FP8 | {"strategy": "tensor"}, "input_activations": _FP8 | {"strategy": "tensor"}},
    "FP8_DYNAMIC": {
        "weights": _FP8 | {"strategy": "channel"},
        "input_activations": _FP8 | {"strategy": "token", "dynamic": True},
    },
    "FP8_BLOCK": {
        "weights": _FP8 | {"strategy": "block", "block_structure": [128, 128]},
        "input_activations": _FP8 | {"strategy": "group", "group_size": 128, "dynamic": True},
    },
    "NVFP4A16": {"weights": _FP4 | _NV},
    "NVFP4": {"weights": _FP4 | _NV, "input_activations": _FP4 | _NV | {"dynamic": "local"}},
    "MXFP4A16": {"weights": _FP4 | _MX},
    "MXFP4": {"weights": _FP4 | _MX, "input_activations": _FP4 | _MX | {"dynamic": True}},
    "MXFP8A16": {"weights": _FP8 | _MX},
    "MXFP8": {"weights": _FP8 | _MX, "input_activations": _FP8 | _MX | {"dynamic": True}},
}  # fmt: skip
_PRESETS["INT8"] = _PRESETS["W8A8"]


class _Group(NamedTuple):
    targets: tuple[str, ...]
    scheme: Mapping[str, Any]


class _Reader:
    """What modifiers leave of a model so far."""

    def __init__(self, info: ModelInfo, catalog: Catalog, stays: Mapping[str, str]) -> None:
        self._info, self._catalog, self._stays = info, catalog, stays
        self._modules = modules(info)
        self._matcher = Matcher(self._modules)
        self._forms: dict[str, str] = {}
        self._inputs: dict[str, str] = {}
        self._transforms: list[str] = []
        self._cache = ""
        self._left: dict[str, str] = {}
        self._missing: dict[str, None] = {}
        self._notes: dict[str, None] = {}
        self._foreign: Counter[str] = Counter()

    def take(self, name: str, said: Mapping[str, Any]) -> None:
        """Go on with a modifier."""
        if name not in _READ:
            self._note(f"{name} has no equal here and is left out.")
            return
        unread = sorted(map(str, set(said) - _READ[name] - _NO_MATTER))
        if unread:
            self._note(f"{name}: no equal here for {listed(unread)}.")
        if name == "AWQModifier":
            self._rewrite("awq", name)
        elif name == "SmoothQuantModifier":
            strength = said.get("smoothing_strength", 0.5)
            self._rewrite(f"smoothquant:alpha={strength}", name)
        if name in ("QuantizationModifier", "GPTQModifier") or set(said) & {"scheme", "config_groups"}:
            self._quantize(name, said)

    def reading(self) -> Reading:
        """All that was understood."""
        inputs = {self._inputs[unit] for unit in self._forms}
        if len(inputs) > 1:
            self._note(
                "Layers round their inputs differently, and here all do so alike: inputs stay as they are."
            )
        notes = [
            f"{count} weights stay as they are: no format here is {words}."
            for words, count in self._foreign.items()
        ]
        notes += left(self._left.values(), self._stays, "llm-compressor")
        if self._missing:
            notes.append(f"No layer of this model is called {listed(self._missing)}.")
        setup = Setup(
            transforms=tuple(dict.fromkeys(self._transforms)),
            activations=inputs.pop() if len(inputs) == 1 else "",
            kv_cache=self._cache,
        )
        return Reading(self._forms, setup, (*self._notes, *notes))

    def _note(self, sentence: str) -> None:
        self._notes[sentence] = None

    def _rewrite(self, name: str, modifier: str) -> None:
        known = {method.name: method for method in self._catalog.transforms}
        base, _, option = name.partition(":")
        method = known[base]
        choices = {f"{each.name}={choice}" for each in method.options for choice in each.choices}
        if self._info.architecture not in method.families or (option and option not in choices):
            what = f" with {option}" if option else ""
            self._note(f"{modifier}{what} has no equal here for {self._info.architecture} and is left out.")
            return
        defaults = {f"{each.name}={each.choices[0]}" for each in method.options}
        self._transforms.append(base if option in defaults else name)

    def _quantize(self, name: str, said: Mapping[str, Any]) -> None:
        self._cache = self._kv(said.get("kv_cache_scheme")) or self._cache
        groups = _groups(said)
        by_target = {target: group for group in groups for target in group.targets}
        found = {target: set(self._named(target)) for target in by_target}
        ignore = _strings(said.get("ignore"), "ignore")
        ignored = {module for each in ignore for module in (*self._named(each), *self._of_class(each))}
        order = sorted(by_target, key=lambda target: ("re:" in target, target))
        for module, unit in self._modules.items():
            named = next((target for target in order if module in found[target]), "")
            kind = unit.kind if unit else "head"
            target = named or (_CLASSES[kind] if _CLASSES[kind] in by_target else "")
            if not target or module in ignored:
                continue
            if unit is None:
                self._note(f"{module} is the embedding's own weight and stays as it is.")
            elif kind in self._stays:
                self._left[module] = kind
            else:
                self._give(unit, by_target[target].scheme, self._method(name, said, by_target[target].scheme))

    def _give(self, unit: Unit, scheme: Mapping[str, Any], method: str) -> None:
        self._forms.pop(unit.name, None)
        weights = scheme.get("weights")
        if not weights:
            return
        form = _format(weights)
        full = known_format(f"{form}@{method}" if method else form, self._catalog) if form else ""
        if not full:
            self._foreign[_words(weights)] += 1
            return
        self._forms[unit.name] = full
        inputs = scheme.get("input_activations")
        self._inputs[unit.name] = ""
        if inputs:
            named = _inputs(_mapping(inputs, "input_activations"))
            if named in {known.name.partition(":")[0] for known in self._catalog.activations}:
                self._inputs[unit.name] = named
            else:
                self._note(f"Inputs stay as they are: no way to round them here is {_words(inputs)}.")
        if scheme.get("output_activations"):
            self._note("Outputs of layers are not rounded here.")

    def _method(self, name: str, said: Mapping[str, Any], scheme: Mapping[str, Any]) -> str:
        weights = scheme.get("weights") or {}
        observer = said.get("observer") or {}
        chosen = observer.get("weights") if isinstance(observer, Mapping) else observer
        chosen = str(chosen or said.get("weight_observer") or weights.get("observer") or "minmax")
        squared = "mse" in chosen and "imatrix" not in chosen
        if "minmax" not in chosen and not squared:
            self._note(f"Ranges are not found by {chosen} here, but to nearest.")
        if name != "GPTQModifier":
            return "mse" if squared else ""
        method = "gptq"
        if "actorder" in said and not said["actorder"]:
            method += ":order=none"
        elif said.get("actorder") in ("group", "dynamic"):
            self._note(
                "Columns are ordered by activation, and groups stay those of the row (actorder: weight)."
            )
        damping = said.get("dampening_frac", 0.01)
        if str(damping) in ("0.01", "0.1", "0.001"):
            method += f":damping={damping}"
        else:
            self._note(f"GPTQModifier: dampening_frac {damping} is 0.01 here.")
        return f"{method}:grid=mse" if squared else method

    def _kv(self, scheme: object) -> str:
        if not scheme:
            return ""
        said = _mapping(scheme, "kv_cache_scheme")
        name = {(8, "float"): "fp8", (8, "int"): "int8", (4, "int"): "int4"}.get(
            (said.get("num_bits", 8), said.get("type", "int")), ""
        )
        if not name:
            self._note(f"The KV cache stays as it is: no way to round it here is {_words(said)}.")
        return name

    def _named(self, target: str) -> tuple[str, ...]:
        """Modules that a target names, by expression or exactly; one that names nothing and is no class is noted."""
        found = (
            self._matcher.names(target.removeprefix("re:"))
            if target.startswith("re:")
            else (target,)
            if target in self._modules
            else ()
        )
        if not found and not self._of_class(target):
            self._missing[target] = None
        return found

    def _of_class(self, target: str) -> tuple[str, ...]:
        return tuple(
            module
            for module, unit in self._modules.items()
            if _CLASSES[unit.kind if unit else "head"] == target
        )


def _modifiers(content: object, depth: int = 3) -> list[tuple[str, Mapping[str, Any]]]:
    """The modifiers with their arguments, in order, whatever stages and groups they lie in."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if str(name).endswith("Modifier") and (value is None or isinstance(value, Mapping)):
            found.append((str(name), value or {}))
        elif depth:
            found += _modifiers(value, depth - 1)
    return found


def _groups(said: Mapping[str, Any]) -> list[_Group]:
    """A modifier's groups, as ``resolve_quantization_config`` makes them."""
    targets = _strings(said.get("targets", ["Linear"]), "targets")
    scheme = said.get("scheme")
    if isinstance(scheme, str):
        return [_Group(targets, _preset(scheme))]
    if isinstance(scheme, Mapping) and "weights" in scheme:
        return [_Group(targets, _checked(scheme))]
    if isinstance(scheme, Mapping):
        return [_Group(_strings(each, "targets"), _preset(str(name))) for name, each in scheme.items()]
    groups = []
    for name, each in _mapping(said.get("config_groups") or {}, "config_groups").items():
        if isinstance(each, list):
            groups.append(_Group(_strings(each, "targets"), _preset(str(name))))
        else:
            group = _mapping(each, str(name))
            groups.append(_Group(_strings(group.get("targets"), "targets"), _checked(group)))
    return groups


def _checked(scheme: Mapping[str, Any]) -> Mapping[str, Any]:
    for part in ("weights", "input_activations"):
        _mapping(scheme.get(part) or {}, part)
    return scheme


def _preset(name: str) -> dict[str, Any]:
    """A scheme by name; ``RecipeError`` if there is none."""
    known = _PRESETS.get(name.upper())
    if known is not None:
        return known
    plain = re.fullmatch(r"W([2-8])A(4|8|16)", name.upper())
    if plain is None or int(plain[1]) > int(plain[2]):
        raise RecipeError(
            f"{name[:60]!r} is no scheme that is read here.",
            f"Known are W4A16 and its kin, {', '.join(_PRESETS)}.",
        )
    inputs = {} if plain[2] == "16" else {"input_activations": _INT8 | {"num_bits": int(plain[2])}}
    return {"weights": _G128 | {"num_bits": int(plain[1])}} | inputs


def _format(weights: Mapping[str, Any]) -> str:
    """``QuantizationArgs`` of weights as a format, empty if there is none of the kind."""
    size = weights.get("group_size")
    strategy = weights.get("strategy") or ("tensor" if size is None else "channel" if size == -1 else "group")
    width, kind = weights.get("num_bits", 8), weights.get("type", "int")
    symmetric = weights.get("symmetric", True)
    mx = strategy == "group" and size == 32 and "uint8" in str(weights.get("scale_dtype"))
    if weights.get("dynamic"):
        return ""
    if kind == "float":
        if mx and width in (4, 8):
            return "mxfp4" if width == 4 else "mxfp8_e4m3"
        if width == 4 and strategy == "tensor_group" and size == 16:
            return "nvfp4"
        if width == 8 and strategy == "block" and weights.get("block_structure") == [128, 128]:
            return "fp8_e4m3/b128"
        return f"fp8_e4m3/{strategy}" if width == 8 and strategy in ("tensor", "channel") else ""
    if kind != "int" or strategy not in ("tensor", "channel", "group"):
        return ""
    return f"int{width}/{f'g{size}' if strategy == 'group' else strategy}/{'sym' if symmetric else 'asym'}"


def _inputs(said: Mapping[str, Any]) -> str:
    """``QuantizationArgs`` of inputs as an activation scheme, empty if there is none of the kind."""
    if said.get("num_bits", 8) != 8 or not said.get("symmetric", True) or said.get("group_size") is not None:
        return ""
    grid = {"int": "int8", "float": "fp8"}.get(said.get("type", "int"), "")
    strategy = said.get("strategy") or ("token" if said.get("dynamic") else "tensor")
    if said.get("dynamic"):
        return f"{grid}/token" if strategy == "token" else ""
    return f"{grid}/static" if strategy == "tensor" else ""


def _words(said: Mapping[str, Any]) -> str:
    """``QuantizationArgs`` in short: ``int 8 group 16 asymmetric``."""
    parts = [said.get("type", "int"), said.get("num_bits", 8), said.get("strategy"), said.get("group_size")]
    parts += ["" if said.get("symmetric", True) else "asymmetric", "dynamic" if said.get("dynamic") else ""]
    return " ".join(str(part)[:20] for part in parts if part not in (None, ""))


def _mapping(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{name[:60]} of a modifier is no mapping.", "Correct it.")
    return value


def _strings(value: object, name: str) -> tuple[str, ...]:
    """A text or a list of texts; none for None."""
    found = [value] if isinstance(value, str) else value or []
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise RecipeError(f"{name} of a modifier is no list of names.", "Correct it.")
    return tuple(found)


register(LlmCompressor())
