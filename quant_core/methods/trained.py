"""What a training leaves: the codes and grids of every unit it trained, in one safetensors file named by its content.

The file holds no weights, only what the format stores, so that a unit read from it costs what the format costs and
holds no value that the format does not have.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, device, uint8

from quant_core.errors import QuantError
from quant_core.formats import Codes, Format, Grid
from quant_core.schema import digest
from quant_core.store.arrays import array_file

_HEAD = "quantlens"


@dataclass(frozen=True)
class Header:
    """What the tensors of a training's file are of."""

    fingerprint: str
    """The model's."""
    transforms: tuple[str, ...]
    """Rewrites that the model had gone through."""
    formats: Mapping[str, str]
    """Unit to full format name."""


@dataclass(frozen=True)
class Trained:
    """The units of one training, read from its file one at a time."""

    header: Header
    path: Path

    def covers(self, unit: str, form: Format) -> bool:
        """Whether ``unit`` was trained in ``form``, whatever way it was rounded at first."""
        return self.header.formats.get(unit, "").partition("@")[0] == form.spec.format

    def read(self, unit: str, where: device) -> tuple[Codes, Tensor | None]:
        """Codes of a unit, and which of its weights are kept in 16 bits, (rows, columns) bool or None."""
        with safe_open(self.path, framework="pt", device="cpu") as file:
            parts = {
                name.removeprefix(f"{unit}|"): file.get_tensor(name).to(where)
                for name in file.keys()  # noqa: SIM118  # the file is no mapping
                if name.startswith(f"{unit}|")
            }
        extras = {
            name.removeprefix("extras."): part for name, part in parts.items() if name.startswith("extras.")
        }
        kept = parts["kept"].bool() if "kept" in parts else None
        return Codes(parts["codes"], Grid(parts["scales"], parts.get("zero_points"), extras)), kept


def write_trained(folder: Path, header: Header, units: Mapping[str, tuple[Codes, Tensor | None]]) -> str:
    """Write units, each with its codes and the mask of its kept weights, and return the key they are found by."""
    tensors: dict[str, Tensor] = {}
    for unit, (codes, kept) in units.items():
        grid = codes.grid
        parts = {"codes": codes.values, "scales": grid.scales, "zero_points": grid.zero_points}
        parts |= {f"extras.{name}": values for name, values in grid.extras.items()}
        parts["kept"] = None if kept is None else kept.byte()
        tensors |= {f"{unit}|{name}": part.cpu() for name, part in parts.items() if part is not None}
    hashes = {
        name: hashlib.sha256(part.reshape(-1).view(uint8).numpy().tobytes()).hexdigest()
        for name, part in tensors.items()
    }
    key = digest({"head": _plain(header), "tensors": hashes})
    write_tensors(array_file(folder, "trained", key), tensors, _plain(header))
    return key


def find_trained(folder: Path, key: str, fingerprint: str, transforms: tuple[str, ...]) -> Trained:
    """The training with a key.

    Raises:
        QuantError: Its file is gone or damaged, or it belongs to another model or another rewrite of it.
    """
    path = array_file(folder, "trained", key)
    found = read_head(path) if key.isalnum() else None
    if found is None:
        raise QuantError(
            f"The weights of training {key!r} are not stored here.", "Train again, or leave it out."
        )
    header = Header(found["fingerprint"], tuple(found["transforms"]), found["formats"])
    if header.fingerprint != fingerprint:
        raise QuantError(f"Training {key} is of another model.", "Choose one of this model.")
    if header.transforms != tuple(transforms):
        raise QuantError(
            f"Training {key} was made with {_listed(header.transforms)}, and this setup has {_listed(transforms)}.",
            "Choose the same rewrites as for the training.",
        )
    return Trained(header, path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], head: Mapping[str, Any]) -> None:
    """Write a safetensors file whole, with JSON data in its head: under another name first, so that none is torn.

    Raises ``QuantError`` if the disk does not take it.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, part, {_HEAD: json.dumps(head)})
        part.replace(path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise QuantError(
            f"{path} cannot be written: {error}.", "Free some disk, or set QUANTLENS_HOME to another folder."
        ) from error


def read_head(path: Path) -> dict[str, Any] | None:
    """The JSON data in the head of a safetensors file; None if there is no such file or it cannot be read."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            head: dict[str, Any] = json.loads((file.metadata() or {})[_HEAD])
            return head
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _plain(header: Header) -> dict[str, Any]:
    return {
        "fingerprint": header.fingerprint,
        "transforms": list(header.transforms),
        "formats": dict(header.formats),
    }


def _listed(transforms: tuple[str, ...]) -> str:
    return " then ".join(transforms) or "no rewrite"
