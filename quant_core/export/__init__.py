"""Writing a model under a recipe for the runtimes people deploy on, one file a runtime.

Importing it fills the registry.
"""

from quant_core.export import awq, bitsandbytes, compressed_tensors, gguf, gptq, mlx, torchao
from quant_core.export.base import EXPORTERS, Exporter

__all__ = [
    "EXPORTERS",
    "Exporter",
    "awq",
    "bitsandbytes",
    "compressed_tensors",
    "gguf",
    "gptq",
    "mlx",
    "torchao",
]
