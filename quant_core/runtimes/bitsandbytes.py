"""bitsandbytes: NF4, FP4 and LLM.int8, on CPUs and GPUs."""

from quant_core.runtimes._transformers import Behind
from quant_core.runtimes.base import register

register(Behind("bitsandbytes"))
