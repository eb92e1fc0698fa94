"""What each runtime can hold, one file a runtime; importing the package fills the registry."""

from quant_core.targets import anything, awq, bitsandbytes, compressed_tensors, gguf, gptq, mlx, torchao
from quant_core.targets.base import TARGETS, Holds, Target
from quant_core.targets.fit import EXPORTS, problems, suggested
from quant_core.targets.rules import check, find, held, refusal, shares, summary

__all__ = [
    "EXPORTS",
    "TARGETS",
    "Holds",
    "Target",
    "anything",
    "awq",
    "bitsandbytes",
    "check",
    "compressed_tensors",
    "find",
    "gguf",
    "gptq",
    "held",
    "mlx",
    "problems",
    "refusal",
    "shares",
    "suggested",
    "summary",
    "torchao",
]
