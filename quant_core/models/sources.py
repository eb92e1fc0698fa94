"""Where a model comes from: the bundled folder, a local folder, or a hub repository, checked before it is loaded.

Only safetensors weights are read and no code of a repository is run. Every reason not to load is found from the
small files first (config, file headers), so that a wrong choice costs seconds and no memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import list_repo_files, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from quant_core.errors import ModelError
from quant_core.folders import confined
from quant_core.schema import ModelRef

BUNDLED = Path(__file__).resolve().parents[2] / "assets" / "demo-model"
DOWNLOADED = ["model*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
_LONGEST_JSON = 100_000_000
"""Bytes, of a header of safetensors too."""
_PICKLES = {".bin", ".pt", ".pth"}
_FLOATS = {"F64": ("float64", 64), "F32": ("float32", 32), "F16": ("float16", 16), "BF16": ("bfloat16", 16)}
"""safetensors' name of a dtype to ours and its bits."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder on disk that has passed the checks; ``dtype`` is that of most of its values, ``bits`` its width."""

    folder: Path
    title: str
    config: dict[str, Any]
    parameters: int
    dtype: str
    bits: int
    stored_bits: int
    """Bits of all stored values, each in its own dtype."""
    shapes: tuple[tuple[int, ...], ...]
    """Of all stored tensors."""


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
        return confined(folder, [Path(root) for root in roots])
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", ref.source) and not ref.source.startswith("."):
        return _from_hub(ref)
    raise ModelError(
        f"There is no folder {ref.source!r}.",
        "Give an existing folder, a hub id such as org/name, or 'bundled'.",
    )


def _from_hub(ref: ModelRef) -> Path:
    with hub_errors(ref.source, ref.revision):
        folder = Path(snapshot_download(ref.source, revision=ref.revision or None, allow_patterns=DOWNLOADED))
        if not any(folder.glob("*.safetensors")):
            raise pickles_only(ref.source, list_repo_files(ref.source, revision=ref.revision or None))
        return folder


@contextmanager
def hub_errors(source: str, revision: str) -> Iterator[None]:
    """Turn what the hub refuses, and a hub that cannot be reached, into a ``ModelError``."""
    try:
        yield
    except GatedRepoError as error:
        raise ModelError(
            f"Access to {source!r} is restricted by its authors.",
            "Accept its terms on the hub and start with HF_TOKEN set to your token.",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{source!r} has no revision {revision!r}.",
            "Leave it empty or name a branch, tag or commit.",
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"There is no folder and no hub model {source!r}.",
            "Check the spelling; a private model needs HF_TOKEN in the environment.",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, httpx2.TransportError) as error:
        raise ModelError(
            f"{source!r} is neither a folder nor in the local hub cache, and the hub cannot be reached.",
            "Check the spelling and the network, or choose 'bundled' or a local folder.",
        ) from error


def check(folder: Path, title: str) -> Checkpoint:
    """Read the small files and refuse, with a reason, what cannot be analyzed."""
    config = _read_json(folder / "config.json", title)
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        raise ModelError(
            f"{title} is already quantized ({method or 'an unnamed method'}).",
            "Choose the original checkpoint, in 16 or 32 bits; the Checkpoint page and the command 'import' say what "
            "this one holds.",
        )
    values: Counter[str] = Counter()
    shapes = []
    for file in weight_files(folder, title):
        for dtype, shape in _header(file, title):
            values[dtype] += math.prod(shape)
            shapes.append(tuple(shape))
    dtype = values.most_common(1)[0][0] if values else "F32"
    if dtype not in _FLOATS:
        raise ModelError(
            f"{title} stores its weights as {dtype}, which are not plain floats.",
            "Choose the original checkpoint, in 16 or 32 bits.",
        )
    name, bits = _FLOATS[dtype]
    stored = sum(count * _FLOATS.get(kind, ("", 8))[1] for kind, count in values.items())
    return Checkpoint(folder, title, config, values.total(), name, bits, stored, tuple(shapes))


def weight_files(folder: Path, title: str) -> list[Path]:
    """The files a model's weights are in: those its index names, else ``model.safetensors``, else all there are."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = _read_json(index, title).get("weight_map")
        names = {str(name) for name in named.values()} if isinstance(named, dict) else set()
        if any(Path(name).name != name for name in names):
            raise ModelError(
                f"The index of {title} names files outside its folder.", "Download the model again."
            )
        files = sorted(folder / name for name in names)
    else:
        whole = folder / "model.safetensors"
        files = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise _no_safetensors(title, any(file.suffix in _PICKLES for file in folder.iterdir()))
    for file in files:
        if not file.is_file():
            raise ModelError(f"{title} lacks its file {file.name}.", "Download the model again.")
    return files


def pickles_only(title: str, names: Sequence[str]) -> ModelError:
    """Why a repository with these files and no safetensors cannot be opened."""
    return _no_safetensors(title, any(Path(name).suffix in _PICKLES for name in names))


def _no_safetensors(title: str, pickles: bool) -> ModelError:
    if pickles:
        return ModelError(
            f"{title} holds only pickle weights (.bin, .pt), which can run code when they are opened.",
            "Choose a repository with .safetensors files, or convert it with save_pretrained.",
        )
    return ModelError(f"{title} holds no .safetensors file.", "Choose the folder that holds the weights.")


def _read_json(file: Path, title: str) -> dict[str, Any]:
    if not file.is_file():
        raise ModelError(f"{title} has no {file.name}.", "Choose a folder in Hugging Face's layout.")
    try:
        if file.stat().st_size > _LONGEST_JSON:
            raise ValueError("it is longer than any such file")
        data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(
            f"{file.name} of {title} cannot be read: {error}.", "Download the model again."
        ) from error
    if not isinstance(data, dict):
        raise ModelError(f"{file.name} of {title} is not a JSON object.", "Download the model again.")
    return data


def _header(file: Path, title: str) -> list[tuple[str, list[int]]]:
    """Dtype and shape of every tensor in a safetensors file, from its header alone."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size, _LONGEST_JSON):
                raise ValueError("its header is longer than the file, or than any header")
            header: dict[str, Any] = json.loads(stream.read(length))
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        found = [(str(entry["dtype"]), [int(part) for part in entry["shape"]]) for entry in entries]
        end = 8 + length + max((int(entry["data_offsets"][1]) for entry in entries), default=0)
        if end > size:
            raise ValueError(f"it should be {end:,} bytes long and is {size:,}")
    except (
        OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, struct.error
    ) as error:  # fmt: skip
        raise ModelError(
            f"{file.name} of {title} is no readable safetensors file: {error}.", "Download the model again."
        ) from error
    return found


def fingerprint(checkpoint: Checkpoint) -> str:
    """A 24-digit hash of the configuration and every byte of the weights: equal content, equal fingerprint."""
    total = hashlib.sha256(json.dumps(checkpoint.config, sort_keys=True).encode())
    for file in weight_files(checkpoint.folder, checkpoint.title):
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:24]


def title_of(ref: ModelRef) -> str:
    """What to call the model on screen."""
    if ref.source == "bundled":
        return "QuantLens demo model"
    return Path(ref.source).name if os.sep in ref.source and Path(ref.source).is_dir() else ref.source
