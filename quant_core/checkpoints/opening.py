"""Opening a quantized checkpoint: which layout it is in, and all that it holds, with no path in it trusted.

The files that are read are those of the folder: an index can name others in it and nothing else, and a link that leads
out of the folders allowed is refused, whoever made it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from quant_core.checkpoints import awq, bitsandbytes, compressed_tensors, gguf, gptq
from quant_core.checkpoints.base import Held, Quantized, Unread
from quant_core.checkpoints.tensors import AGAIN, FLOATS, Stored, is_name, read_json, word
from quant_core.errors import ExportError
from quant_core.folders import confined, within
from quant_core.models.sources import weight_files

Reader = Callable[[Stored, Mapping[str, Any]], Iterator[Held | Unread]]

_READERS: dict[str, tuple[str, Reader]] = {
    "gptq": ("GPTQ", gptq.held),
    "awq": ("AWQ", awq.held),
    "compressed-tensors": ("compressed-tensors", compressed_tensors.held),
    "fp8": ("FP8", compressed_tensors.held),
    "bitsandbytes": ("bitsandbytes", bitsandbytes.held),
}
"""How layers are read, by ``quant_method`` of ``config.json``."""
_KINDS = {"F64": "64-bit float", "F32": "32-bit float", "F16": "16-bit float", "BF16": "bfloat16"}
_SMALL = ("config.json", "quantize_config.json", "model.safetensors.index.json")
_CHUNK = 1 << 24


def located(path: str, roots: Sequence[str]) -> tuple[Path, list[Path]]:
    """Where a checkpoint is, and the files its tensors are in.

    Args:
        path: A folder in Hugging Face's layout, a GGUF file, or the first part of one.
        roots: Folders that all files must lie in once links are resolved; empty allows any.

    Raises:
        ExportError: There is no such checkpoint, or it lies elsewhere.
        ModelError: A file of it is missing, or its index names files outside its folder.
    """
    here = Path(path).expanduser()
    allowed = [Path(root) for root in roots]
    confined(here if here.is_dir() else here.parent, allowed)
    if here.suffix == ".gguf" and here.is_file():
        files = gguf.files(here)
    elif here.is_dir():
        _check_links([here / name for name in _SMALL if (here / name).is_file()], allowed)
        files = weight_files(here, title_of(here))
    else:
        raise ExportError(
            f"There is no quantized checkpoint {str(here)!r}.",
            "Give a folder with config.json and safetensors weights, or a .gguf file.",
        )
    _check_links(files, allowed)
    return here, files


def _check_links(files: Sequence[Path], allowed: Sequence[Path]) -> None:
    """Refuse a file whose links lead out of the folders allowed, if there are any."""
    for file in files:
        if allowed and not within(file.resolve(), allowed):
            raise ExportError(
                f"{file.name} is a link that leads out of the folders this dashboard may read.",
                "Put the file itself there, or start with QUANTLENS_MODEL_ROOTS set to a folder that holds it.",
            )


def open_checkpoint(path: str, roots: Sequence[str] = ()) -> Quantized:
    """All that a checkpoint holds, without reading the matrices.

    Args:
        path: As for ``located``.
        roots: As for ``located``.

    Raises:
        ExportError: It is damaged, not quantized, or packed in a way that is not read here.
        ModelError: As for ``located``.
    """
    here, files = located(path, roots)
    if here.is_file():
        return gguf.read(files, title_of(here))
    config = read_json(here / "config.json")
    settings = config.get("quantization_config") or config.get("compression_config")
    if not settings and (here / "quantize_config.json").is_file():
        settings = {"quant_method": "gptq", **read_json(here / "quantize_config.json")}
    if not isinstance(settings, dict):
        raise ExportError(
            f"{title_of(here)} is not quantized: its config.json names no quantization.",
            "Open it as a model on Start.",
        )
    title, reader = _reader(settings, title_of(here))
    stored = Stored(here, files)
    if not all(map(is_name, stored.names)):
        raise ExportError(f"A tensor of {title_of(here)} has a name that no tensor has.", AGAIN)
    found = list(reader(stored, settings))
    held = [one for one in found if isinstance(one, Held)]
    unread = [one for one in found if isinstance(one, Unread)]
    taken = {name for one in found for name in one.parts}
    plain: dict[str, Callable[[], Tensor]] = {}
    plain_bits = 0
    for name in stored.names:
        if name in taken:
            continue
        shape, dtype = stored.shape(name), stored.dtype(name)
        if len(shape) == 2 and dtype in FLOATS and 0 not in shape:
            held.append(_plain(stored, name))
            continue
        plain_bits += stored.bits(name)
        if dtype in FLOATS:
            plain[name] = partial(stored.get, name, None, *shape)
        elif len(shape) >= 2:
            unread.append(Unread(name, f"Values of the dtype {dtype} are not read here.", (name,)))
    if not any(one.quantized for one in held) and not unread:
        raise ExportError(
            f"{title_of(here)} says it is quantized ({title}), and holds no quantized weight.",
            "Download it again, or open it as a model on Start.",
        )
    held.sort(key=lambda one: [(part.isdigit(), part.zfill(9)) for part in one.name.split(".")])
    return Quantized(
        title=title_of(here),
        method=title,
        held=tuple(held),
        unread=tuple(unread),
        plain=plain,
        plain_bits=plain_bits,
        bytes=sum(file.stat().st_size for file in files),
        config=config,
    )


def _reader(settings: Mapping[str, Any], title: str) -> tuple[str, Reader]:
    method = str(settings.get("quant_method") or ("gptq" if "bits" in settings else "")).lower()
    if method in ("auto-round", "intel/auto-round"):
        method = "awq" if "awq" in str(settings.get("packing_format")) else "gptq"
    if method not in _READERS:
        raise ExportError(
            f"{title} is quantized by {word(method) if method else 'an unnamed method'}, which is not read here.",
            f"Choose one of {', '.join(name for name, _ in _READERS.values())}, or GGUF.",
        )
    return _READERS[method]


def _plain(stored: Stored, name: str) -> Held:
    rows, columns = stored.shape(name)
    return Held(
        name=name,
        rows=rows,
        columns=columns,
        holds=_KINDS[stored.dtype(name)],
        bits=stored.bits(name),
        read=lambda start, stop: stored.rows(name, start, stop).float(),
        quantized=False,
        parts=(name,),
        by_rows=True,
    )


def title_of(here: Path) -> str:
    """What to call a checkpoint: its folder or file, or the hub's name of one in the hub's cache."""
    found = re.fullmatch(r"models--(.+?)--(.+)", here.parent.parent.name)
    return f"{found[1]}/{found[2]}" if found and here.parent.name == "snapshots" else here.name


def content_of(files: Sequence[Path], check: Callable[[], None]) -> str:
    """A 24-digit hash of every byte of some files; ``check`` is called now and then, and may raise."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                check()
                total.update(chunk)
    return total.hexdigest()[:24]
