"""Plots: the numbers exactly, the drawings as far as they can be checked without eyes."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from quant_core import plots
from quant_core.plots import _common, grid, palette
from quant_core.plots.bands import short_format
from quant_core.plots.pareto import MANY_POINTS, some_points
from quant_core.schema import (
    Attribution,
    Channels,
    Check,
    Divergence,
    Evaluation,
    Histogram,
    ModelInfo,
    ParetoPoint,
    ScoreTable,
    Solution,
    Unit,
    replace,
)
from tests import made_results

THEME = tomllib.loads((Path(__file__).parents[1] / ".streamlit" / "config.toml").read_text())["theme"]


def themed(mode: str) -> plots.Palette:
    theme = THEME[mode]
    return plots.Palette(
        categorical=tuple(theme["chartCategoricalColors"]),
        sequential=tuple(theme["chartSequentialColors"]),
        diverging=tuple(theme["chartDivergingColors"]),
        text=theme["textColor"],
        grid=theme["borderColor"],
        background=theme["backgroundColor"],
        accent=theme["primaryColor"],
    )


LIGHT, DARK = themed("light"), themed("dark")

A, B, C, HEAD = "layers.0.a", "layers.0.b", "layers.1.a", "head"


@pytest.fixture
def small() -> ModelInfo:
    """Two blocks, the second without role b, and a head outside the blocks."""
    units = (
        Unit(A, 0, "a", "linear", 10, 100, 16, True),
        Unit(B, 0, "b", "linear", 10, 200, 16, True),
        Unit(C, 1, "a", "linear", 10, 100, 16, True),
        Unit(HEAD, -1, "head", "head", 40, 100, 16, False),
    )
    return replace(made_results.model(), units=units, other_bits=800, blocks=2, kv_values=10)


@pytest.fixture
def table(small: ModelInfo) -> ScoreTable:
    """int2 and int4 of all four units; the head's int4 is a measured zero."""
    return replace(
        made_results.table(made_results.model()),
        units=(A, B, C, HEAD),
        formats=("int2/g64/asym", "int4/g64/asym"),
        storage_bits=((2000, 4000), (4000, 8000), (2000, 4000), (8000, 16000)),
        padded=((0, 0),) * 4,
        fisher=((0.4, 0.04), (0.2, 0.01), (0.1, 0.02), (0.8, 0.0)),
        fisher_stderr=((0.01, 0.001), (0.01, 0.006), (0.01, 0.001), (0.01, 0.0)),
        weight=((0.1, 0.01), (0.2, 0.02), (0.3, 0.03), (0.4, 0.04)),
        output=(),
        measured=(),
        measured_stderr=(),
    )


# --- numbers as text and ticks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1, "1"), (12345.678, "12,346"), (0.00123456, "0.00123"), (0.0001, "0.0001"), (0.000012, "1.2×10⁻⁵"),
        (0.00001, "10⁻⁵"), (-0.5, "−0.5"), (2.5e9, "2.5×10⁹"), (999.9, "1,000"), (math.inf, "–"), (math.nan, "–"),
    ],
)  # fmt: skip
def test_number(value: float, text: str) -> None:
    assert plots.number(value) == text


def test_compact_fits_into_a_cell() -> None:
    texts = [_common.compact(value) for value in (0.0, 0.041, 0.00041, 4.1e-6, 5e-7, -2e-5, 1.234)]
    assert texts == ["0", "0.041", "0.00041", "4.1e−6", "5e−7", "−2e−5", "1.2"]


def test_quantity_has_its_unit() -> None:
    assert plots.quantity(0.0123, "nats/token") == "0.0123 nats/token"
    assert plots.quantity(0.5, "") == "0.5"


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (1e-6, 1e-1, ("10⁻⁶", "10⁻⁵", "0.0001", "0.001", "0.01", "0.1")),
        (1e-3, 1e-1, ("0.001", "0.003", "0.01", "0.03", "0.1")),
        (1, 10, ("1", "2", "5", "10")),
        (0.018, 0.023, ("0.018", "0.02", "0.022")),
        (7, 7, ("7",)),
    ],
)
def test_log_ticks(low: float, high: float, texts: tuple[str, ...]) -> None:
    assert _common.log_ticks(low, high)[1] == texts


@given(st.floats(-12, 6), st.floats(0.02, 14))
def test_log_ticks_are_few_rising_and_inside(exponent: float, width: float) -> None:
    low, high = 10.0**exponent, 10.0 ** (exponent + width)
    values, texts = _common.log_ticks(low, high)
    assert 2 <= len(values) <= 11
    assert list(values) == sorted(set(values))
    assert len(set(texts)) == len(texts)
    assert all(low * 0.998 <= value <= high * 1.002 for value in values)


def test_interval_of_a_kl_never_goes_below_zero() -> None:
    assert _common.interval(1.0, 0.1) == pytest.approx((0.804, 1.196))
    assert _common.interval(0.1, 0.1) == pytest.approx((0.0, 0.296))


# --- colours --------------------------------------------------------------------------------------------------


def test_contrast_of_known_pairs() -> None:
    assert palette.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert palette.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert palette.readable_on("#ffff00") == "#000000"
    assert palette.readable_on("#000080") == "#ffffff"


