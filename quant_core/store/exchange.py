"""Runs as one file, out and in.

The file is a zip: ``quantlens.json`` lists every other entry with its size and SHA-256; ``runs/KEY.json`` holds what
was asked, the answer, what it was made with, the note and the blind votes; ``models/FINGERPRINT.json`` what the model
is; ``arrays/...`` the safetensors files that answers name, stored without compression.

What comes in may have been made to do harm. Names are of a strict pattern, or the file is refused; sizes are known
before an entry is read, and no more is read than that; JSON goes through the schema; a run's key must be that of its
request, so that no request finds a false answer; an array's key must be the hash of its content. Nothing is stored
before all of it has been checked.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from quant_core import served
from quant_core.errors import QuantError
from quant_core.schema import (
    Check,
    CheckRequest,
    ChoiceScores,
    ChoicesRequest,
    Endpoint,
    Evaluation,
    Generation,
    Imported,
    KlTails,
    ModelInfo,
    Origin,
    PromptsRequest,
    PromptTexts,
    Proof,
    ProveRequest,
    QuantizedCheckpoint,
    Request,
    Result,
    Run,
    RuntimeSpeedRequest,
    RuntimeSpeeds,
    ScoreTable,
    ServedRequest,
    ServedText,
    SpeedRequest,
    Speeds,
    Training,
    digest,
    dump,
    load,
    replace,
)
from quant_core.store.keys import request_key
from quant_core.store.kinds import fingerprint_of, load_request, load_result, without_paths
from quant_core.store.results import ResultTable
from quant_core.store.runs import KINDS as RUN_KINDS
from quant_core.store.runs import LONGEST_NOTE, RunTable, line_of
from quant_core.store.votes import Vote, VoteTable

VERSION = 2
"""Of the file's layout; version 1 had no votes, and is read too."""
MOST_ENTRIES = 1000
MOST_JSON = 64_000_000
"""Bytes of one JSON entry."""
MOST_JSON_ALTOGETHER = 256_000_000
MOST_HEAD = 100_000_000
"""Bytes of the head of an array's file."""

_LIST = "quantlens.json"
_RUN = re.compile(r"runs/([0-9a-f]{24})\.json")
_MODEL = re.compile(r"models/([0-9a-f]{24})\.json")
_ARRAY = re.compile(r"arrays/((?:state|trained)-([0-9a-f]{24})\.safetensors)")
_LINK = re.compile(r"\][(\[]|^\s*\[[^\]]*\]:", re.MULTILINE)
"""A link or a picture of Markdown, or where one leads."""
_VOTER = re.compile(r"[\w-]{1,64}")
_CHUNK = 1 << 20
_KINDS = (*RUN_KINDS, "rescore")
_REMEDY = "Export it anew, and import the file as it is."


@dataclass(frozen=True)
class _Entry:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class _List:
    """What ``quantlens.json`` holds."""

    version: int
    entries: dict[str, _Entry]


@dataclass(frozen=True)
class _PackedRun:
    """What an entry of ``runs/`` holds."""

    kind: str
    created: float
    note: str
    request: Any
    result: Any
    origin: Origin | None
    votes: tuple[Vote, ...] = ()


# --- out


def write_runs(
    file: BinaryIO,
    runs: Sequence[tuple[Run, Request]],
    models: Sequence[ModelInfo],
    arrays: Sequence[Path],
    votes: Mapping[str, Sequence[Vote]],
) -> None:
    """Write runs, each with its request as it may be handed on and the votes under its key, with models and arrays.

    Raises:
        QuantError: The file cannot be written, or an array is gone.
    """
    texts = {f"models/{info.fingerprint}.json": dump(info) for info in models}
    for run, request in runs:
        given = tuple(votes.get(run.key, ()))
        packed = _PackedRun(
            run.kind, run.created, run.note, dump(request), dump(run.result), run.origin, given
        )
        texts[f"runs/{run.key}.json"] = dump(packed)
    entries: dict[str, _Entry] = {}
    try:
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in texts.items():
                content = json.dumps(data).encode()
                entries[name] = _Entry(len(content), hashlib.sha256(content).hexdigest())
                archive.writestr(name, content, zipfile.ZIP_DEFLATED)
            for path in arrays:
                with path.open("rb") as content_file:
                    hashed = hashlib.file_digest(content_file, "sha256").hexdigest()
                entries[f"arrays/{path.name}"] = _Entry(path.stat().st_size, hashed)
                archive.write(path, f"arrays/{path.name}", zipfile.ZIP_STORED)
            archive.writestr(_LIST, json.dumps(dump(_List(VERSION, entries))), zipfile.ZIP_DEFLATED)
    except OSError as error:
        raise QuantError(f"The runs cannot be written: {error.strerror}.", "Choose another place.") from error


