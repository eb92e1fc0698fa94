"""The command that reads statistics of a checkpoint's weights, without loading the model."""

from __future__ import annotations

import argparse

from quant_core import schema
from quant_core.cli.terminal import number, say, say_json, say_table, warn
from quant_core.cli.work import run
from quant_core.schema import ModelRef, WeightStatistics
from quant_core.workspace import Workspace


def weights(workspace: Workspace, options: argparse.Namespace) -> int:
    """Read every weight from the files and say how its values are spread."""
    request = workspace.weights_request(ModelRef(options.model, options.revision))
    found: WeightStatistics = run(workspace, request)
    if options.json:
        say_json({"model": options.model} | schema.dump(found))
        return 0
    say(
        f"{found.title}: {len(found.units)} weights, {found.bytes / 1e9:.2f} GB read in {found.seconds:.1f} s"
    )
    rows = [
        (
            each.unit.name,
            f"{each.unit.rows} x {each.unit.columns}",
            number(each.minimum),
            number(each.maximum),
            number(each.standard_deviation),
            f"{each.kurtosis:+.2f}",
            f"{each.outlier_share:.4%}",
            f"{each.row_spread:.2f}",
            f"{each.column_spread:.2f}",
        )
        for each in found.units
    ]
    say_table(("weight", "shape", "min", "max", "std", "kurtosis", "outliers", "outputs", "inputs"), rows)
    say(
        "outliers: beyond 4 standard deviations; kurtosis: 0 for a normal distribution; outputs, inputs: the largest"
    )
    say("|w| of a row or column over its median")
    for each in found.units:
        if each.not_finite:
            warn(f"{each.unit.name} holds {each.not_finite:,} infinite or undefined values, left out above.")
    if found.unread:
        warn(
            f"{len(found.unread)} weights are stored in another form than they are used in and were not read, "
            f"such as {found.unread[0]}."
        )
    return 0
