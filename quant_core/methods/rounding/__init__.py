"""Rounding methods, one file each; importing the package fills the registry."""

from quant_core.formats import Format
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
    "learns",
]


def learns(form: Format) -> bool:
    """Whether the rounding in a format's name looks at what enters the layer, over some text."""
    method = form.spec.method.partition(":")[0]
    return bool(method) and bool(METHODS[method].info.needs)
