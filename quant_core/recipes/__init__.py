"""Recipes as data: made from a solution, written as JSON or YAML, read back with every doubt spelled out."""

from quant_core.recipes.files import from_data, from_text, to_text
from quant_core.recipes.gguf_lines import tensor_names, tensor_types
from quant_core.recipes.gguf_mixes import MIXES, gguf_mix, stored_bits
from quant_core.recipes.incoming import content_of, read_settings
from quant_core.recipes.make import library_versions, make_recipe, public_name
from quant_core.recipes.parameters import format_parameters
from quant_core.recipes.presets import first_and_last_at, uniform

__all__ = [
    "MIXES",
    "content_of",
    "first_and_last_at",
    "format_parameters",
    "from_data",
    "from_text",
    "gguf_mix",
    "library_versions",
    "make_recipe",
    "public_name",
    "read_settings",
    "stored_bits",
    "tensor_names",
    "tensor_types",
    "to_text",
    "uniform",
]
