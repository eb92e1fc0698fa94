"""Keeping the score state of a sweep: when there is room, with anchors, and old ones deleted for new ones."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from quant_core.calibration.text import Tokens
from quant_core.models.layers import Slot
from quant_core.models.memory import free_memory
from quant_core.schema import SensitivityRequest
from quant_core.sensitivity.anchors import anchor
from quant_core.sensitivity.errors import RoundingErrors
from quant_core.sensitivity.factors import ROWS, WIDE, cost
from quant_core.sensitivity.state import StateHead, UnitState, pack, write_state
from quant_core.sensitivity.sums import StateSums

ROOM = 2_000_000_000
"""Bytes that states may take together; the one just written stays whatever it takes."""
_SHARE = 0.25
"""Share of the free memory and of the free disk that a state may take."""


def too_large(slots: Sequence[Slot], folder: Path) -> str:
    """Why no state of these units can be kept, one sentence; empty if it can."""
    values = sum(_side(slot.unit.rows) + _side(slot.unit.columns) for slot in slots)
    memory = free_memory(slots[0].parameter.device)
    disk = shutil.disk_usage(folder).free
    if 4 * values <= _SHARE * memory and 2 * values <= _SHARE * disk:
        return ""
    return (
        f"No score state was kept, so that new formats need a sweep: it takes about {4 * values / 1e9:.1f} GB of "
        f"memory and {2 * values / 1e9:.1f} GB of disk, and a quarter of what is free ({memory / 1e9:.1f} and "
        f"{disk / 1e9:.1f} GB) is less."
    )


def _side(width: int) -> int:
    return width * (width if width <= WIDE else ROWS)


def keep_state(
    folder: Path,
    request: SensitivityRequest,
    searched: str,
    tokens: Tokens,
    learned: Tokens,
    slots: Sequence[Slot],
    errors: RoundingErrors,
    sums: StateSums,
    exact: Tensor,
    stderr: Tensor,
    signal: Sequence[float],
) -> str:
    """Write the state of a pass and return its key.

    Args:
        folder: Where states are.
        request: What was asked.
        searched: The format that rewrites which search took every decided unit to be in.
        tokens: The text that was scored.
        learned: The text that rewrites and rounding methods learned from.
        slots: The units.
        errors: Their rounding errors by format.
        sums: What was added up.
        exact: Per-token scores, (units, formats).
        stderr: Their standard errors, (units, formats).
        signal: Mean |W x|^2 of each unit.

    Raises:
        QuantError: The disk does not take it.
    """
    tensors: dict[str, Tensor] = {"tokens": tokens.ids.int(), "learned": learned.ids.int()}
    roots = {source: sums.input_root(source) for source in sums.inputs}
    for source, kept in sums.inputs.items():
        count = kept.moment.count
        parts = {"mean_abs": kept.mean_abs / count, "largest": kept.largest}
        tensors |= {f"{source}|{part}": values for part, values in parts.items()}
        tensors |= {f"{source}|samples": kept.rows(), f"{source}|root": pack(roots[source])}
    units = {}
    for row, slot in enumerate(slots):
        name, unit = slot.unit.name, slot.unit
        source = sums.source.get(name, "")
        source = source if source in roots else ""
        inputs = roots[source] if source else torch.zeros(0, unit.columns, device=slot.parameter.device)
        terms = sums.terms(name)
        for place, term in enumerate(terms):
            tensors[f"{name}|{place}|left"] = pack(term.left)
            if term.right is not None:
                tensors[f"{name}|{place}|right"] = pack(term.right)
        factored = [cost(errors.of(slot, form).float(), terms, inputs).score for form in errors.formats]
        units[name] = UnitState(
            unit,
            source,
            tuple(term.right is not None for term in terms),
            sums.looked_up(name),
            signal[row],
            anchor(exact[row].tolist(), stderr[row].tolist(), factored),
        )
    head = StateHead(
        request.fingerprint,
        str(slots[0].parameter.dtype).removeprefix("torch."),
        request.setup.transforms,
        searched,
        tokens.text_hash,
        tokens.label,
        request.seed,
        units,
        {source: kept.moment.count for source, kept in sums.inputs.items()},
    )
    key = write_state(folder, head, tensors)
    prune(folder)
    return key


def prune(folder: Path, room: int = ROOM) -> None:
    """Delete the states used longest ago until the rest takes ``room`` bytes at most; the newest stays."""
    states = sorted(folder.glob("state-*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
    taken = 0
    for place, path in enumerate(states):
        taken += path.stat().st_size
        if place and taken > room:
            path.unlink(missing_ok=True)
