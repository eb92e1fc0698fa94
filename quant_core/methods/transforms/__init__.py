"""Rewrites that keep a model's function, one file each; importing the package fills the registry."""

from quant_core.methods.transforms import awq, equalize, rotate, smoothquant
from quant_core.methods.transforms.base import TRANSFORMS, Entry, Transform, Work, find, infos

__all__ = [
    "TRANSFORMS",
    "Entry",
    "Transform",
    "Work",
    "awq",
    "equalize",
    "find",
    "infos",
    "rotate",
    "smoothquant",
]