# --- in


def read_runs(
    file: BinaryIO, results: ResultTable, runs: RunTable, votes: VoteTable, is_format: Callable[[str], bool]
) -> Imported:
    """Store the runs and votes that a file holds and that are not here yet; what is here stays as it is.

    Args:
        file: The zip file.
        results: Where answers go.
        runs: Where the rest goes.
        votes: Where blind votes go, those on runs that are here already too.
        is_format: Whether a text is the full name of a number format.

    Raises:
        QuantError: The file is none that ``write_runs`` wrote, damaged, too large, or of another version. Then nothing
            was stored.
    """
    with _plain_errors(), zipfile.ZipFile(file) as archive:
        infos, listed = _contents(archive)
        texts = {name: _json(archive, infos[name], listed) for name in infos if not _ARRAY.fullmatch(name)}
        found = [_run(match[1], texts[name]) for name in texts if (match := _RUN.fullmatch(name))]
        for run, *_ in found:
            _check_words(run, is_format)
        models = [_model(match[1], texts[name]) for name in texts if (match := _MODEL.fullmatch(name))]
        if not found:
            raise QuantError("The file holds no run.", _REMEDY)
        arrays = [name for name in infos if _ARRAY.fullmatch(name)]
        _check_named(arrays, [run for run, *_ in found])
        known = {run.key for run, *_ in found if results.get(run.key) is not None}
        parts = _unpack(archive, [infos[name] for name in arrays], listed, runs.folder)
    try:
        with runs.transaction():
            fresh = 0
            for run, request, given in found:
                if run.key not in known:
                    results.put(request, run.result, run.key, run.origin, run.created)
                    runs.set_note(run.key, run.note)
                fresh += votes.bring(run.key, given)
            for info in models:
                if runs.model(info.fingerprint) is None:
                    runs.put_model(info)
        for part, path in parts:
            part.replace(path)
    finally:
        for part, _ in parts:
            part.unlink(missing_ok=True)
    shown = [run for run, *_ in found if run.kind != "rescore"]
    return Imported(
        tuple(line_of(run).title for run in shown if run.key not in known),
        tuple(run.key for run in shown),
        fresh,
    )


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise QuantError("The file is no zip file, or it is damaged.", _REMEDY) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise QuantError("The file holds something that QuantLens did not write.", _REMEDY) from error


