"""Figures as files: the numbers that were drawn, exactly, and a page that needs no network."""

from __future__ import annotations

import csv
import io
from typing import Any

import plotly.graph_objects as go
import pytest

from quant_core import plots
from quant_core.plots.saving import exactly
from quant_core.schema import replace
from tests.test_plots import BITS, EVALUATION, FORM, FULL, INFO, LIGHT, RECIPE, SOLUTION, TABLE, VIEW

HEADERS = {
    "map": ("Role", "Block", "Predicted KL (nats/token)"),
    "formats": ("Layer", "Format", "Predicted KL (nats/token)"),
    "ranking": ("Series", "Layer", "Predicted KL (nats/token)", "95 % from", "95 % to"),
    "profile": ("Format", "Predicted KL (nats/token)", "95 % from", "95 % to"),
    "agreement": ("Series", "Layer", "Weight error (share of |W|²)", "Predicted KL (nats/token)"),
    "weights": ("Series", "Weight value", "Weights (count)"),
    "errors": ("Series", "Error of a weight, in the weight's own unit", "Weights (count)"),
    "bands": ("Role", "Block", "Format"),
    "sizes": ("Series", "Size (MB)", "Label"),
    "memory": ("Series", "Size (MB)", "Label"),
    "layer shares": ("Share of the sum over layers (%)", "Label"),
    "losses": ("Series", "Steps", "KL (nats/token)"),
    "runtime": ("Series", "Measure", "Median or size", "Unit"),
}


def read(figure: go.Figure) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(plots.figure_csv(figure))))


@pytest.mark.parametrize("name", FULL)
def test_every_figure_has_a_table_of_its_numbers(name: str) -> None:
    table = plots.figure_table(FULL[name](LIGHT))
    assert table.rows
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert any(isinstance(value, int | float) for row in table.rows for value in row) or name == "bands"
    assert {"x", "y", "Value"}.isdisjoint(table.columns), "columns are named as the axes are"
    if name in HEADERS:
        assert table.columns == HEADERS[name]


def test_a_map_gives_the_scores_themselves_and_not_their_logarithms() -> None:
    """The cells are coloured by logarithms, cut at the lowest positive score; the file has what was scored."""
    noisy = replace(TABLE, fisher=((-0.001, *TABLE.fisher[0][1:]), *TABLE.fisher[1:]))
    first = TABLE.formats[0]
    rows = read(plots.draw_score_map(plots.score_map(INFO, noisy, first), LIGHT))
    found = {(row["Role"], row["Block"]): float(row["Predicted KL (nats/token)"]) for row in rows}
    units = {unit.name: (unit.role, str(unit.block)) for unit in INFO.units}
    assert found == {units[unit]: row[0] for unit, row in zip(noisy.units, noisy.fisher, strict=True)}


def test_a_ranking_names_its_layers_and_gives_uncut_intervals() -> None:
    data = plots.ranking(INFO, TABLE, FORM)
    rows = read(plots.draw_ranking(data, LIGHT))
    expected = {
        unit: (value, low, high)
        for unit, value, low, high in zip(data.units, data.values, data.lows, data.highs, strict=True)
    }
    assert expected == {
        row["Layer"]: tuple(
            float(row[name]) for name in ("Predicted KL (nats/token)", "95 % from", "95 % to")
        )
        for row in rows
    }


def test_bands_give_the_format_of_every_layer() -> None:
    rows = read(plots.draw_recipe_bands(plots.recipe_bands(INFO, RECIPE, BITS), LIGHT))
    assert len(rows) == len(RECIPE)
    assert {row["Format"] for row in rows} == {FORM}


def test_a_histogram_gives_its_counts_with_empty_bins_and_its_grid() -> None:
    rows = read(plots.draw_weight_histogram(plots.weight_histogram(VIEW), LIGHT))
    series: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        series.setdefault(row["Series"], []).append(row)
    assert [int(row["Weights (count)"]) for row in series["original"]] == list(VIEW.weights.counts)
    (form,) = VIEW.formats
    assert [int(row["Weights (count)"]) for row in series[form.format]] == list(form.dequantized.counts)
    assert [float(row["Weight value"]) for row in series["grid (16 values)"]] == list(form.grid)
    assert {row["Weights (count)"] for row in series["grid (16 values)"]} == {""}


def test_sizes_by_hand() -> None:
    bars = plots.SizeBars("Sizes", ("a", "b"), {"one": (1.5, 2.0), "two": (0.25, 4.0)}, ("", ""))
    assert plots.figure_csv(plots.draw_size_bars(bars, LIGHT, stacked=True)) == (
        "Series,Size (MB),Label\r\none,1.5,a\r\none,2.0,b\r\ntwo,0.25,a\r\ntwo,4.0,b\r\n"
    )


def test_measured_and_predicted_kl_keep_their_recipes() -> None:
    rows = read(plots.draw_kl_comparison(plots.kl_comparison([("this", SOLUTION, EVALUATION)]), LIGHT))
    assert [(row["Series"], row["Recipe"]) for row in rows] == [("predicted", "this"), ("measured", "this")]
    assert float(rows[1]["KL to the original (nats/token)"]) == EVALUATION.kl_mean


def titled(**axes: Any) -> go.Figure:
    return go.Figure(layout={name: {"title": {"text": text}} for name, text in axes.items()})


def test_a_plain_heatmap_is_listed_by_cell() -> None:
    figure = titled(xaxis="Input", yaxis="Output")
    figure.add_heatmap(
        z=[[1.0, None], [3.0, 4.0]], x=[10, 20], y=["a", "b"], colorbar={"title": {"text": "|w|"}}
    )
    assert plots.figure_table(figure) == (
        ("Output", "Input", "|w|"), (("a", 10, 1.0), ("b", 10, 3.0), ("b", 20, 4.0)),
    )  # fmt: skip


def test_error_bars_gaps_and_labels_of_a_plain_scatter() -> None:
    figure = titled(xaxis="Size<br>(MB)")
    bars = {"array": [0.5, 0.0, 0.25], "arrayminus": [1.0, 0.0, 0.5]}
    figure.add_scatter(x=[1.0, 2.0, 3.0], y=[0, 1, 0], error_x=bars)
    figure.add_scatter(x=[5.0, None], y=[1, None], mode="lines")
    figure.update_yaxes(tickvals=[0, 1], ticktext=["low", "high"])
    found = plots.figure_table(figure)
    assert found.columns == ("Size (MB)", "Size (MB), lower end", "Size (MB), upper end", "Label")
    assert found.rows == (
        (1.0, 0.0, 1.5, "low"),
        (2.0, 2.0, 2.0, "high"),
        (3.0, 2.5, 3.25, "low"),
        (5.0, None, None, "high"),
    )


def test_what_a_spreadsheet_would_compute_is_text() -> None:
    figure = go.Figure(go.Scatter(x=[1], y=[1], meta=exactly({"Layer": ["=cmd()"], "v": [-1.5]})))
    assert plots.figure_csv(figure) == "Layer,v\r\n'=cmd(),-1.5\r\n"


def test_the_page_holds_all_that_it_needs() -> None:
    page = plots.figure_page(FULL["memory"](LIGHT), LIGHT, "Bars & <numbers>.")
    assert page.startswith("<!doctype html>")
    assert "<title>Memory at 1,024 tokens of context</title>" in page
    assert "Bars &amp; &lt;numbers&gt;." in page
    assert LIGHT.background in page
    assert "<script src" not in page
    assert len(page) > 3_000_000, "plotly.js is inside"
