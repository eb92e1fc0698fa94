"""The folders that a user may pick a model from: what lies in them, as far as the allowed roots reach."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quant_core.errors import ModelError

MOST = 200
"""Folders that are listed of one."""
_CONFIG_BYTES = 1_000_000


@dataclass(frozen=True)
class Folder:
    """A folder; one that holds a model has a ``kind``."""

    path: Path
    """With all links resolved."""
    name: str
    kind: str = ""
    """The architecture that its config.json names; empty where it holds no model."""
    bytes: int = 0
    """Of its safetensors files, or of a file."""
    method: str = ""
    """How it is quantized (``gptq``, ``GGUF``); empty where it is not."""


@dataclass(frozen=True)
class Listing:
    """A folder with those in it."""

    here: Folder
    above: Path | None
    """The folder it lies in; None where that is out of bounds."""
    inside: tuple[Folder, ...]
    """Models first, then by name."""
    left_out: int
    """Folders beyond ``MOST`` that are not listed."""


def confined(folder: Path, roots: Sequence[Path]) -> Path:
    """The folder with all links resolved; ``ModelError`` if it lies in none of the roots, where there are any."""
    folder = folder.resolve()
    if roots and not within(folder, roots):
        raise ModelError(
            f"The folder {str(folder)!r} lies outside the folders this dashboard may read.",
            f"Move it under {', '.join(map(str, roots))}, or start with QUANTLENS_MODEL_ROOTS set to a folder that "
            "holds it.",
        )
    return folder


def within(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a resolved path lies in one of the roots."""
    return any(path.is_relative_to(root.expanduser().resolve()) for root in roots)


def listing(folder: Path, roots: Sequence[Path], *, files: bool = False) -> Listing:
    """What lies in a folder, GGUF ``files`` too if asked. Hidden folders and links out of the roots are left out.

    Raises:
        ModelError: There is no such folder, it lies outside the roots, or it cannot be read.
    """
    if not folder.is_dir():
        raise ModelError(
            f"There is no folder {str(folder)!r}.", f"Give a path from {Path.cwd()} or a full one."
        )
    here = confined(folder, roots)
    try:
        names = sorted(
            path
            for path in here.iterdir()
            if not path.name.startswith(".") and (path.is_dir() or (files and _is_gguf(path)))
        )
    except OSError as error:
        raise ModelError(
            f"The folder {str(here)!r} cannot be read: {error.strerror}.", "Choose another."
        ) from error
    allowed = [path for path in names if not roots or within(path.resolve(), roots)]
    found = [_folder(path, roots) for path in allowed[:MOST]]
    above = here.parent if here.parent != here and (not roots or within(here.parent, roots)) else None
    return Listing(
        _folder(here, roots),
        above,
        tuple(sorted(found, key=lambda each: (not each.kind, each.name.lower()))),
        len(allowed) - len(found),
    )


def _is_gguf(path: Path) -> bool:
    return path.suffix == ".gguf" and path.is_file()


def _folder(path: Path, roots: Sequence[Path]) -> Folder:
    """A folder, and the model in it if there is one."""
    if _is_gguf(path):
        return Folder(path, path.name, "GGUF", path.stat().st_size, "GGUF")
    plain = Folder(path.resolve(), path.name)
    config = path / "config.json"
    try:
        if not config.is_file() or (roots and not within(config.resolve(), roots)):
            return plain
        weights = [file.stat().st_size for file in path.glob("*.safetensors") if file.is_file()]
        if not weights or config.stat().st_size > _CONFIG_BYTES:
            return plain
        data = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return plain
    names = data.get("architectures") if isinstance(data, dict) else None
    kind = names[0] if isinstance(names, list) and names else "a model"
    settings = data.get("quantization_config") if isinstance(data, dict) else None
    method = str(settings.get("quant_method") or "quantized")[:40] if isinstance(settings, dict) else ""
    if not method and (path / "quantize_config.json").is_file():
        method = "gptq"
    return Folder(plain.path, plain.name, str(kind), sum(weights), method)