def test_blend_and_scale() -> None:
    assert palette.blend("#000000", "#ff0000", 0.5) == "#800000"
    assert palette.at(("#000000", "#0000ff", "#ffffff"), 0.5) == "#0000ff"
    assert palette.at(("#000000", "#ffffff"), 2.0) == "#ffffff"
    assert LIGHT.ramp(2) == (LIGHT.sequential[0].lower(), LIGHT.sequential[-1].lower())
    assert len(set(LIGHT.ramp(7))) == 7
    assert len(LIGHT.ramp(1)) == 1


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_is_readable(colours: plots.Palette) -> None:
    assert palette.contrast(colours.text, colours.background) >= 7
    assert palette.contrast(colours.muted, colours.background) >= 4.5
    assert all(palette.contrast(colour, colours.background) >= 3 for colour in colours.categorical)
    for step in range(101):
        fill = palette.at(colours.sequential, step / 100)
        assert palette.contrast(palette.readable_on(fill), fill) >= 4.5


def test_palette_refuses_what_it_cannot_draw() -> None:
    with pytest.raises(ValueError, match="9 colours, not 10"):
        replace(LIGHT, categorical=LIGHT.categorical[:9])
    with pytest.raises(ValueError, match="no colour of the form"):
        replace(LIGHT, text="red")
    with pytest.raises(ValueError, match="3 or more"):
        replace(LIGHT, diverging=LIGHT.diverging[:2])


# --- heatmaps -------------------------------------------------------------------------------------------------


def test_block_grid_gives_outside_units_rows_of_their_own(small: ModelInfo) -> None:
    cells = plots.block_grid(small.units)
    assert cells.rows == ("head", "a", "b")
    assert cells.columns == (grid.OUTSIDE, "0", "1")
    assert cells.units == ((HEAD, "", ""), ("", A, C), ("", B, ""))
    assert cells.places()[C] == (1, 2)


def test_block_grid_keeps_units_that_share_a_role(small: ModelInfo) -> None:
    twin = replace(small.units[0], name="layers.0.cross.a")
    cells = plots.block_grid((*small.units[:3], twin))
    assert cells.rows == ("a", "b", "a #2")
    assert len(cells.places()) == 4


def test_score_map(small: ModelInfo, table: ScoreTable) -> None:
    data = plots.score_map(small, table, "int4/g64/asym")
    assert data.values == ((0.0, None, None), (None, 0.04, 0.02), (None, 0.01, None))
    assert data.stderr[1] == (None, 0.001, 0.001)
    assert (data.low, data.high) == (0.01, 0.04)
    common = plots.score_map(small, table, "int4/g64/asym", common_scale=True)
    assert (common.low, common.high) == (0.01, 0.8)


def test_format_map(small: ModelInfo, table: ScoreTable) -> None:
    data = plots.format_map(small, table)
    assert data.grid.rows == ("0 · a", "0 · b", "1 · a", "head")
    assert data.grid.columns == ("int2", "int4")
    assert data.values[1] == (0.2, 0.01)
    assert data.formats[0] == table.formats


def test_short_formats_only_where_families_tell_them_apart() -> None:
    assert plots.short_formats(("int4/g64/asym", "nf4/g64")) == ("int4", "nf4")
    assert plots.short_formats(("int4/g64/asym", "int4/g32/asym")) == ("int4/g64/asym", "int4/g32/asym")
    names = (
        "int4/g64/asym",
        "int4/g64/asym@gptq",
        "nf4/g64",
        "q4_k@gptq",
        "int3/g64/asym@gptq",
        "int3/g32/sym@gptq",
    )
    assert plots.short_formats(names) == (
        "int4", "int4@gptq", "nf4", "q4_k", "int3/g64/asym@gptq", "int3/g32/sym@gptq",
    )  # fmt: skip


@given(
    st.lists(
        st.from_regex(r"(int[34]|q4_k)(/g(32|64))?(/sym)?(@(gptq|hqq)(:order=none)?)?", fullmatch=True),
        unique=True,
    )
)
def test_short_formats_never_confuse(names: list[str]) -> None:
    assert len(set(plots.short_formats(tuple(names)))) == len(names)


def test_format_map_runs_from_few_bits_to_many(small: ModelInfo, table: ScoreTable) -> None:
    swapped = replace(
        table, formats=table.formats[::-1], storage_bits=tuple(row[::-1] for row in table.storage_bits),
        fisher=tuple(row[::-1] for row in table.fisher), fisher_stderr=(),
    )  # fmt: skip
    data = plots.format_map(small, swapped)
    assert data.grid.columns == ("int2", "int4")
    assert data.values[1] == (0.2, 0.01)


def test_overlay_covers_every_unit_once_and_outlines_the_selected(
    small: ModelInfo, table: ScoreTable
) -> None:
    figure = plots.draw_score_map(plots.score_map(small, table, "int4/g64/asym"), LIGHT, selected=(C,))
    overlay = next(trace for trace in figure.data if trace.customdata is not None)
    assert sorted(row[0] for row in overlay.customdata) == sorted((A, B, C, HEAD))
    assert {row[1] for row in overlay.customdata} == {"int4/g64/asym"}
    assert overlay.marker.opacity == 0
    assert [(shape.x0, shape.y0) for shape in figure.layout.shapes] == [(1.5, 0.5)] * 2
    assert figure.layout.clickmode == "event+select"
    assert figure.layout.hoverdistance == -1
    assert figure.layout.xaxis.fixedrange


def test_many_cells_are_drawn_by_webgl_and_without_text() -> None:
    info = made_results.model(blocks=150, embedding=False)
    figure = plots.draw_score_map(plots.score_map(info, made_results.table(info), "int3/g64/asym"), LIGHT)
    assert [trace.type for trace in figure.data] == ["heatmap", "scattergl", "heatmap"]
    assert len(figure.layout.xaxis.tickvals) <= 15


