"""Rounding methods, one file each; importing the package fills the registry."""

from quant_core.methods.rounding import clip, gptq, hqq, importance, learned
from quant_core.methods.rounding.base import METHODS, Method, Rounded, Rounding, find, infos

__all__ = [
    "METHODS",
    "Method",
    "Rounded",
    "Rounding",
    "clip",
    "find",
    "gptq",
    "hqq",
    "importance",
    "infos",
    "learned",
]
