"""The runtimes that can run an exported file on this machine, one file a runtime; importing it fills the registry."""

from quant_core.runtimes import bitsandbytes, llamacpp, torchao
from quant_core.runtimes.base import RUNTIMES, Found, Runtime, Task
from quant_core.runtimes.engine import Engine, Round

__all__ = [
    "RUNTIMES",
    "Engine",
    "Found",
    "Round",
    "Runtime",
    "Task",
    "bitsandbytes",
    "llamacpp",
    "torchao",
]
