"""The export job: check, write, read back, compare, and only then give the folder its name."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import torch
from torch import Tensor

from quant_core.errors import ExportError
from quant_core.export import EXPORTERS
from quant_core.export.base import Check, Exporter
from quant_core.export.source import Source
from quant_core.export.staging import listed, staged
from quant_core.jobs.context import Context
from quant_core.models.sources import check, locate, title_of
from quant_core.recipes import to_text
from quant_core.schema import Exported, ExportRequest
from quant_core.targets import find, problems

RECIPE = "quantlens-recipe.json"
"""The recipe, in the exported folder."""
_SEED = 20_260


def export(context: Context, request: ExportRequest) -> Exported:
    """Write a model under a recipe for a runtime, and compare what is read back with what was simulated.

    Raises:
        ExportError: The runtime cannot hold the recipe, or the folder cannot be written.
        ModelError: The model cannot be loaded, or changed.
        Cancelled: The job was stopped; nothing is left of it.
    """
    begun = time.monotonic()
    loaded = context.loaded(request.model, request.roots, request.fingerprint)
    found = problems(find(request.runtime), loaded.info, request.recipe)
    if found:
        first = found[0]
        about = f" ({len(first.units)} weights, {first.units[0]} the first)" if first.units else ""
        raise ExportError(
            f"{first.reason}{about}", "Solve for this runtime on the Recipe page, or choose another runtime."
        )
    exporter = EXPORTERS[request.runtime]
    checkpoint = check(locate(request.model, request.roots), title_of(request.model))
    source = Source(context, loaded, checkpoint, request.recipe)
    folder = Path(request.folder)
    kept = Sketches()
    with staged(folder, request.recipe.total_bytes) as stage:
        exporter.write(source, stage, kept)
        (stage / RECIPE).write_text(to_text(request.recipe, "json"), encoding="utf-8")
        context.check_cancelled()
        exact, error = kept.compare(exporter, stage)
        files = listed(stage)
    notes = (*exporter.notes(source), *source.notes)
    seconds = time.monotonic() - begun
    return Exported(request.runtime, str(folder), files, len(source.entries), exact, error, seconds, notes)


class Sketches(Check):
    """Matrices by a hash, which tells whether every bit is the same, and one random projection, which tells how far
    off it is otherwise.

    ``r = W v`` for a fixed random ``v`` of independent signs has ``E |r' - r|^2 = |W' - W|^2``, and a row that is
    wrong changes its own number (Johnson and Lindenstrauss 1984).
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[bytes, Tensor, tuple[int, ...]]] = {}

    def keep(self, name: str, matrix: Tensor) -> None:
        """Remember a matrix."""
        self._kept[name] = _hash(matrix), _project(matrix), tuple(matrix.shape)

    def compare(self, exporter: Exporter, folder: Path) -> tuple[int, float]:
        """How many matrices are read back exactly, and the largest relative error of one.

        Raises:
            ExportError: One is missing, has another shape, or is off by more than rounding to 16 bits explains.
        """
        waiting = dict(self._kept)
        exact, worst = 0, 0.0
        for name, matrix in exporter.read_back(folder):
            if name not in waiting:
                raise _defect(f"{name} was read back, but not written.")
            digest, projected, shape = waiting.pop(name)
            if tuple(matrix.shape) != shape:
                raise _defect(f"{name} was read back as {tuple(matrix.shape)}, not {shape}.")
            if _hash(matrix) == digest:
                exact += 1
                continue
            off = float((_project(matrix) - projected).norm()) / (float(projected.norm()) or 1.0)
            if not off <= TOLERANCE:
                raise _defect(f"{name} is off by {off:.1%} of what was simulated when it is read back.")
            worst = max(worst, off)
        if waiting:
            raise _defect(f"{next(iter(waiting))} was not found in what was written.")
        return exact, worst


def _defect(message: str) -> ExportError:
    return ExportError(message, "Nothing was kept. This is a defect: please report it.")


TOLERANCE = 2.0**-7
"""Largest relative error of a matrix whose scales or offsets a runtime keeps in 16 bits of another kind: bfloat16
rounds by 2^-9 at most, and a product of two by twice that."""


def _hash(matrix: Tensor) -> bytes:
    values = matrix.detach().float().cpu().contiguous() + 0.0  # minus zero is zero
    return hashlib.sha256(values.numpy().tobytes()).digest()


def _project(matrix: Tensor) -> Tensor:
    """(rows,) in float64."""
    generator = torch.Generator().manual_seed(_SEED + matrix.shape[1])
    signs = torch.randint(0, 2, (matrix.shape[1],), generator=generator) * 2.0 - 1.0
    return matrix.detach().cpu().double() @ signs.double()
