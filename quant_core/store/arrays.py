"""Where arrays are that are no rows of the store: safetensors files under the home folder, named by kind and key."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

FOLDER = "arrays"
"""Under the home folder."""
SUFFIX = ".safetensors"

ArrayKind = Literal["state", "trained", "fisher", "measured", "training", "text"]
"""A sweep's score state and a training's weights, named by their content; a sweep, a measurement and a training that
were stopped half-way, named by their request; text that a model wrote, named by what was asked of it."""


def array_file(folder: Path, kind: ArrayKind, key: str) -> Path:
    """The file of a kind with a key."""
    return folder / f"{kind}-{key}{SUFFIX}"
