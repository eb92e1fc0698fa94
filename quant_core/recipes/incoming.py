"""Settings of other tools as a recipe: which tool's a file is by its content, and what they mean for a model.

The file is a stranger's: no larger than ``LARGEST``, YAML without tags, aliases and repeated keys, and regular
expressions as ``recipes.patterns`` takes them.
"""

from __future__ import annotations

from quant_core.errors import RecipeError
from quant_core.recipes.files import parse
from quant_core.recipes.foreign import DIALECTS, llama_quantize
from quant_core.recipes.foreign.base import Content, Reading
from quant_core.schema import Catalog, ModelInfo

LARGEST = 5_000_000
"""Characters."""


def content_of(text: str) -> Content:
    """What a file holds: its text if it is lines of options, else the mapping of its JSON or YAML.

    Raises:
        RecipeError: It is too large, or neither.
    """
    if len(text) > LARGEST:
        raise RecipeError("The file is larger than any recipe.", "Choose a recipe or a tool's settings.")
    return text if llama_quantize.is_lines(text) else parse(text)


def read_settings(content: Content, info: ModelInfo, catalog: Catalog) -> tuple[str, Reading] | None:
    """A tool's title and what its settings mean; None for content that is no settings that are read here.

    Args:
        content: From ``content_of``.
        info: The model that is open.
        catalog: The formats and methods there are.

    Raises:
        RecipeError: The settings are malformed, or touch no weight of the model.
    """
    for dialect in DIALECTS.values():
        if dialect.reads(content):
            found = dialect.read(content, info, catalog)
            if not found.forms:
                raise RecipeError(
                    f"These settings for {dialect.target.title} quantize nothing of {info.title}.",
                    " ".join(found.notes) or "Open the model that they were made for.",
                )
            return dialect.target.title, found
    return None