def test_clicks_are_read_and_foreign_data_is_ignored() -> None:
    def point(data: object) -> dict[str, Any]:
        return {"selection": {"points": [{"customdata": data}]}}

    assert plots.clicked(point(["u", "f"])) == ("u", "f")
    assert plots.clicked(point({"0": "u"})) == ("u",)
    assert plots.clicked(point("u")) == ("u",)
    assert plots.clicked(point(None)) == ()
    assert plots.clicked(point(3)) == ()
    assert plots.clicked({"selection": {"points": []}}) == ()
    assert plots.clicked(None) == ()
    box = {"selection": {"points": [{"customdata": ["u"]}, {"customdata": ["v"]}, {"customdata": ["u"]}, {}]}}
    assert plots.all_clicked(box) == ("u", "v")


# --- ranking, profile, agreement ------------------------------------------------------------------------------


def test_ranking_tells_ties_by_overlapping_intervals(small: ModelInfo, table: ScoreTable) -> None:
    data = plots.ranking(small, table, "int4/g64/asym", top=3)
    assert data.units == (A, C, B)
    assert data.total == 4
    assert data.lows == pytest.approx((0.03804, 0.01804, 0.0))
    assert data.highs == pytest.approx((0.04196, 0.02196, 0.02176))
    assert data.tied == (False, True, True)


def test_ranking_without_standard_errors_has_no_ties(small: ModelInfo, table: ScoreTable) -> None:
    data = plots.ranking(small, table, "int4/g64/asym", "weight")
    assert data.units == (HEAD, C, B, A)
    assert not any(data.tied)


def test_ranking_looks_beyond_the_last_one_shown_for_its_tie(small: ModelInfo, table: ScoreTable) -> None:
    assert plots.ranking(small, table, "int4/g64/asym", top=2).tied == (False, True)


def test_format_profile_is_sorted_by_bits(small: ModelInfo, table: ScoreTable) -> None:
    data = plots.format_profile(small, table, B)
    assert data.formats == ("int2/g64/asym", "int4/g64/asym")
    assert data.bits == (2.0, 4.0)
    assert data.values == (0.2, 0.01)
    assert plots.format_profile(small, table, "nobody").formats == ()


def test_agreement_is_scipys_spearman_and_leaves_out_what_a_log_axis_cannot_show(
    small: ModelInfo, table: ScoreTable
) -> None:
    data = plots.score_agreement(small, table, table, "int4/g64/asym", "weight", "fisher")
    assert data.rank == pytest.approx(spearmanr((0.01, 0.02, 0.03, 0.04), (0.04, 0.01, 0.02, 0.0)).statistic)
    assert data.units == (A, B, C)
    assert data.left_out == 1
    assert "over 4 layers. 1 of them" in plots.rank_text(data)


def test_rank_correlation_by_hand() -> None:
    assert plots.rank_correlation([1, 2, 3], [10, 20, 15]) == pytest.approx(0.5)
    assert plots.rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert plots.rank_correlation([1, 2], [1, 2]) is None
    assert plots.rank_correlation([1, 1, 1], [1, 2, 3]) is None


# --- weights --------------------------------------------------------------------------------------------------


def test_weight_histogram_by_hand() -> None:
    view = replace(
        made_results.layer_view(),
        weights=Histogram((-2.0, -1.0, 0.0, 2.0), (1, 5, 2)),
    )
    form = replace(
        view.formats[0],
        dequantized=Histogram((-2.0, -1.0, 0.0, 2.0), (0, 6, 2)),
        grid=(-3.0, -1.0, 0.0, 1.0),
        clip_low=-3.0,
        clip_high=1.0,
    )
    others = (replace(form, clip_high=2.0), replace(form, grid=()))
    data = plots.weight_histogram(replace(view, formats=(form, *others)))
    assert data.weights.centres == (-1.5, -0.5, 1.0)
    assert data.weights.widths == (1.0, 1.0, 2.0)
    assert data.formats[0].grid == (-1.0, 0.0, 1.0)
    assert [each.clips for each in data.formats] == [True, False, False]


def test_a_malformed_histogram_is_refused() -> None:
    with pytest.raises(ValueError, match="3 edges do not bound 3 counts"):
        plots.bars(Histogram((0.0, 1.0, 2.0), (1, 1, 1)))


def test_grid_stays_on_its_own_axis_with_log_counts() -> None:
    figure = plots.draw_weight_histogram(plots.weight_histogram(made_results.layer_view()), LIGHT, log=True)
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.yaxis2.range == (0, 1)
    assert figure.layout.yaxis2.type is None


def test_zoom_shows_the_grid_and_a_little_around_it() -> None:
    data = plots.weight_histogram(made_results.layer_view())
    assert plots.draw_weight_histogram(data, LIGHT, zoom=True).layout.xaxis.range == pytest.approx(
        (-0.15, 0.15)
    )
    assert plots.draw_weight_histogram(data, LIGHT).layout.xaxis.range == pytest.approx((-0.1664, 0.1664))


def test_spikes_on_the_grid_are_cut_and_said() -> None:
    view = made_results.layer_view()
    (form,) = view.formats
    counts = (*form.dequantized.counts[:-1], 50_000)
    spiked = replace(form, dequantized=Histogram(view.weights.edges, counts))
    data = plots.weight_histogram(replace(view, formats=(spiked,)))
    layout = plots.draw_weight_histogram(data, LIGHT).layout
    assert layout.yaxis.range == (0, 2.5 * max(view.weights.counts))
    assert layout.title.subtitle.text == "up to 50,000 quantized weights a bin, cut off here"
    assert plots.draw_weight_histogram(data, LIGHT, log=True).layout.title.subtitle.text is None
    assert plots.draw_weight_histogram(data, LIGHT, dequantized=False).layout.title.subtitle.text is None


def test_dequantized_weights_can_be_hidden() -> None:
    data = plots.weight_histogram(made_results.layer_view())
    names = [trace.name for trace in plots.draw_weight_histogram(data, LIGHT, dequantized=False).data]
    assert "original" in names
    assert "int4/g64/asym" not in names


