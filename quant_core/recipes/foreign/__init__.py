"""Recipes for tools that quantize by themselves, one file a tool; importing it fills the registry."""

from quant_core.recipes.foreign import (
    autoround,
    gptqmodel,
    hqq,
    llama_quantize,
    llm_compressor,
    modelopt,
    neural_compressor,
    quanto,
)
from quant_core.recipes.foreign.base import DIALECTS, Dialect

__all__ = [
    "DIALECTS",
    "Dialect",
    "autoround",
    "gptqmodel",
    "hqq",
    "llama_quantize",
    "llm_compressor",
    "modelopt",
    "neural_compressor",
    "quanto",
]
