"""The energy that an NVIDIA GPU has taken, by its own counter.

Read from NVML, the management library that the driver brings (``nvmlDeviceGetTotalEnergyConsumption``, from Volta on:
millijoules since the driver was loaded, of the whole card). It is called directly, so that no package is needed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch


def energy_counter(device: torch.device) -> Callable[[], float] | None:
    """A function that gives the joules taken so far; None where there is no such counter."""
    if device.type != "cuda" or torch.version.hip:
        return None
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle = ctypes.c_void_p()
    name = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)):
        return None
    try:
        _joules(nvml, handle)
    except OSError:
        return None
    return lambda: _joules(nvml, handle)


def _joules(nvml: Any, handle: ctypes.c_void_p) -> float:
    found = ctypes.c_ulonglong()
    if code := nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(found)):
        raise OSError(f"NVML gives no energy: error {code}")
    return found.value / 1000