def test_three_formats_have_a_colour_each_in_both_histograms() -> None:
    data = plots.weight_histogram(made_results.layer_view(A, "int2/g64/asym", "int4/g64/asym", "nf4/g64"))
    both = plots.draw_weight_histogram(data, LIGHT, titles={"nf4/g64": "NF4"})
    colours = {trace.name: trace.line.color for trace in both.data if trace.type == "scatter"}
    assert colours["int2/g64/asym"] == colours["grid of int2/g64/asym"] == LIGHT.categorical[1]
    assert colours["NF4"] == colours["grid of NF4"] == LIGHT.categorical[3]
    lanes = [(trace.y[0], trace.y[1]) for trace in both.data if trace.yaxis == "y2"]
    assert all(low > high for (low, _), (_, high) in pairwise(lanes)), "rows of ticks do not overlap"
    assert len(both.layout.shapes) == 6, "each format's two ends"
    errors = plots.draw_error_histogram(data, LIGHT, titles={"nf4/g64": "NF4"})
    assert {trace.name: trace.line.color for trace in errors.data} == {
        name: colours[name] for name in ("int2/g64/asym", "int4/g64/asym", "NF4")
    }


# --- channels and single weights --------------------------------------------------------------------------------


def test_channels_by_hand() -> None:
    channels = Channels((0, 1, 3), (-1.0, -2.0), (-0.5, -1.0), (0.5, 1.0), (1.0, 4.0), 2, 4.0, 0.5)
    data = plots.channel_strip(channels, "output")
    assert data.centres == (0.0, 1.5)
    assert data.widths == (1, 2)
    assert data.labels == ("output 0", "outputs 1 to 2")
    assert data.ends == ((-1.0, 1.0), (-2.0, 4.0))
    assert data.middles == ((-0.5, 0.5), (-1.0, 1.0))
    figure = plots.draw_channel_strip(data, LIGHT)
    assert list(figure.data[0].base) == [-1.0, -2.0]
    assert list(figure.data[0].y) == [2.0, 6.0]
    assert figure.layout.annotations[0].x == 2
    assert plots.reach_text("output", 2, 4.0, 0.5, 3) == (
        "Output 2 of 3 reaches furthest: 4, 8.0 times as far as the median output, an outlier."
    )
    assert plots.reach_text("input", 2, 4.0, 0.0, 3) == "Input 2 of 3 reaches furthest: 4."


def test_activations_stand_under_the_weights_they_meet() -> None:
    unit = INFO.units[1]
    strip = plots.channel_strip(made_results.channel_ranges(unit).inputs, "input")
    inputs = plots.input_strip(made_results.layer_inputs(unit))
    figure = plots.draw_channel_strip(strip, LIGHT, inputs)
    weights, activations = figure.data[0], figure.data[2]
    assert list(weights.x) == list(activations.x)
    assert activations.yaxis == "y2"
    assert activations.xaxis in (None, "x")
    assert [note.text for note in figure.layout.annotations] == ["input 7 ▾", "input 5 ▾"]


def test_a_map_by_hand() -> None:
    data = plots.weight_map(WINDOW)
    assert data.limit == 1.0
    assert plots.weight_map(WINDOW, errors=True).limit == 0.2
    figure = plots.draw_weight_map(data, LIGHT, boxes=False)
    cells, points = figure.data
    assert list(cells.x) == [19.5, 20.5, 22.5]
    assert list(cells.y) == [9.5, 11.5, 13.5]
    assert (cells.zmin, cells.zmax) == (-1.0, 1.0)
    assert figure.layout.yaxis.range == (13.5, 9.5), "the first output is on top"
    assert [*zip(points.x, points.y, points.customdata, strict=True)] == [
        (20.0, 10.5, 0.5), (21.5, 10.5, -1.0), (20.0, 12.5, 0.25), (21.5, 12.5, 0.75),
    ]  # fmt: skip
    for x, y, _ in zip(points.x, points.y, points.customdata, strict=True):
        cell = plots.clicked_cell({"selection": {"points": [{"x": x, "y": y}]}}, WINDOW)
        assert cell is not None
        assert cell.left <= x <= cell.right - 1
        assert cell.top <= y <= cell.bottom - 1


@pytest.mark.parametrize(
    ("box", "found"),
    [
        ({"x": [1.6, 3.2], "y": [7.4, 4.6]}, (5, 8, 2, 4)),
        ({"x": [-5, 3.2], "y": [0, 900]}, (0, 10, 0, 4)),
        ({"x": [2.1, 2.2], "y": [2.1, 2.2]}, (2, 3, 2, 3)),
        ({"x": [30, 40], "y": [2, 3]}, None),
        ({"x": ["a", 3], "y": [2, 3]}, None),
        ({"x": [float("nan"), 3], "y": [2, 3]}, None),
        ({"x": []}, None),
    ],
)
def test_boxes_are_whole_weights_within_the_layer(
    box: dict[str, list[float]], found: tuple[int, ...] | None
) -> None:
    assert plots.boxed({"selection": {"box": [box]}}, 10, 20) == found
    assert plots.boxed({"selection": {"points": []}}, 10, 20) is None


def test_clicks_beside_the_map_are_none() -> None:
    for point in ({"x": 5.0, "y": 11.0}, {"x": 21.0, "y": 14.0}, {"x": "a", "y": 1}, {}):
        assert plots.clicked_cell({"selection": {"points": [point]}}, WINDOW) is None
    assert plots.clicked_cell(None, WINDOW) is None


