"""Saying what a quantized checkpoint of another program holds, beside the model that it was made from."""

from __future__ import annotations

import argparse
from pathlib import Path

from quant_core import schema
from quant_core.cli.terminal import number, say, say_json, say_table, warn
from quant_core.cli.work import run
from quant_core.schema import ModelInfo, ModelRef, QuantizedCheckpoint
from quant_core.workspace import Workspace

_SHOWN = 20


def bring_in(workspace: Workspace, options: argparse.Namespace) -> int:
    """Read a checkpoint weight by weight, and compare it with the original if one is named."""
    info: ModelInfo | None = None
    if options.against:
        info = run(workspace, workspace.inspect_request(ModelRef(options.against, options.revision)))
    found: QuantizedCheckpoint = run(workspace, workspace.import_request(str(options.path), info))
    if options.json:
        say_json({"path": str(Path(options.path).absolute())} | schema.dump(found))
        return 0
    say(f"{found.title}: {found.method}, {found.bytes / 1e6:.2f} MB, read in {found.seconds:.1f} s")
    say(
        f"{len(found.quantized):,} of {len(found.weights):,} weights quantized, {found.bits_per_weight:.2f} bits each"
    )
    if found.error is not None:
        say(f"error against {found.original}: {found.error:.4g} of the weights' size")
    rows = [
        (
            each.name,
            f"{each.rows} x {each.columns}",
            each.holds,
            f"{each.bits_per_weight:.2f}",
            "" if each.error is None else number(each.error),
            "" if each.sqnr_db is None else f"{each.sqnr_db:.1f}",
        )
        for each in found.weights
    ]
    say_table(("weight", "shape", "holds", "bits", "error", "SQNR (dB)"), rows)
    for note in found.notes:
        say(f"Note: {note}")
    for one in found.unmatched[:_SHOWN]:
        warn(f"{one.name}: {one.reason}")
    if len(found.unmatched) > _SHOWN:
        warn(f"and {len(found.unmatched) - _SHOWN:,} more without a counterpart; --json lists all.")
    return 0
