"""Ways to round activations, one file each; importing the package fills the registry."""

from quant_core.methods.activations import dynamic, llm_int8, static
from quant_core.methods.activations.assign import input_roundings
from quant_core.methods.activations.base import SCHEMES, Scheme, find, infos

__all__ = ["SCHEMES", "Scheme", "dynamic", "find", "infos", "input_roundings", "llm_int8", "static"]