@given(st.integers(1, 50), st.integers(1, 50), st.data())
def test_zooming_out_ends_at_the_whole_layer(rows: int, columns: int, data: st.DataObject) -> None:
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    area = plots.Rectangle(top, top + 1, left, left + 1)
    for _ in range(6):
        wider = area.wider(rows, columns)
        assert wider.within(rows, columns)
        assert wider.top <= area.top < area.bottom <= wider.bottom
        assert wider.left <= area.left < area.right <= wider.right
        area = wider
    assert area == (0, rows, 0, columns)


# --- front, bands, sizes, measured ----------------------------------------------------------------------------


SOLUTION = Solution({A: "int4/g64/asym"}, 4.5, 3_000_000.0, 0.02, 0.001)
EVALUATION = Evaluation(
    0.025, 0.002, 0.01, 0.2, 30.0, 1.0, 29.0, 1.0, 0.93, 4000, 16, "h", "evaluation text", 3.0
)


def test_pareto_front_is_sorted_and_leaves_out_the_original() -> None:
    points = (ParetoPoint(16.0, 8e6, 0.0), ParetoPoint(4.0, 2e6, 0.1), ParetoPoint(2.0, 1e6, 1.0))
    marks = (
        plots.mark("measured", "mine", SOLUTION, EVALUATION),
        plots.Mark("uniform", "original", 16, 8e6, 0.0),
    )
    data = plots.pareto_front(points, marks, "bytes")
    assert data.sizes == (1.0, 2.0)
    assert data.kl == (1.0, 0.1)
    assert data.mark_sizes == (3.0,)
    assert (data.marks[0].kl, data.marks[0].stderr) == (0.025, 0.002)
    assert plots.mark("current", "mine", SOLUTION).kl == 0.02


def test_labels_of_close_marks_part() -> None:
    """The labels of 4.3 and 4.5 bits would cover each other on one side; right of the last mark the plot ends."""
    marks = [plots.Mark("uniform", f"int{bits}", bits, bits * 1e6, 1 / bits) for bits in (2.3, 4.3, 4.5, 8.4)]
    trace = plots.draw_pareto_front(plots.pareto_front([], marks), LIGHT).data[-1]
    assert trace.textposition[0] == "top right"
    assert trace.textposition[1] != trace.textposition[2]
    assert trace.textposition[3].endswith("left")


def test_the_front_says_that_pins_bind_it() -> None:
    front = plots.pareto_front([ParetoPoint(2.0, 1e6, 1.0), ParetoPoint(4.0, 2e6, 0.1)])
    assert plots.draw_pareto_front(front, LIGHT).data[0].name == "best mixed recipes"
    assert plots.draw_pareto_front(front, LIGHT, pinned=True).data[0].name == "best under these terms"


def test_bands_tell_format_and_method_apart(small: ModelInfo) -> None:
    """Of one format rounded in two ways, both have the format's colour, and one has a mark."""
    chosen = {A: "int4/g64/asym", B: "int4/g64/asym@gptq", C: "int2/g64/asym@gptq"}
    data = plots.recipe_bands(small, chosen, {A: 4000, B: 8000, C: 2000})
    assert data.forms == {"int2/g64/asym": 2.0, "int4/g64/asym": 4.0}
    assert data.methods == ("gptq",)
    figure = plots.draw_recipe_bands(data, LIGHT, titles={"int2/g64/asym": "INT2", "gptq": "GPTQ"})
    cells = [place for row in figure.data[0].z for place in row if place is not None]
    assert sorted(cells) == [0, 1, 1]
    assert [trace.name for trace in figure.data if trace.name] == [
        "INT2 (2.00 bits)", "int4/g64/asym (4.00 bits)", "GPTQ",
    ]  # fmt: skip
    marks = [trace for trace in figure.data[1:] if trace.marker.symbol == "triangle-up"]
    assert [len(trace.x) for trace in marks if trace.x[0] is not None] == [2]


@pytest.mark.parametrize(
    ("name", "text"),
    [("int4/g64/asym@gptq", "4"), ("q4_k@gptq", "q4_k"), ("fp8_e4m3/channel", "fp8"), ("iq2_xxs", "iq2"),
     ("nf4/g64", "nf4"), ("original", "orig"), ("", ""),
     ("kmeans3/channel", "km3"), ("mxfp6_e2m3", "mx6"), ("ternary/channel", "tern")],
)  # fmt: skip
def test_cells_hold_the_short_name(name: str, text: str) -> None:
    assert short_format(name) == text


def test_of_many_uniform_formats_the_best_are_labelled() -> None:
    solutions = {f"int4/g{size}/asym": Solution({}, 4.0 + size / 10, 1e6, 0.1, 0.0) for size in range(12)}
    solutions["nf4/g64@gptq"] = Solution({}, 4.55, 1e6, 0.01, 0.0)
    solutions["fp4/g64"] = Solution({}, 4.57, 1e6, 0.001, 0.0)
    data = plots.pareto_front([], [plots.mark("uniform", name, each) for name, each in solutions.items()])
    (marks,) = plots.draw_pareto_front(data, LIGHT).data
    assert [text for text in marks.text if text] == ["int4", "nf4"], "the better one beside it has no room"


def test_recipe_bands_order_formats_by_stored_bits(small: ModelInfo, table: ScoreTable) -> None:
    chosen = {A: "int4/g64/asym", B: "int2/g64/asym", C: "original"}
    data = plots.recipe_bands(small, chosen, plots.stored_bits(small, table, chosen), pins={A})
    assert data.formats == ("int2/g64/asym", "int4/g64/asym", "original")
    assert data.bits == (2.0, 4.0, 16.0)
    assert data.assigned == (("int4/g64/asym", "original"), ("int2/g64/asym", ""))


