"""llama.cpp's own quantizer, told a type for each tensor (``--tensor-type``); see ``recipes.gguf_lines``.

Reading: a whole command, options alone, or the lines of a ``--tensor-type-file`` (``PATTERN=TYPE``). llama.cpp,
``tools/quantize/quantize.cpp`` and ``src/llama-quant.cpp`` (``llama_tensor_get_type``): patterns are lower-cased and
searched for, the first holds; the embedding's and the output's own options win over them, and a tied embedding takes
the output's; what no option names is left to the mix, or with ``--pure`` to its type; rows that a type's blocks do not
divide get another; and where the type of all is no quantized one, patterns are not looked at.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from dataclasses import dataclass, field, replace

from quant_core.errors import FormatError, RecipeError
from quant_core.recipes.foreign._common import known_format, listed
from quant_core.recipes.foreign.base import Content, Dialect, Reading, register
from quant_core.recipes.gguf_lines import tensor_names, tensor_types
from quant_core.recipes.gguf_mixes import MIXES, PLAIN, fitting, gguf_mix
from quant_core.recipes.patterns import Matcher
from quant_core.schema import ORIGINAL, Catalog, ModelInfo, Problem, Recipe, Unit
from quant_core.targets import TARGETS

_FLOATS = ("f32", "f16", "bf16")
_ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}
_LINE = re.compile(r"[^\s=]+=[A-Za-z0-9_]+")
_VALUED = {
    "--imatrix",
    "--include-weights",
    "--exclude-weights",
    "--override-kv",
    "--prune-layers",
    "--tensor-type-file",
}
_NO_MATTER = {"--allow-requantize", "--keep-split", "--dry-run", "--override-kv"}
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"


@dataclass
class _Options:
    """What a command says."""

    base: str = ""
    """The type of all, in lower case; empty where none stands there."""
    pure: bool = False
    imatrix: bool = False
    keep_output: bool = False
    embedding: str = ""
    output: str = ""
    types: list[tuple[str, str]] = field(default_factory=list)
    """Pattern and type, in order."""
    unread: list[str] = field(default_factory=list)


class LlamaQuantize(Dialect):
    """Options that go before the names of the files, one a line."""

    file = "llama-quantize.txt"
    solve_for = "gguf"
    target = replace(
        TARGETS["gguf"],
        name="llama-quantize",
        title="llama-quantize",
        help="Quantizes an f16 GGUF file for llama.cpp.",
        writes=(),
        notes=(
            "Set these options before the file names: llama-quantize OPTIONS in-f16.gguf out.gguf Q4_K_M",
        ),
    )

    def problems(self, info: ModelInfo, recipe: Recipe) -> tuple[Problem, ...]:
        """Beside the others: weights whose names llama.cpp has not."""
        found = super().problems(info, recipe)
        if not found:
            try:
                tensor_types(info, recipe.assignment())
            except FormatError as error:
                return (Problem(error.message),)
        return found

    def text(self, info: ModelInfo, recipe: Recipe) -> str:
        """One option a line."""
        return "".join(f"{line}\n" for line in tensor_types(info, recipe.assignment()))

    def reads(self, content: Content) -> bool:
        """Whether it is lines of options or of patterns."""
        return isinstance(content, str)

    def read(self, content: Content, info: ModelInfo, catalog: Catalog) -> Reading:
        """The type of every weight, in the model's order."""
        options = _options(str(content))
        forms: dict[str, str] = {}
        notes = [f"No equal here for {listed(options.unread)}."] if options.unread else []
        tensors: dict[str, tuple[str, ...]] = {}
        strange = []
        for unit in info.units:
            try:
                tensors[unit.name] = tensor_names(unit)
            except FormatError:
                strange.append(unit.name)
        if strange:
            notes.append(f"What llama.cpp calls {listed(strange)} is not known here.")
        named = _named(options, tensors, notes)
        usual = _usual(options, info, notes)
        apart, foreign, unsaid, fallen = [], Counter[str](), 0, 0
        for unit in info.units:
            if unit.name not in tensors:
                continue
            asked = {_asked(options, named, tensor, unit, usual) for tensor in tensors[unit.name]}
            if len(asked) > 1:
                apart.append(unit.name)
                continue
            kind = asked.pop()
            unsaid += not kind
            if kind in ("", ORIGINAL, *_FLOATS):
                continue
            if kind not in _HELD:
                foreign[kind] += 1
                continue
            form = fitting(kind, unit.columns)
            fallen += form != kind
            if form != ORIGINAL:
                weighted = known_format(f"{form}@imatrix", catalog) if options.imatrix else ""
                forms[unit.name] = weighted or form
        if options.imatrix:
            notes.append(
                "The importance matrix is made from the calibration text here, not read from its file."
            )
        if apart:
            notes.append(
                f"{len(apart)} weights that are one here and two tensors there get two types and stay."
            )
        notes += [
            f"{count} weights stay as they are: {kind} is no format here." for kind, count in foreign.items()
        ]
        if fallen:
            notes.append(
                f"{fallen} weights get the type that llama.cpp falls back to: their rows are too short."
            )
        if unsaid:
            notes.append(
                f"{unsaid} weights stay as they are: no line names them, and the file names no type for the rest."
            )
        return Reading(forms, notes=tuple(notes))


