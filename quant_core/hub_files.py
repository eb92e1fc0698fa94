"""The hub's cache on this machine: where it is, and how much of a model is in it; loads no library of the hub.

The layout is that of huggingface_hub: contents lie in ``models--org--name/blobs`` by the name of their hash, and
``snapshots`` links to them by file name. A content that is only there in part has the further ending ``PART``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from quant_core.errors import ModelError
from quant_core.schema import HubFile

PART = ".quantlens-part"


def hub_cache() -> Path:
    """Where the Hugging Face libraries keep downloaded models."""
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return Path(chosen).expanduser()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.environ.get("HF_HOME") or caches / "huggingface").expanduser() / "hub"


def blob(source: str, file: HubFile) -> Path:
    """Where the content of a file of the model with hub id ``source`` belongs.

    Raises:
        ModelError: It is named by something else than a hash.
    """
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", file.blob):
        raise ModelError(f"The hub names no hash for {file.name} of {source}.", "Choose another model.")
    return hub_cache() / f"models--{source.replace('/', '--')}" / "blobs" / file.blob


def part(source: str, file: HubFile) -> Path:
    """Where it grows."""
    whole = blob(source, file)
    return whole.with_name(whole.name + PART)


def bytes_here(source: str, files: Iterable[HubFile]) -> int:
    """Bytes of these files that are in the cache already."""
    return sum(_size(source, file) for file in files)


def _size(source: str, file: HubFile) -> int:
    if blob(source, file).exists():
        return file.bytes
    try:
        return min(part(source, file).stat().st_size, file.bytes)
    except OSError:
        return 0
