"""Results as Plotly figures, each in two steps: numbers (a NamedTuple, tested) and drawing.

``noun(...)`` computes the numbers, ``draw_noun(numbers, palette)`` draws them. Empty data gives an empty,
titled figure with a sentence. Nothing here knows torch or the browser framework.
"""

from quant_core.plots._common import SCORES, number, quantity
from quant_core.plots.agreement import (
    ScoreAgreement,
    draw_score_agreement,
    rank_correlation,
    rank_text,
    score_agreement,
)
from quant_core.plots.attribution import LayerShares, draw_layer_shares, layer_shares
from quant_core.plots.bands import RecipeBands, draw_recipe_bands, recipe_bands
from quant_core.plots.grid import all_clicked, block_grid, clicked, short_name
from quant_core.plots.losses import LossCurve, draw_loss_curve, joined_losses, loss_curve
from quant_core.plots.measured import KlComparison, draw_kl_comparison, kl_comparison
from quant_core.plots.palette import Palette
from quant_core.plots.pareto import Front, Mark, draw_pareto_front, mark, pareto_front
from quant_core.plots.profile import FormatProfile, draw_format_profile, format_profile
from quant_core.plots.ranking import Ranking, draw_ranking, ranking
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
from quant_core.plots.weights import (
    WeightHistogram,
    draw_error_histogram,
    draw_weight_histogram,
    weight_histogram,
)

__all__ = [
    "SCORES",
    "FormatProfile",
    "Front",
    "KlComparison",
    "KlSpread",
    "LayerShares",
    "LossCurve",
    "Mark",
    "Palette",
    "Ranking",
    "RecipeBands",
    "ScoreAgreement",
    "ScoreMap",
    "SizeBars",
    "WeightHistogram",
    "all_clicked",
    "block_grid",
    "clicked",
    "draw_error_histogram",
    "draw_format_profile",
    "draw_kl_comparison",
    "draw_kl_spread",
    "draw_layer_shares",
    "draw_loss_curve",
    "draw_pareto_front",
    "draw_ranking",
    "draw_recipe_bands",
    "draw_score_agreement",
    "draw_score_map",
    "draw_size_bars",
    "draw_weight_histogram",
    "format_map",
    "format_profile",
    "joined_losses",
    "kl_comparison",
    "kl_spread",
    "layer_shares",
    "loss_curve",
    "mark",
    "memory",
    "number",
    "pareto_front",
    "quantity",
    "rank_correlation",
    "rank_text",
    "ranking",
    "recipe_bands",
    "score_agreement",
    "score_column",
    "score_map",
    "short_formats",
    "short_name",
    "size_by",
    "size_by_format",
    "stderr_column",
    "stored_bits",
    "tied_with",
    "weight_histogram",
]
