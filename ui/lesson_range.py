"""What the lesson on the range draws: the grid over the weights, and both errors over the share that it covers."""

from __future__ import annotations

import plotly.graph_objects as go

from quant_core import plots
from quant_core.schema import ClipSweep
from ui import lesson, state, theme, words

COVERED = state.integer_param("covered", "the share of the range that is covered", 100, 10, 100)


def chosen(found: ClipSweep) -> int:
    """The place of the share that the reader chose."""
    return [round(100 * share) for share in found.shares].index(COVERED.get())


def energy(found: ClipSweep, error: float) -> float:
    """A mean squared error in percent of the weights' mean square; 0 where all weights are."""
    return 100 * error / found.mean_square if found.mean_square else 0.0


def total(found: ClipSweep, place: int) -> float:
    """Rounding and clipping error together, in percent of the weights' energy."""
    return energy(found, found.rounding[place] + found.clipping[place])


def grid(found: ClipSweep, place: int) -> go.Figure:
    """The histogram of the weights with the grid of a share over it."""
    bars, values = plots.bars(found.weights), found.grids[place]
    drawn = plots.FormatBars(
        format=found.format,
        dequantized=plots.Bars((), (), (), ()),
        errors=plots.Bars((), (), (), ()),
        grid=values,
        clip_low=values[0],
        clip_high=values[-1],
        clips=found.outside[place] > 0,
        kept_from=0.0,
    )
    return plots.draw_weight_histogram(
        plots.WeightHistogram(bars, (drawn,)), theme.palette(), dequantized=False
    )


def errors(found: ClipSweep, place: int) -> go.Figure:
    """Rounding error, clipping error and their sum over the share, with the reader's share marked."""
    shares = tuple(100 * share for share in found.shares)
    parts = {
        "rounding": found.rounding,
        "clipping": found.clipping,
        "both": tuple(a + b for a, b in zip(found.rounding, found.clipping, strict=True)),
    }
    curves = [
        plots.Curve(name, shares, tuple(energy(found, value) for value in values))
        for name, values in parts.items()
    ]
    return plots.draw_curves(
        curves, theme.palette(), "Squared error by the range covered",
        plots.Axis("Range covered", "%"), plots.Axis("Squared error", "% of |W|²"), mark=shares[place],
    )  # fmt: skip


def told(found: ClipSweep, place: int) -> str:
    """What the grid of a share is, and what it leaves, in a sentence."""
    low, high = (words.significant(found.grids[place][end]) for end in (0, -1))
    ends = f"zero point {found.zero_points[place]:.0f}: the grid runs from {low} to {high}".replace("-", "−")
    return (
        f"Scale {words.significant(found.scales[place])}, {ends} and leaves "
        f"**{lesson.percent(total(found, place))}** of |W|²: {lesson.percent(energy(found, found.rounding[place]))} by "
        f"rounding, {lesson.percent(energy(found, found.clipping[place]))} by clipping "
        f"{lesson.percent(100 * found.outside[place])} of the weights."
    )
