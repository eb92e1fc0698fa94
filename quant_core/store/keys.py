"""Content keys: two requests with the same key have the same answer, whoever asked and wherever it ran."""

from __future__ import annotations

import glob
import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from quant_core.errors import TextError
from quant_core.schema import (
    CatalogRequest,
    DownloadRequest,
    ImportRequest,
    InspectRequest,
    LookRequest,
    Request,
    RuntimeSpeedRequest,
    SpeedRequest,
    WeightsRequest,
    digest,
    dump,
)
from quant_core.store.kinds import kind_of
from quant_core.store.place import code_version

METRIC_VERSION = 2
"""To be raised when the same request has a new answer because a method or a metric changed."""

ASSETS = Path(__file__).resolve().parents[2] / "assets"
TEXTS = ASSETS / "texts"


def request_key(request: Request) -> str:
    """The key under which the answer to ``request`` is stored.

    How it runs (the device, the folders a model may lie in) is left out, and so is where the model is, since
    the fingerprint says what it is (what is timed keeps the device).
    What is asked before there is one keeps all of that: opening a model, whose
    answer is where the fingerprint comes from, and reading its files. Bundled texts count by content. Two variants
    have the key that they had before there could be a third.
    """
    kind = kind_of(request).name
    if isinstance(request, CatalogRequest):  # its answer is the program itself
        return digest({"kind": kind, "code": code_version()})
    data: dict[str, Any] = dump(request)
    if isinstance(request, ImportRequest):  # its files are known by names, sizes and times
        del data["roots"], data["checkpoint"]
        data["model"] = None if request.model is None else ""
    elif not isinstance(request, InspectRequest | WeightsRequest | LookRequest | DownloadRequest):
        del data["roots"]
        timed = isinstance(request, SpeedRequest | RuntimeSpeedRequest)
        kept = ("dtype", "device") if timed else ("dtype",)
        data["model"] = {name: data["model"][name] for name in kept}
    if isinstance(request, RuntimeSpeedRequest):  # what is run, not where it lies or how it came about
        del data["export"], data["original"]
        data |= {"assignment": request.assignment, "setup": dump(request.setup)}
    if data.get("other", ...) is None:
        del data["other"], data["other_setup"]
    variants = data.get("variants", ())
    for variant in variants:
        del variant["label"]
        _without_path(variant, "checkpoint")
    if "other_checkpoint" in data:
        _without_path(data, "other_checkpoint")
    learned = [one["setup"]["calibration"]["text"] for one in variants]
    learned += [data[name]["calibration"]["text"] for name in ("setup", "other_setup") if name in data]
    for text in (data.get("text"), data.get("held_out"), *learned):
        if text:
            del text["label"]
            if text["kind"] in ("calibration", "evaluation"):
                text["sha256"] = _bundled_text(text["kind"])
    return digest({"kind": kind, "version": METRIC_VERSION, "request": data})


def _without_path(data: dict[str, Any], name: str) -> None:
    """Take out where a quantized checkpoint is; without one the key is what it was before there could be one."""
    if data[name] is None:
        del data[name]
    else:
        del data[name]["path"]


def folder_signature(source: str) -> str:
    """Names, sizes and times of the files in a model's folder as one hash; empty for what is no readable folder."""
    folder = ASSETS / "demo-model" if source == "bundled" else Path(source)
    try:
        if not folder.is_absolute() or not folder.is_dir():
            return ""
        files = sorted((path.name, path.stat()) for path in folder.iterdir() if path.is_file())
    except OSError:
        return ""
    return digest([[name, status.st_size, status.st_mtime_ns] for name, status in files])


def checkpoint_signature(path: Path) -> str:
    """As ``folder_signature``, also of a single file: of all its parts, where it is one of several."""
    if path.is_dir():
        return folder_signature(str(path))
    parts = re.sub(r"-\d{5}-of-", "-*-of-", glob.escape(path.name))
    try:
        files = sorted((part.name, part.stat()) for part in path.parent.glob(parts))
    except OSError:
        return ""
    return digest([[name, status.st_size, status.st_mtime_ns] for name, status in files]) if files else ""


def _bundled_text(name: str) -> str:
    path = TEXTS / f"{name}.txt"
    try:
        status = path.stat()
    except OSError as error:
        raise TextError(f"The bundled text {path.name} is missing.", "Install QuantLens again.") from error
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _sha256(path: Path, size: int, changed: int) -> str:
    """The hash of a file; ``size`` and ``changed`` are there so that an edited file is read again."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