def test_stored_bits(small: ModelInfo, table: ScoreTable) -> None:
    chosen = {A: "int4/g64/asym", B: "int3/unheard/of"}
    assert plots.stored_bits(small, table, chosen) == {A: 4000, B: 32_000, C: 16_000, HEAD: 64_000}


def test_sizes_add_up_to_the_file(small: ModelInfo, table: ScoreTable) -> None:
    bits = plots.stored_bits(small, table, {A: "int4/g64/asym"})
    by_role = plots.size_by(small, "role", bits)
    assert by_role.labels == ("head", "a", "b", "norms and other")
    assert by_role.series["original"] == pytest.approx((0.008, 0.004, 0.004, 0.0001))
    assert by_role.series["recipe"] == pytest.approx((0.008, 0.0025, 0.004, 0.0001))
    assert sum(by_role.series["original"]) * 8e6 == pytest.approx(small.original_bits)
    by_format = plots.size_by_format(small, {A: "int4/g64/asym"}, bits)
    assert by_format.labels == ("original", "int4/g64/asym", "norms and other")
    assert sum(by_format.series["recipe"]) == pytest.approx(sum(by_role.series["recipe"]))


def test_experts_of_a_block_count_under_one_role(small: ModelInfo) -> None:
    experts = tuple(
        replace(small.units[0], name=f"e[{index}]", role=f"w1[{index}]", kind="expert") for index in (0, 1)
    )
    assert plots.size_by(replace(small, units=experts, other_bits=0)).labels == ("w1",)


def test_memory_counts_weights_and_cache(small: ModelInfo) -> None:
    data = plots.memory(small, {"4 bits": 10_000.0, "original": 16_100.0}, context=1000, cache_bits=8)
    assert data.series["weights"] == pytest.approx((0.01, 0.0161))
    assert data.series["KV cache (8-bit)"] == pytest.approx((0.01, 0.01))


def test_kl_comparison() -> None:
    data = plots.kl_comparison([("mine", SOLUTION, EVALUATION)])
    assert list(data.ratio) == pytest.approx([0.8])
    assert data.measured_ends[0] == pytest.approx((0.02108, 0.02892))
    assert plots.kl_comparison([("same", SOLUTION, replace(EVALUATION, kl_mean=0.0))]).ratio == (None,)


# --- every drawing --------------------------------------------------------------------------------------------


# --- training -------------------------------------------------------------------------------------------------


def test_loss_curve_by_hand() -> None:
    points = [(step, float(step)) for step in range(1, 13)]
    data = plots.loss_curve([*points, (13, 0.0)], before=2.0)
    assert data.steps == tuple(range(1, 13)), "a log axis has no zero"
    assert data.losses == tuple(map(float, range(1, 13)))
    assert data.means == (*map(float, range(1, 11)), 10.5, 11.5), "from the 11th point on, of two"
    assert (data.before, data.after) == (2.0, None)


def test_long_loss_curves_are_averaged_in_groups() -> None:
    data = plots.loss_curve([(step, float(step)) for step in range(1, 602)])
    assert data.steps[:2] == (3, 6)
    assert data.losses[:2] == (2.0, 5.0)
    assert (data.steps[-1], data.losses[-1]) == (601, 601.0), "the last group is smaller"
    assert len(data.steps) == 201


@given(st.lists(st.floats(1e-6, 10), max_size=40))
def test_running_means_stay_within_the_losses(losses: list[float]) -> None:
    data = plots.loss_curve(list(enumerate(losses, 1)))
    assert len(data.means) == len(data.losses) == len(losses)
    for end, mean in enumerate(data.means, 1):
        assert min(losses[:end]) * (1 - 1e-9) <= mean <= max(losses[:end]) * (1 + 1e-9)


def test_runs_of_a_training_are_joined() -> None:
    first, second = [(1, 0.9), (2, 0.8), (3, 0.7)], [(3, 0.75), (4, 0.6)]
    assert plots.joined_losses([first, [], second]) == [(1, 0.9), (2, 0.8), (3, 0.75), (4, 0.6)]
    assert plots.joined_losses([first, [(1, 0.5)]]) == [(1, 0.5)], "it began anew"
    assert plots.joined_losses([]) == []


def test_the_held_out_lines_are_drawn_where_they_are_known() -> None:
    points = [(1, 0.5), (2, 0.25)]
    both = plots.draw_loss_curve(plots.loss_curve(points, 0.9, 0.1), LIGHT)
    assert [trace.name for trace in both.data[2:]] == ["held out, before", "held out, after"]
    assert list(both.data[3].y) == [0.1, 0.1]
    low, high = both.layout.yaxis.range
    assert low < math.log10(0.1) < math.log10(0.9) < high
    assert len(plots.draw_loss_curve(plots.loss_curve(points), LIGHT).data) == 2


# --- checks of what is served

CHECK = Check(
    Divergence(0.02, 0.005, 0.01, 0.03), Divergence(0.4, 0.02, 0.36, 0.44), 0.97, 20, 0.9, "m", 1016, 8, 1017,
    "e" * 24, "text", 16.0,
)  # fmt: skip


def test_checks_stand_in_the_order_of_their_times_on_the_side_of_their_limit_that_they_are() -> None:
    data = plots.check_history([(60.0, CHECK, 0.01), (0.0, CHECK, 0.05)])
    assert (data.times, data.limits) == ((0.0, 60.0), (0.05, 0.01))
    within, above, limit = plots.draw_check_history(data, LIGHT).data
    assert (within.name, above.name, limit.name) == ("within the limit", "above the limit", "limit")
    assert [len(within.x), len(above.x), list(limit.y)] == [1, 1, [0.05, 0.05, 0.01, 0.01]]
    table = plots.figure_table(plots.draw_check_history(data, LIGHT))
    assert [row[2] for row in table.rows] == [0.02, 0.02, 0.05, 0.01], "saved without the ends of the line"