def _contents(archive: zipfile.ZipFile) -> tuple[dict[str, zipfile.ZipInfo], dict[str, _Entry]]:
    """The entries and what the list says of them; all that can be said without reading an entry is checked here."""
    infos = {info.filename: info for info in archive.infolist()}
    if len(infos) != len(archive.infolist()) or len(infos) > MOST_ENTRIES:
        raise QuantError("The file has an entry twice, or more entries than runs have.", _REMEDY)
    text = 0
    for name, info in infos.items():
        array = _ARRAY.fullmatch(name)
        if not (array or name == _LIST or _RUN.fullmatch(name) or _MODEL.fullmatch(name)):
            raise QuantError(f"The file has an entry {name[:80]!r}, which no export has.", _REMEDY)
        allowed = (zipfile.ZIP_STORED,) if array else (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        if info.flag_bits & 0x1 or info.compress_type not in allowed:
            raise QuantError(f"{name} is encrypted or compressed in a way that no export is.", _REMEDY)
        text += 0 if array else info.file_size
        if not array and (info.file_size > MOST_JSON or text > MOST_JSON_ALTOGETHER):
            raise QuantError(f"{name} is larger than any run.", "Export fewer runs at once.")
    if _LIST not in infos:
        raise QuantError(
            f"The file has no {_LIST} and is no export of runs.", "Choose a file that QuantLens exported."
        )
    data = json.loads(_read(archive, infos[_LIST]))
    if not isinstance(data, dict) or data.get("version") not in (1, VERSION):
        raise QuantError(
            "The file was written by another version of QuantLens.",
            f"This one reads such files up to version {VERSION}.",
        )
    listed = load(_List, data).entries
    if set(listed) != set(infos) - {_LIST}:
        raise QuantError("The file's list does not match what it holds.", _REMEDY)
    for name, entry in listed.items():
        if entry.bytes != infos[name].file_size:
            raise QuantError(f"{name} has another size than the file's list says.", _REMEDY)
    return infos, listed


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """An entry of the size it is said to have."""
    with archive.open(info) as file:
        content = file.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise zipfile.BadZipFile(info.filename)
    return content


def _json(archive: zipfile.ZipFile, info: zipfile.ZipInfo, listed: dict[str, _Entry]) -> Any:
    content = _read(archive, info)
    if info.filename != _LIST:
        _same(hashlib.sha256(content).hexdigest(), listed[info.filename].sha256, info.filename)
    return json.loads(content)


def _same(found: str, said: str, name: str) -> None:
    if found != said:
        raise QuantError(f"{name} was changed after it was exported: its digest is another.", _REMEDY)


def _run(key: str, data: Any) -> tuple[Run, Request, tuple[Vote, ...]]:
    """The run of one entry with its votes, checked against its own request."""
    packed = load(_PackedRun, data)
    if packed.kind not in _KINDS:
        raise QuantError(f"Run {key} is of an unknown kind.", _REMEDY)
    if len(packed.note) > LONGEST_NOTE or not math.isfinite(packed.created):
        raise QuantError(f"Run {key} has a note or a date that no run has.", _REMEDY)
    request, result = load_request(packed.kind, packed.request), load_result(packed.kind, packed.result)
    request = without_paths(replace(request, roots=()))
    if request_key(request) != key:
        raise QuantError(
            f"Run {key} does not answer the request it comes with, as this version of QuantLens reads it.",
            "Export it with the same version; one that was changed by hand cannot be imported.",
        )
    if not _answers(request, result):
        raise QuantError(f"The answer of run {key} does not fit what was asked.", _REMEDY)
    if not _are_votes(packed.votes, request):
        raise QuantError(f"The votes on run {key} are of prompts that it has not, or twice there.", _REMEDY)
    created = min(max(packed.created, 0.0), time.time())
    fingerprint = fingerprint_of(request)
    run = Run(key, packed.kind, fingerprint, created, request, result, packed.origin, packed.note)
    return run, request, packed.votes


def _are_votes(votes: Sequence[Vote], request: Request) -> bool:
    """Whether each is of a voter on one of the prompts, and no voter is twice on one."""
    prompts = range(len(request.prompts) if isinstance(request, PromptsRequest) else 0)
    places = {(vote.voter, vote.prompt) for vote in votes}
    fit = all(vote.prompt in prompts and _VOTER.fullmatch(vote.voter) for vote in votes)
    return fit and len(places) == len(votes)


def _check_words(run: Run, is_format: Callable[[str], bool]) -> None:
    """Formats must be known, and what pages show as Markdown must not lead elsewhere."""
    labels = (spec.label for spec in getattr(run.request, "variants", ()))
    told = (getattr(run.result, "text_label", ""), *getattr(run.result, "notes", ()), *labels)
    if any(_LINK.search(text) for text in told):
        raise QuantError(f"Run {run.key} has a link in its words, as no run of QuantLens does.", _REMEDY)
    one = getattr(run.request, "assignment", None) or {}
    variants = [spec.assignment for spec in getattr(run.request, "variants", ())]
    assignments = (
        one,
        *variants,
        *getattr(run.request, "assignments", ()),
        getattr(run.result, "assignment", {}),
    )
    names = {name for each in assignments for name in each.values()}
    names |= {*getattr(run.request, "formats", ()), *getattr(run.result, "formats", ())}
    for name in sorted(names):
        if not is_format(name):
            raise QuantError(
                f"Run {run.key} is about {name[:80]!r}, which is no number format here.",
                "Update QuantLens, or check where the file comes from.",
            )


def _answers(request: Request, result: Result) -> bool:
    """Whether an answer has the shape that its request asks for, so that no page stumbles over it."""
    if getattr(result, "fingerprint", fingerprint_of(request)) != fingerprint_of(request):
        return False
    match result:
        case ScoreTable():
            optional = (result.weight, result.output, result.fisher, result.fisher_stderr, result.measured,
                        result.measured_stderr)  # fmt: skip
            shape = [len(result.formats)] * len(result.units)
            tables = [result.storage_bits, result.padded, *filter(None, optional)]
            return all([len(row) for row in table] == shape for table in tables) and bool(result.units)
        case Proof():
            count = len(request.assignments) if isinstance(request, ProveRequest) else -1
            return (
                len(result.kl) == count and len({len(row) for row in result.kl}) == 1 and bool(result.kl[0])
            )
        case Generation():
            return -1 <= result.divergence <= len(result.original)
        case PromptTexts():
            return isinstance(request, PromptsRequest) and len(result.texts) == len(request.prompts)
        case ChoiceScores():
            asked = request.questions if isinstance(request, ChoicesRequest) else ()
            sizes = [len(question.choices) for question in asked]
            return all([len(row) for row in table] == sizes for table in (result.original, result.recipe))
        case QuantizedCheckpoint():
            sizes = [size for one in result.weights for size in (one.rows, one.columns, one.bits)]
            return bool(result.weights) and min(sizes) > 0
        case KlTails():
            return len(result.counts) == len(result.edges) - 1
        case Check():
            numbers = (dump(result.approved).values(), dump(result.original).values())
            return isinstance(request, CheckRequest) and _checked(request.endpoint) and _all_finite(*numbers)
        case ServedText():
            return isinstance(request, ServedRequest) and _checked(request.endpoint)
        case Speeds():
            return isinstance(request, SpeedRequest) and len(result.variants) == len(request.variants)
        case RuntimeSpeeds():
            return isinstance(request, RuntimeSpeedRequest) and result.runtime == request.runtime
        case _:
            return isinstance(result, Evaluation | Training)


def _checked(endpoint: Endpoint) -> bool:
    """Whether an endpoint is one that a page would take."""
    try:
        return served.endpoint(endpoint.address, endpoint.model, endpoint.key) == endpoint
    except QuantError:
        return False


def _all_finite(*rows: Iterable[float]) -> bool:
    return all(math.isfinite(value) for row in rows for value in row)


def _model(fingerprint: str, data: Any) -> ModelInfo:
    info = load(ModelInfo, data)
    if info.fingerprint != fingerprint:
        raise QuantError(f"The description of model {fingerprint} is of another model.", _REMEDY)
    return info


# --- arrays


def _check_named(arrays: Sequence[str], runs: Sequence[Run]) -> None:
    named = set()
    for run in runs:
        if isinstance(run.result, ScoreTable):
            named.add(f"arrays/state-{run.result.state}.safetensors")
        elif isinstance(run.result, Training):
            named.add(f"arrays/trained-{run.result.key}.safetensors")
    for name in arrays:
        if name not in named:
            raise QuantError(f"{name} belongs to no run in the file.", _REMEDY)


def _unpack(
    archive: zipfile.ZipFile, infos: Sequence[zipfile.ZipInfo], listed: dict[str, _Entry], folder: Path
) -> list[tuple[Path, Path]]:
    """Arrays that are not here yet, under other names first: (where it is, where it belongs)."""
    wanted = [info for info in infos if not (folder / Path(info.filename).name).exists()]
    if not wanted:
        return []
    folder.mkdir(exist_ok=True)
    size = sum(info.file_size for info in wanted)
    if size > shutil.disk_usage(folder).free:
        raise QuantError(
            f"The arrays take {size / 1e6:,.0f} MB, more than the disk has room for.", "Free some disk."
        )
    parts: list[tuple[Path, Path]] = []
    try:
        for info in wanted:
            path = folder / Path(info.filename).name
            part = path.with_name(f"{path.name}.import.part")
            parts.append((part, path))
            _copy(archive, info, listed[info.filename], part)
            _same(_content_key(part), path.stem.partition("-")[2], info.filename)
    except BaseException as error:
        for part, _ in parts:
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise QuantError(f"The arrays cannot be stored: {error.strerror}.", "Free some disk.") from error
        raise
    return parts


def _copy(archive: zipfile.ZipFile, info: zipfile.ZipInfo, entry: _Entry, part: Path) -> None:
    hashed = hashlib.sha256()
    left = entry.bytes
    with archive.open(info) as source, part.open("wb") as target:
        while chunk := source.read(min(_CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                break
            hashed.update(chunk)
            target.write(chunk)
    if left:
        raise zipfile.BadZipFile(info.filename)
    _same(hashed.hexdigest(), entry.sha256, info.filename)


def _content_key(path: Path) -> str:
    """What an array's file is named by: the hash of the JSON in its head and of its tensors' bytes.

    Read without torch: eight bytes with the size of the head, the head as JSON, and the tensors at the places it names
    (https://huggingface.co/docs/safetensors). ``ValueError`` for what is no such file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MOST_HEAD, size - 8):
            raise ValueError("no head")
        head = json.loads(file.read(length))
        told = json.loads(head.pop("__metadata__", {}).get("quantlens", "null"))
        if sum(end - start for start, end in (tensor["data_offsets"] for tensor in head.values())) > size:
            raise ValueError("tensors overlap")
        hashes = {}
        for name, tensor in head.items():
            start, end = tensor["data_offsets"]
            if not 0 <= start <= end <= size - 8 - length:
                raise ValueError("a tensor lies outside the file")
            file.seek(8 + length + start)
            hashes[name] = _hash(file, end - start)
    return digest({"head": told, "tensors": hashes})


def _hash(file: BinaryIO, count: int) -> str:
    hashed = hashlib.sha256()
    while count:
        chunk = file.read(min(_CHUNK, count))
        if not chunk:
            raise ValueError("the file ends early")
        hashed.update(chunk)
        count -= len(chunk)
    return hashed.hexdigest()
