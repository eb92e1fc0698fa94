"""Results as Plotly figures, each in two steps: numbers (a NamedTuple, tested) and drawing.

``noun(...)`` computes the numbers, ``draw_noun(numbers, palette)`` draws them. Empty data gives an empty,
titled figure with a sentence. Nothing here knows torch or the browser framework.
"""

from quant_core.plots._common import INTERVAL, SCORES, number, quantity
from quant_core.plots.agreement import (
    ScoreAgreement,
    draw_score_agreement,
    rank_correlation,
    rank_text,
    score_agreement,
)
from quant_core.plots.attribution import LayerShares, draw_layer_shares, layer_shares
from quant_core.plots.bands import RecipeBands, draw_recipe_bands, recipe_bands
from quant_core.plots.bit_layouts import BitRow, draw_bits
from quant_core.plots.channels import (
    channel_strip,
    draw_channel_strip,
    draw_input_histogram,
    input_strip,
    reach_text,
)
from quant_core.plots.checkpoint import (
    CheckpointErrors,
    checkpoint_errors,
    checkpoint_text,
    draw_checkpoint_errors,
)
from quant_core.plots.checks import CheckHistory, check_history, draw_check_history
from quant_core.plots.curves import Axis, Curve, draw_curves
from quant_core.plots.diagram import (
    Diagram,
    Measure,
    bit_measure,
    byte_measure,
    diagram,
    draw_diagram,
    expert_ranges,
    parameter_measure,
    score_measure,
)
from quant_core.plots.fold import Fold, fold
from quant_core.plots.grid import all_clicked, block_grid, clicked, short_name
from quant_core.plots.losses import LossCurve, draw_loss_curve, joined_losses, loss_curve
from quant_core.plots.measured import KlComparison, draw_kl_comparison, kl_comparison
from quant_core.plots.palette import Palette
from quant_core.plots.pareto import Front, Mark, draw_pareto_front, mark, pareto_front
from quant_core.plots.profile import FormatProfile, draw_format_profile, format_profile
from quant_core.plots.ranking import Ranking, draw_ranking, ranking
from quant_core.plots.reach import bits_to_reach, hungriest_text, needs, needs_text, reach_map, where
from quant_core.plots.reasons import Reason, reason, reason_text
from quant_core.plots.runtime import RuntimeBars, draw_runtime_bars, runtime_bars
from quant_core.plots.saving import FigureTable, figure_csv, figure_page, figure_table
from quant_core.plots.sensitivity import (
    ScoreMap,
    draw_score_map,
    format_map,
    score_column,
    score_map,
    short_formats,
    stderr_column,
)
from quant_core.plots.sizes import SizeBars, draw_size_bars, memory, size_by, size_by_format, stored_bits
from quant_core.plots.spread import KlSpread, draw_kl_spread, kl_spread
from quant_core.plots.ties import tied_with
from quant_core.plots.weight_map import (
    Rectangle,
    boxed,
    clicked_cell,
    draw_weight_map,
    weight_map,
)
from quant_core.plots.weights import (
    Bars,
    FormatBars,
    WeightHistogram,
    bars,
    draw_error_histogram,
    draw_weight_histogram,
    weight_histogram,
)

__all__ = [
    "INTERVAL",
    "SCORES",
    "Axis",
    "Bars",
    "BitRow",
    "CheckHistory",
    "CheckpointErrors",
    "Curve",
    "Diagram",
    "FigureTable",
    "Fold",
    "FormatBars",
    "FormatProfile",
    "Front",
    "KlComparison",
    "KlSpread",
    "LayerShares",
    "LossCurve",
    "Mark",
    "Measure",
    "Palette",
    "Ranking",
    "Reason",
    "RecipeBands",
    "Rectangle",
    "RuntimeBars",
    "ScoreAgreement",
    "ScoreMap",
    "SizeBars",
    "WeightHistogram",
    "all_clicked",
    "bars",
    "bit_measure",
    "bits_to_reach",
    "block_grid",
    "boxed",
    "byte_measure",
    "channel_strip",
    "check_history",
    "checkpoint_errors",
    "checkpoint_text",
    "clicked",
    "clicked_cell",
    "diagram",
    "draw_bits",
    "draw_channel_strip",
    "draw_check_history",
    "draw_checkpoint_errors",
    "draw_curves",
    "draw_diagram",
    "draw_error_histogram",
    "draw_format_profile",
    "draw_input_histogram",
    "draw_kl_comparison",
    "draw_kl_spread",
    "draw_layer_shares",
    "draw_loss_curve",
    "draw_pareto_front",
    "draw_ranking",
    "draw_recipe_bands",
    "draw_runtime_bars",
    "draw_score_agreement",
    "draw_score_map",
    "draw_size_bars",
    "draw_weight_histogram",
    "draw_weight_map",
    "expert_ranges",
    "figure_csv",
    "figure_page",
    "figure_table",
    "fold",
    "format_map",
    "format_profile",
    "hungriest_text",
    "input_strip",
    "joined_losses",
    "kl_comparison",
    "kl_spread",
    "layer_shares",
    "loss_curve",
    "mark",
    "memory",
    "needs",
    "needs_text",
    "number",
    "parameter_measure",
    "pareto_front",
    "quantity",
    "rank_correlation",
    "rank_text",
    "ranking",
    "reach_map",
    "reach_text",
    "reason",
    "reason_text",
    "recipe_bands",
    "runtime_bars",
    "score_agreement",
    "score_column",
    "score_map",
    "score_measure",
    "short_formats",
    "short_name",
    "size_by",
    "size_by_format",
    "stderr_column",
    "stored_bits",
    "tied_with",
    "weight_histogram",
    "weight_map",
    "where",
]
