"""Writing a model under a recipe for the runtimes people deploy on, one file a runtime.

Importing it fills the registry.
"""

from quant_core.export import awq, compressed_tensors, gptq, mlx
from quant_core.export.base import EXPORTERS, Exporter

__all__ = ["EXPORTERS", "Exporter", "awq", "compressed_tensors", "gptq", "mlx"]