_HELD = {family for holds in TARGETS["gguf"].holds or () for family in holds.families}


def is_lines(text: str) -> bool:
    """Whether a file is a command, or lines of ``PATTERN=TYPE``."""
    words = text.split()
    return any(
        word in words for word in ("--tensor-type", "--output-tensor-type", "--token-embedding-type")
    ) or (bool(words) and all(_LINE.fullmatch(word) for word in words))


def _options(text: str) -> _Options:
    try:
        words = iter(shlex.split(text.replace("\\\n", " ").replace("\\\r\n", " "), comments=True))
    except ValueError as error:
        raise RecipeError(
            "A quotation mark of the llama-quantize options is never closed.", "Close it."
        ) from error
    found = _Options()
    for word in words:
        if word == "--tensor-type":
            found.types.append(_pair(next(words, "")))
        elif word == "--token-embedding-type":
            found.embedding = next(words, "").lower()
        elif word == "--output-tensor-type":
            found.output = next(words, "").lower()
        elif word == "--pure":
            found.pure = True
        elif word == "--leave-output-tensor":
            found.keep_output = True
        elif word.startswith("--"):
            value = next(words, "") if word in _VALUED else ""
            found.imatrix |= word == "--imatrix"
            if word not in _NO_MATTER and word != "--imatrix":
                found.unread.append(f"{word} {value}".strip())
        elif _LINE.fullmatch(word):
            found.types.append(_pair(word))
        elif not found.base and word.lower() in (*MIXES, *PLAIN, *_FLOATS, *_ALIASES, *_OTHERS):
            found.base = word.lower()
    return found


_OTHERS = (
    "copy", "iq1_m", "iq1_s", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq3_m", "iq3_s", "iq3_xs", "iq3_xxs", "iq4_nl",
    "iq4_xs", "mxfp4_moe", "q1_0", "q2_0", "q2_k_s", "tq1_0", "tq2_0",
)  # fmt: skip
"""Mixes of llama.cpp's that are not known here."""


def _pair(word: str) -> tuple[str, str]:
    pattern, _, kind = word.partition("=")
    if not (pattern and kind):
        raise RecipeError(f"--tensor-type {word[:60]!r} is not PATTERN=TYPE.", "Correct it.")
    return pattern.lower(), kind.lower()


def _named(options: _Options, tensors: dict[str, tuple[str, ...]], notes: list[str]) -> dict[str, str]:
    """The type of each tensor that a pattern names."""
    if options.base in _FLOATS:
        if options.types:
            notes.append(
                f"llama-quantize looks at no --tensor-type where all becomes {options.base.upper()}."
            )
        return {}
    names = dict.fromkeys(name for each in tensors.values() for name in each)
    matcher = Matcher([*names, _OUTPUT], anywhere=True)
    found: dict[str, str] = {}
    missing = []
    for pattern, kind in options.types:
        matched = matcher.names(pattern)
        for name in matched:
            found.setdefault(name, kind)
        if not matched:
            missing.append(pattern)
    if missing:
        notes.append(f"No tensor of this model matches {listed(missing)}.")
    return found


def _usual(options: _Options, info: ModelInfo, notes: list[str]) -> dict[str, str]:
    """The type of each weight that no option names; empty where the file does not say."""
    base = options.base
    if base in (*_FLOATS, "copy"):
        return dict.fromkeys((unit.name for unit in info.units), ORIGINAL)
    mix = _ALIASES.get(base, base)
    if mix in MIXES or mix in PLAIN:
        kind = MIXES.get(mix, mix)
        return (
            dict.fromkeys((unit.name for unit in info.units), kind) if options.pure else gguf_mix(info, mix)
        )
    if base:
        notes.append(f"The rules of {base.upper()} are not known here: what no line names stays as it is.")
        return dict.fromkeys((unit.name for unit in info.units), ORIGINAL)
    return {}


def _asked(options: _Options, named: dict[str, str], tensor: str, unit: Unit, usual: dict[str, str]) -> str:
    """The type of a tensor before its shape is looked at; empty where nothing says."""
    if tensor == _EMBEDDING and options.embedding:
        return options.embedding
    if tensor == _OUTPUT and options.keep_output:
        return ORIGINAL
    if tensor == _OUTPUT and options.output:
        return options.output
    if tensor in named:
        return named[tensor]
    if tensor == _EMBEDDING and unit.tied and options.output:
        return options.output
    return usual.get(unit.name, "")


register(LlamaQuantize())
