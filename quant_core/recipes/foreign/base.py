"""A recipe in the words of another tool, which then rounds the original by itself: settings, no weights.

What a tool can be told is data like that of a runtime (``quant_core.targets``), so that the same rules say what is in
the way. How it rounds is its own: scales may be chosen a little otherwise than those that were scored here.

Some tools' settings are read too. What has no equal here is said in a note and left out, never guessed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from quant_core.names import read_name
from quant_core.registry import Registry
from quant_core.schema import ORIGINAL, Catalog, FormatSpec, ModelInfo, Problem, Recipe, Setup
from quant_core.targets import Target, problems

ROWS_ONLY = {
    "expert": "it is told by layer, and experts are kept in 3-D parameters",
    "embedding": "it quantizes linear layers",
}


@dataclass(frozen=True)
class Layers:
    """What a writer is given: the formats of quantized layers by module name, and the linear layers that stay."""

    forms: Mapping[str, FormatSpec]
    kept: tuple[str, ...]

    @property
    def usual(self) -> FormatSpec:
        """The format of most layers, the first of those where it is a tie."""
        return Counter(self.forms.values()).most_common(1)[0][0]


Content = Mapping[str, object] | str
"""Of a file: the mapping that its JSON or YAML holds, or its text, if it is lines of options."""


@dataclass(frozen=True)
class Reading:
    """What was understood of a tool's settings for a model."""

    forms: Mapping[str, str]
    """Full format names of the units that are quantized."""
    setup: Setup = field(default_factory=Setup)
    notes: tuple[str, ...] = ()
    """What was not understood or has no equal here, a sentence each."""


class Dialect(ABC):
    """How one tool is told a recipe."""

    target: Target
    """What it can be told, with name, title, help and source; not one that recipes are solved for."""
    file: str
    """What its file is called."""
    solve_for = "any"
    """The registered target that comes nearest to it."""

    def problems(self, info: ModelInfo, recipe: Recipe) -> tuple[Problem, ...]:
        """Why the tool cannot be told the recipe; empty if it can."""
        found = list(problems(self.target, info, recipe))
        if recipe.setup.transforms:
            rewrites = ", ".join(recipe.setup.transforms)
            found.append(Problem(f"The weights are rewritten first ({rewrites}), which no settings say."))
        if recipe.setup.trained:
            found.append(Problem("The weights were trained, and settings carry no weights."))
        if not any(entry.format != ORIGINAL for entry in recipe.units.values()):
            found.append(Problem("It quantizes nothing."))
        return tuple(found)

    @abstractmethod
    def text(self, info: ModelInfo, recipe: Recipe) -> str:
        """The file's text, for a recipe without ``problems``."""

    def reads(self, content: Content) -> bool:
        """Whether a file holds settings of this tool, as far as they can be read; those of most cannot."""
        return False

    def read(self, content: Content, info: ModelInfo, catalog: Catalog) -> Reading:
        """What settings for which ``reads`` is true mean for a model.

        Raises:
            RecipeError: They contradict themselves, or hold an expression that is not read.
        """
        raise NotImplementedError


class LayerDialect(Dialect):
    """A tool that knows layers by module name."""

    def text(self, info: ModelInfo, recipe: Recipe) -> str:
        """The file's text, for a recipe without ``problems``."""
        kinds = {unit.name: unit.kind for unit in info.units}
        forms, kept = {}, []
        for name, entry in recipe.units.items():
            module = name.removesuffix(".weight")
            if entry.format != ORIGINAL:
                forms[module] = read_name(entry.format)
            elif kinds.get(name) in ("linear", "conv1d", "head"):
                kept.append(module)
        return self.write(Layers(forms, tuple(kept)))

    @abstractmethod
    def write(self, layers: Layers) -> str:
        """The text for some layers, each in a format that the target holds."""


DIALECTS: Registry[Dialect] = Registry("tool")


def register(dialect: Dialect) -> Dialect:
    """Add a tool to the registry under its target's name."""
    return DIALECTS.add(dialect.target.name, dialect)