INFO = made_results.model()
TABLE = made_results.table(INFO)
FORM = "int3/g64/asym"
NONE = replace(TABLE, units=(), fisher=(), fisher_stderr=(), weight=(), output=(), storage_bits=(), padded=())
NO_BINS = Histogram((), ())
RECIPE = dict.fromkeys(TABLE.units, FORM)
BITS = plots.stored_bits(INFO, TABLE, RECIPE)
NO_CHANNELS = Channels((0,), (), (), (), (), 0, 0.0, 0.0)
VIEW = made_results.layer_view()
THREE = made_results.layer_view(A, "int2/g64/asym", "int4/g64/asym", "nf4/g64")
STRIP = plots.channel_strip(made_results.channel_ranges(INFO.units[1]).inputs, "input")
INPUTS = made_results.layer_inputs(INFO.units[1])
WINDOW = replace(
    made_results.window(INFO.units[1], area=(10, 14, 20, 23)),
    row_edges=(10, 12, 14), column_edges=(20, 21, 23),
    weights=((0.5, -1.0), (0.25, 0.75)), errors=((0.0, 0.1), (-0.2, 0.0)),
)  # fmt: skip

Draw = Callable[[plots.Palette], Any]
MOVED = Attribution((*TABLE.units[:2], "not of this model"), (0.15, 0.3, 0.05), 0.7, 9, 1.0)
FULL: dict[str, Draw] = {
    "map": lambda p: plots.draw_score_map(plots.score_map(INFO, TABLE, FORM), p, TABLE.units[:1]),
    "formats": lambda p: plots.draw_score_map(plots.format_map(INFO, TABLE), p),
    "ranking": lambda p: plots.draw_ranking(plots.ranking(INFO, TABLE, FORM), p, TABLE.units[0]),
    "profile": lambda p: plots.draw_format_profile(plots.format_profile(INFO, TABLE, TABLE.units[0]), p),
    "agreement": lambda p: plots.draw_score_agreement(
        plots.score_agreement(INFO, TABLE, TABLE, FORM, "weight", "fisher"), p
    ),
    "weights": lambda p: plots.draw_weight_histogram(plots.weight_histogram(VIEW), p),
    "errors": lambda p: plots.draw_error_histogram(plots.weight_histogram(VIEW), p),
    "three formats": lambda p: plots.draw_weight_histogram(plots.weight_histogram(THREE), p, log=True),
    "three errors": lambda p: plots.draw_error_histogram(plots.weight_histogram(THREE), p),
    "channels": lambda p: plots.draw_channel_strip(STRIP, p),
    "activations": lambda p: plots.draw_channel_strip(STRIP, p, plots.input_strip(INPUTS)),
    "inputs": lambda p: plots.draw_input_histogram(plots.bars(INPUTS.values), p),
    "weight map": lambda p: plots.draw_weight_map(plots.weight_map(WINDOW), p),
    "front": lambda p: plots.draw_pareto_front(
        plots.pareto_front(
            [ParetoPoint(2.0, 1e6, 1.0), ParetoPoint(4.0, 2e6, 0.1)],
            [plots.mark("current", "this", SOLUTION)],
        ),
        p,
    ),
    "bands": lambda p: plots.draw_recipe_bands(
        plots.recipe_bands(INFO, RECIPE, BITS, pins=[TABLE.units[0]]), p
    ),
    "sizes": lambda p: plots.draw_size_bars(plots.size_by(INFO, "kind", BITS), p),
    "memory": lambda p: plots.draw_size_bars(plots.memory(INFO, {"int4": 4.3e6}, 1024), p, stacked=True),
    "measured": lambda p: plots.draw_kl_comparison(plots.kl_comparison([("this", SOLUTION, EVALUATION)]), p),
    "layer shares": lambda p: plots.draw_layer_shares(plots.layer_shares(INFO, MOVED), p),
    "losses": lambda p: plots.draw_loss_curve(plots.loss_curve([(1, 0.5), (2, 0.25)], 0.6, 0.2), p),
    "runtime": lambda p: plots.draw_runtime_bars(plots.runtime_bars(made_results.runtime_speeds()), p),
    "checks": lambda p: plots.draw_check_history(plots.check_history([(0.0, CHECK, 0.01)]), p),
    "diagram": lambda p: plots.draw_diagram(plots.diagram(INFO, plots.parameter_measure(INFO), [1]), p),
}
EMPTY: dict[str, Draw] = {
    "map": lambda p: plots.draw_score_map(plots.score_map(INFO, TABLE, "int5/g64/asym"), p),
    "map of nothing": lambda p: plots.draw_score_map(plots.score_map(INFO, NONE, FORM), p),
    "formats": lambda p: plots.draw_score_map(plots.format_map(INFO, NONE), p),
    "ranking": lambda p: plots.draw_ranking(plots.ranking(INFO, TABLE, FORM, "measured"), p),
    "profile": lambda p: plots.draw_format_profile(plots.format_profile(INFO, TABLE, "nobody"), p),
    "agreement": lambda p: plots.draw_score_agreement(
        plots.score_agreement(INFO, TABLE, TABLE, FORM, "measured", "fisher"), p
    ),
    "weights": lambda p: plots.draw_weight_histogram(
        plots.weight_histogram(replace(VIEW, weights=NO_BINS, formats=())), p
    ),
    "errors": lambda p: plots.draw_error_histogram(plots.weight_histogram(replace(VIEW, formats=())), p),
    "channels": lambda p: plots.draw_channel_strip(plots.channel_strip(NO_CHANNELS, "output"), p),
    "inputs": lambda p: plots.draw_input_histogram(plots.bars(NO_BINS), p),
    "weight map": lambda p: plots.draw_weight_map(plots.weight_map(replace(WINDOW, weights=())), p),
    "front": lambda p: plots.draw_pareto_front(plots.pareto_front([], []), p),
    "bands": lambda p: plots.draw_recipe_bands(plots.recipe_bands(INFO, {}, {}), p),
    "sizes": lambda p: plots.draw_size_bars(plots.size_by(replace(INFO, units=(), other_bits=0)), p),
    "memory": lambda p: plots.draw_size_bars(plots.memory(INFO, {}, 1024), p, stacked=True),
    "measured": lambda p: plots.draw_kl_comparison(plots.kl_comparison([]), p),
    "layer shares": lambda p: plots.draw_layer_shares(
        plots.layer_shares(INFO, Attribution((), (), 0.0, 5, 1.0)), p
    ),
    "losses": lambda p: plots.draw_loss_curve(plots.loss_curve([], 0.6), p),
    "runtime": lambda p: plots.draw_runtime_bars(
        plots.runtime_bars(replace(made_results.runtime_speeds(), original=None)), p
    ),
    "checks": lambda p: plots.draw_check_history(plots.check_history([]), p),
}


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_figures_serialise_in_house_style(name: str, colours: plots.Palette) -> None:
    figure = FULL[name](colours)
    data = json.loads(figure.to_json())
    assert data["data"]
    assert data["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"
    assert data["layout"]["title"]["text"]
    assert len(data["layout"]["title"]["text"]) <= 40, "a longer title is cut off on a phone"
    assert all(size >= 12 for size in _sizes(data["layout"]))
    assert all(
        trace.get("name") for trace in data["data"] if trace.get("showlegend", True) and "legend" in name
    )


@pytest.mark.parametrize("name", FULL)
def test_value_axes_are_named_with_their_unit(name: str) -> None:
    layout = FULL[name](LIGHT).layout
    titles = {layout.xaxis.title.text, layout.yaxis.title.text} - {None, ""}
    assert titles, "one axis at least says what it shows"


@pytest.mark.parametrize("name", EMPTY)
def test_empty_data_gives_a_titled_figure_with_a_sentence(name: str) -> None:
    figure = EMPTY[name](LIGHT)
    assert not figure.data
    assert figure.layout.title.text
    assert figure.layout.annotations[0].text.endswith(".")
    figure.to_json()


def test_layer_shares_are_of_the_sum_and_the_rest_is_kept() -> None:
    data = plots.layer_shares(INFO, MOVED, top=1)
    assert data.units == (TABLE.units[1],)
    assert data.shares == pytest.approx((0.6,))
    assert data.kl == (0.3,)
    assert data.others == 2
    assert data.rest == pytest.approx(0.4)
    assert list(plots.draw_layer_shares(data, LIGHT).data[0].text) == ["60.0 %", "40.0 %"]
    labels = plots.layer_shares(INFO, MOVED).labels
    assert labels == ("0 · k_proj", "0 · q_proj", "not of this model")


def test_a_runtime_s_bars_are_multiples_of_the_original_by_hand() -> None:
    data = plots.runtime_bars(made_results.runtime_speeds())
    assert list(data.original) == [1000, 100, 100.0, 40.0]
    assert list(data.recipe) == [1050, 200, 50.0, 10.0]
    assert list(data.ratios) == [1.05, 2.0, 0.5, 0.25]
    original, recipe = plots.draw_runtime_bars(data, LIGHT).data
    assert list(original.x) == [1.0] * 4
    assert list(recipe.text) == ["1,050 tokens/s", "200 tokens/s", "50 MB", "10 MB"]


def test_drawing_twice_gives_the_same_figure() -> None:
    assert all(draw(LIGHT).to_json() == draw(LIGHT).to_json() for draw in FULL.values())


def test_measured_noise_below_zero_is_drawn_at_the_lowest_colour(small: ModelInfo, table: ScoreTable) -> None:
    noisy = replace(table, fisher=((0.4, -0.001), (0.2, 0.01), (0.1, 0.02), (0.8, 0.0)))
    figure = plots.draw_score_map(plots.score_map(small, noisy, "int4/g64/asym"), LIGHT)
    assert min(value for row in figure.data[0].z for value in row if value is not None) == pytest.approx(-2)
    hovers = next(trace.text for trace in figure.data if trace.customdata is not None)
    assert any("−0.001 nats/token" in text for text in hovers)
    plots.draw_ranking(plots.ranking(small, noisy, "int4/g64/asym"), LIGHT).to_json()
    plots.draw_format_profile(plots.format_profile(small, noisy, A), LIGHT).to_json()


def _sizes(layout: object) -> list[float]:
    """Every font size in a layout."""
    if isinstance(layout, dict):
        own = [layout["size"]] if isinstance(layout.get("size"), int | float) and "color" in layout else []
        return own + [size for value in layout.values() for size in _sizes(value)]
    return [size for value in layout for size in _sizes(value)] if isinstance(layout, list) else []


def test_a_front_of_very_many_points_is_drawn_by_some_of_them() -> None:
    """Of points on a line every one that is kept is one of them, both ends are there, and gaps stay small."""
    points = [ParetoPoint(2 + place / 1e5, 1e6 + place, 1 / (1 + place)) for place in range(100_000)]
    drawn = some_points(points)
    assert len(drawn) <= MANY_POINTS
    assert drawn[0] is points[0]
    assert drawn[-1] is points[-1]
    places = [round((point.average_bits - 2) * 1e5) for point in drawn]
    assert max(later - place for place, later in pairwise(places)) <= 1 + 100_000 / (MANY_POINTS - 1)
    assert some_points(points[:50]) == points[:50]
