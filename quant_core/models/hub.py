"""Two jobs for models on the Hugging Face hub: look before anything is downloaded, and download.

huggingface_hub downloads a file to a name of its own each time and removes it when it fails, so that a download that
was stopped begins anew. Here the contents are fetched first, from where they were left (HTTP range requests, RFC 9110
section 14), and checked by their hash; huggingface_hub then finds them in its cache and links them into place.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, get_session, hf_hub_url, snapshot_download
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_raise_for_status
from huggingface_hub.utils._paths import filter_repo_objects

from quant_core.errors import ModelError
from quant_core.hub_files import blob, bytes_here, part
from quant_core.jobs.context import Context
from quant_core.models.sources import DOWNLOADED, hub_errors, pickles_only
from quant_core.schema import Downloaded, DownloadRequest, HubFile, HubModel, LookRequest

SECONDS = 10.0
"""How long to wait for the hub before it counts as out of reach."""
POLL = 0.1
"""Seconds between two looks at a download, and at whether it was cancelled."""
ATTEMPTS = 5
"""How often in a row a connection may break before anything came through it."""


def look(context: Context, request: LookRequest) -> HubModel:
    """What the hub says of a model.

    Raises:
        ModelError: There is no such model or revision, access is restricted, or the hub cannot be reached.
    """
    context.progress(0.0, "Asking the hub")
    with hub_errors(request.source, request.revision):
        found = HfApi().model_info(
            request.source, revision=request.revision or None, files_metadata=True, timeout=SECONDS
        )
    siblings = found.siblings or []
    wanted = set(filter_repo_objects([each.rfilename for each in siblings], allow_patterns=DOWNLOADED))
    files = [
        HubFile(each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else each.blob_id or "")
        for each in siblings
        if each.rfilename in wanted
    ]
    card = found.card_data
    tags = (tag.removeprefix("license:") for tag in found.tags or () if tag.startswith("license:"))
    return HubModel(
        source=request.source,
        commit=found.sha or "",
        files=tuple(files),
        parameters=dict(found.safetensors.parameters) if found.safetensors else {},
        licence=str((card.license if card else None) or next(tags, "")),
        gated=bool(found.gated),
        problem=_problem(request.source, files, [each.rfilename for each in siblings], found.config or {}),
    )


def _problem(source: str, files: list[HubFile], names: list[str], config: dict[str, object]) -> str:
    if not any(file.name.endswith(".safetensors") for file in files):
        return str(pickles_only(source, names))
    if "quantization_config" in config:
        return f"{source} is already quantized. Choose the original checkpoint, in 16 or 32 bits."
    return ""


def download(context: Context, request: DownloadRequest) -> Downloaded:
    """Fetch what is not in the cache yet.

    Raises:
        ModelError: The disk is too small, access is restricted, the connection keeps breaking, or a file is not what
            the hub says it is.
        Cancelled: The job was stopped; what came through is kept for its next start.
    """
    total = max(sum(file.bytes for file in request.files), 1)
    missing = [file for file in request.files if not blob(request.source, file).exists()]
    _check_room(request, total)

    def report() -> None:
        here = bytes_here(request.source, request.files)
        context.progress(here / total, f"{_size(here)} of {_size(total)}")

    with hub_errors(request.source, request.revision):
        for file in missing:
            _fetch(request, file, report)
        report()
        snapshot_download(request.source, revision=request.revision or None, allow_patterns=DOWNLOADED)
    return Downloaded(request.source, request.commit, total)


def _check_room(request: DownloadRequest, total: int) -> None:
    needed = total - bytes_here(request.source, request.files)
    folder = blob(request.source, request.files[0]).parent
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ModelError(
            f"{request.source} needs {_size(needed)} more on the disk, and {_size(free)} are free.",
            f"Free some space under {folder.parents[1]}, or set HF_HOME to another disk.",
        )


def _fetch(request: DownloadRequest, file: HubFile, report: Callable[[], None]) -> None:
    """Fetch one file's content, going on behind what is there; a connection that breaks is made anew."""
    growing = part(request.source, file)
    url = hf_hub_url(request.source, file.name, revision=request.commit)
    broken = 0
    while not growing.exists() or growing.stat().st_size < file.bytes:
        before = growing.stat().st_size if growing.exists() else 0
        try:
            _watched(url, growing, report)
        except httpx2.TransportError as error:
            broken = broken + 1 if growing.stat().st_size == before else 0
            if broken == ATTEMPTS:
                raise ModelError(
                    f"The connection to the hub broke {ATTEMPTS} times while {file.name} was downloaded.",
                    "What is there is kept: start the download again to go on.",
                ) from error
        if growing.stat().st_size == before:
            time.sleep(POLL)
    if _hash(growing, file) != file.blob:
        growing.unlink()
        raise ModelError(
            f"{file.name} of {request.source} is not what the hub says it is.", "Download it again."
        )
    growing.replace(blob(request.source, file))


def _watched(url: str, growing: Path, report: Callable[[], None]) -> None:
    """Stream into a file, beside which progress is told and a cancelled job left at once, even where nothing comes."""
    stop, done = threading.Event(), Future[None]()

    def work() -> None:
        try:
            _stream(url, growing, stop)
        except Exception as error:  # noqa: BLE001  it is raised by done.result() below
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=work, daemon=True).start()
    try:
        while not done.done():
            report()
            time.sleep(POLL)
    finally:
        stop.set()
    done.result()


def _stream(url: str, growing: Path, stop: threading.Event) -> None:
    """Append what is missing; a server that gives the whole file has it begun anew."""
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    with growing.open("ab", buffering=0) as file:
        if file.tell():
            headers["Range"] = f"bytes={file.tell()}-"
        with get_session().stream(
            "GET", url, headers=headers, follow_redirects=True, timeout=SECONDS
        ) as response:
            hf_raise_for_status(response)
            if response.status_code != 206:
                file.truncate(0)
            for chunk in response.iter_raw():
                if stop.is_set():
                    return
                file.write(chunk)


def _hash(path: Path, file: HubFile) -> str:
    """The name of a file's content: SHA-256 for large files, git's SHA-1 of a blob for small ones."""
    found = hashlib.sha256() if len(file.blob) == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
