"""What a result is made with, as far as the running process can tell."""

from __future__ import annotations

import platform
import sys
from functools import lru_cache
from pathlib import Path

from quant_core.recipes import library_versions
from quant_core.schema import Origin


def origin_now(device: str) -> Origin:
    """Versions, device, hardware and threads of this process, whose model computes on ``device`` (empty: none does)."""
    return Origin(
        libraries=_libraries(),
        device=device,
        hardware=_gpu(device) if device.startswith("cuda") else cpu_name(),
        threads=_threads(),
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
    )


@lru_cache(maxsize=1)
def _libraries() -> dict[str, str]:
    return {"python": platform.python_version(), **library_versions()}


def _threads() -> int:
    """PyTorch's, if it was loaded: it is not loaded for this."""
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch is not None else 0


def _gpu(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device)


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """What the CPU calls itself; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # Linux alone has it
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
