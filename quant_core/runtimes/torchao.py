"""torchao: integers and FP8, on CPUs and GPUs."""

from quant_core.runtimes._transformers import Behind
from quant_core.runtimes.base import register

register(Behind("torchao"))
