"""Where a model comes from: the bundled folder, a local folder, or a hub repository, checked before it is loaded.

Only safetensors weights are read and no code of a repository is run. Every reason not to load is found from the
small files first (config, file headers), so that a wrong choice costs seconds and no memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from quant_core.errors import ModelError
from quant_core.schema import ModelRef

BUNDLED = Path(__file__).resolve().parents[2] / "assets" / "demo-model"
_DOWNLOADED = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja"]
_WIDTH = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
}


@dataclass(frozen=True)
class Checkpoint:
    """A folder on disk that has passed the checks; ``dtype`` is that of most of its values, ``bits`` its width."""

    folder: Path
    title: str
    config: dict[str, Any]
    parameters: int
    dtype: str
    bits: int


def locate(ref: ModelRef, roots: Sequence[str] = ()) -> Path:
    """The folder that holds the model, downloaded from the hub first if it must be.

    Args:
        ref: Which model.
        roots: Folders a local path must lie in after links are resolved; empty allows any.
    """
    if ref.source == "bundled":
        return BUNDLED
    folder = Path(ref.source).expanduser()
    if folder.is_dir():
        return _confined(folder.resolve(), roots)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", ref.source) and not ref.source.startswith("."):
        return _from_hub(ref)
    raise ModelError(
        f"There is no folder {ref.source!r}.",
        "Give an existing folder, a hub id such as org/name, or 'bundled'.",
    )


def _confined(folder: Path, roots: Sequence[str]) -> Path:
    if roots and not any(folder.is_relative_to(Path(root).expanduser().resolve()) for root in roots):
        raise ModelError(
            f"The folder {str(folder)!r} lies outside the folders this dashboard may read.",
            f"Move it under {', '.join(roots)}, or start with QUANTLENS_MODEL_ROOTS set to a folder that holds it.",
        )
    return folder


def _from_hub(ref: ModelRef) -> Path:
    wanted: dict[str, Any] = {"revision": ref.revision or None, "allow_patterns": _DOWNLOADED}
    try:
        return Path(snapshot_download(ref.source, **wanted))
    except GatedRepoError as error:
        raise ModelError(
            f"Access to {ref.source!r} is restricted by its authors.",
            "Accept its terms on the hub and start with HF_TOKEN set to your token.",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{ref.source!r} has no revision {ref.revision!r}.",
            "Leave it empty or name a branch, tag or commit.",
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"There is no folder and no hub model {ref.source!r}.",
            "Check the spelling; a private model needs HF_TOKEN in the environment.",
        ) from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{ref.source!r} is neither a folder nor in the local hub cache, and the hub cannot be reached.",
            "Check the spelling and the network, or choose 'bundled' or a local folder.",
        ) from error


def check(folder: Path, title: str) -> Checkpoint:
    """Read the small files and refuse, with a reason, what cannot be analyzed."""
    config = _read_json(folder / "config.json", title)
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "an unnamed method")
        raise ModelError(
            f"{title} is already quantized ({method}).", "Choose the original checkpoint, in 16 or 32 bits."
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
            raise ModelError(
                f"{title} holds only pickle weights (.bin, .pt), which can run code when they are opened.",
                "Choose a repository with .safetensors files, or convert it with save_pretrained.",
            )
        raise ModelError(f"{title} holds no .safetensors file.", "Choose the folder that holds the weights.")
    count, widths = 0, Counter[str]()
    for file in files:
        for dtype, shape in _header(file, title):
            size = 1
            for length in shape:
                size *= length
            widths[dtype] += size
            count += size
    dtype = widths.most_common(1)[0][0] if widths else "F32"
    if dtype not in _WIDTH or (dtype[0] in "IUB" and dtype != "BF16"):
        raise ModelError(
            f"{title} stores its weights as {dtype}, which are not plain floats.",
            "Choose the original checkpoint, in 16 or 32 bits.",
        )
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
    return Checkpoint(folder, title, config, count, names[dtype], _WIDTH[dtype])


def _read_json(file: Path, title: str) -> dict[str, Any]:
    if not file.is_file():
        raise ModelError(f"{title} has no {file.name}.", "Choose a folder in Hugging Face's layout.")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(
            f"{file.name} of {title} cannot be read: {error}.", "Download the model again."
        ) from error
    if not isinstance(data, dict):
        raise ModelError(f"{file.name} of {title} is not a JSON object.", "Download the model again.")
    return data


def _header(file: Path, title: str) -> list[tuple[str, list[int]]]:
    """Dtype and shape of every tensor in a safetensors file, from its header alone."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
        return [(entry["dtype"], entry["shape"]) for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise ModelError(
            f"{file.name} of {title} is no readable safetensors file: {error}.", "Download the model again."
        ) from error


def fingerprint(checkpoint: Checkpoint) -> str:
    """A 24-digit hash of the configuration and every byte of the weights: equal content, equal fingerprint."""
    total = hashlib.sha256(json.dumps(checkpoint.config, sort_keys=True).encode())
    for file in sorted(checkpoint.folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:24]


def title_of(ref: ModelRef) -> str:
    """What to call the model on screen."""
    if ref.source == "bundled":
        return "QuantLens demo model"
    return Path(ref.source).name if os.sep in ref.source and Path(ref.source).is_dir() else ref.source
