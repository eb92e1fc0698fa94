"""The architecture's diagram: sums by hand, what is open, experts in ranges, and clicks."""

from __future__ import annotations

import pytest

from quant_core import plots
from quant_core.schema import ModelInfo, Unit, replace
from tests import made_results
from tests.test_plots import LIGHT

Q, K, DOWN = (f"model.layers.{{}}.{name}.weight" for name in ("self_attn.q", "self_attn.k", "mlp.down"))


@pytest.fixture
def small() -> ModelInfo:
    """Two blocks of q, k and down, and an embedding that the head shares."""
    units = [Unit("embed.weight", -1, "embed", "embedding", 50, 10, 16, False, tied=("lm_head.weight",))]
    for block in range(2):
        units += [
            Unit(Q.format(block), block, "q", "linear", 10, 10, 16, True),
            Unit(K.format(block), block, "k", "linear", 5, 10, 16, True),
            Unit(DOWN.format(block), block, "down", "linear", 10, 20, 16, True),
        ]
    return replace(
        made_results.model(), units=tuple(units), blocks=2, parameters=500 + 2 * 350 + 30, other_bits=480
    )


def of_experts(count: int, blocks: int = 1) -> ModelInfo:
    """Blocks of one q and two roles of so many experts."""
    units = [
        unit
        for block in range(blocks)
        for unit in (
            Unit(Q.format(block), block, "q", "linear", 10, 10, 16, True),
            *(
                Unit(f"model.layers.{block}.mlp.experts.{role}[{index}]", block, f"{role}[{index}]", "expert",
                     4, 10, 16, True)
                for role in ("gate_up", "down")
                for index in range(count)
            ),
        )
    ]  # fmt: skip
    total = sum(unit.parameters for unit in units)
    return replace(made_results.model(), units=tuple(units), blocks=blocks, parameters=total, other_bits=0)


def values(data: plots.Diagram) -> dict[str, float | None]:
    return {cell.label: cell.value for cell in data.cells}


def test_closed_blocks_hold_the_sum_of_their_weights(small: ModelInfo) -> None:
    data = plots.diagram(small, plots.parameter_measure(small))
    assert values(data) == {
        "embed": 500, "▸ block 0": 350, "▸ block 1": 350, "norms and other": 30, "lm_head = embed": None,
    }  # fmt: skip
    assert sum(value or 0 for value in values(data).values()) == small.parameters
    assert (data.low, data.high) == (350, 500), "what is no layer does not stretch the colours"
    assert all((cell.left, cell.width) == (0, 1) for cell in data.cells)


def test_an_open_block_shows_its_parts_line_by_line(small: ModelInfo) -> None:
    data = plots.diagram(small, plots.parameter_measure(small), opened=[1])
    assert data.rows == ("", "0", "1", "attention", "MLP", "", "")
    inside = [(cell.label, cell.left, cell.width, cell.row) for cell in data.cells if cell.row in (3, 4)]
    assert inside == [("q", 0, 0.5, 3), ("k", 0.5, 0.5, 3), ("down", 0, 1, 4)]
    keys = [cell.key for cell in data.cells]
    assert keys[:4] == ["layer:embed.weight", "block:0", "block:1", f"layer:{Q.format(1)}"]


def test_several_open_blocks_share_columns(small: ModelInfo) -> None:
    hybrid = replace(small, units=tuple(unit for unit in small.units if unit.name != K.format(1)))
    data = plots.diagram(hybrid, plots.parameter_measure(hybrid), opened=[0, 1])
    assert data.columns == ("q", "k", "down")
    second = [(cell.label, round(cell.left, 3)) for cell in data.cells if cell.row == 2]
    assert second == [("q", 0), ("down", 0.667)], "what a block lacks stays empty"


def test_bytes_bits_and_scores_of_parts(small: ModelInfo) -> None:
    bits = {Q.format(0): 800, K.format(0): 100, DOWN.format(0): 800}
    size = values(plots.diagram(small, plots.byte_measure(small, bits, "")))
    assert size["▸ block 0"] == pytest.approx(1700 / 8e6)
    assert size["norms and other"] == 480 / 8e6
    assert size["▸ block 1"] is None
    mean = plots.diagram(small, plots.bit_measure(small, bits, ""), opened=[0])
    assert values(mean)["▾ block 0"] == pytest.approx(1700 / 350), "large layers count more"
    assert values(mean)["q"] == 8
    assert (mean.low, mean.high) == (0, 16), "the same colours for every recipe"
    table = replace(
        made_results.table(made_results.model()), units=(Q.format(0), K.format(0)), formats=("a", "b"),
        fisher=((0.5, 0.25), (0.125, 0.0625)),
    )  # fmt: skip
    scored = plots.diagram(small, plots.score_measure(table, "a"))
    block = next(cell for cell in scored.cells if cell.label == "▸ block 0")
    assert (block.value, block.known, block.weights) == (0.625, 2, 3)
    hover = plots.draw_diagram(scored, LIGHT).data[0].hovertext[1]
    assert "of 2 weights that have one" in hover


def test_many_experts_stand_in_ranges_and_one_opens() -> None:
    few = plots.diagram(of_experts(4), plots.parameter_measure(of_experts(4)), [0])
    assert few.rows == ("0", "attention", "gate_up", "down")
    many = of_experts(128, blocks=2)
    measure = plots.parameter_measure(many)
    ranges = plots.expert_ranges([unit for unit in many.units if unit.block == 0])
    assert ranges == tuple((first, first + 15) for first in range(0, 128, 16))
    closed = plots.diagram(many, measure, [0])
    assert closed.rows == ("0", "attention", "gate_up", "down", "1")
    assert [cell.value for cell in closed.cells if cell.row == 2] == [16 * 40] * 8
    opened = plots.diagram(many, measure, [0], experts_from=16)
    assert opened.rows == ("0", "attention", "gate_up", "down", "gate_up 16–31", "down 16–31", "1")
    assert [cell.label for cell in opened.cells if cell.row == 4] == [str(index) for index in range(16, 32)]
    overall = plots.diagram(many, measure, [0, 1])
    assert overall.columns == ("q", "gate_up", "down")
    assert [cell.value for cell in overall.cells if cell.row == 0] == [100, 5120, 5120]
    assert overall.cells[1].key == "block:0", "a click on all experts leads to them"
    assert plots.expert_ranges(of_experts(100).units)[-1] == (96, 99)


def test_a_large_model_stays_small_on_screen() -> None:
    large = of_experts(128, blocks=94)
    data = plots.diagram(large, plots.parameter_measure(large), range(94))
    assert len(data.cells) == 94 * 3
    assert plots.draw_diagram(data, LIGHT).layout.height < 2000


def test_parts_are_told_by_name() -> None:
    from quant_core.plots.diagram import part

    names = {
        "model.decoder.layers.0.self_attn.out_proj.weight": "attention",
        "model.decoder.layers.0.fc1.weight": "MLP",
        "transformer.h.0.attn.c_proj.weight": "attention",
        "transformer.h.0.mlp.c_fc.weight": "MLP",
        "model.layers.0.mixer.in_proj.weight": "other layers",
        "model.layers.0.block_sparse_moe.gate.weight": "MLP",
    }
    assert {name: part(Unit(name, 0, "x", "linear", 1, 1, 16, True)) for name in names} == names


def test_cells_carry_their_keys_texts_and_exact_numbers(small: ModelInfo) -> None:
    data = plots.diagram(small, plots.parameter_measure(small), [0])
    figure = plots.draw_diagram(data, LIGHT, selected=Q.format(0))
    bars = figure.data[0]
    place = [key for (key,) in bars.customdata].index(f"layer:{Q.format(0)}")
    assert bars.text[place] == "q 100"
    assert [width for width in bars.marker.line.width if width == 3] == [3], "one cell is marked"
    table = plots.figure_table(figure)
    assert table.columns == ("Row", "Part", "Weights (count)", "Parameters (values)")
    assert table.rows[0] == ("", "embed", 1, 500.0)
    assert ("attention", "k", 1, 50.0) in table.rows


def test_a_model_without_layers_says_so(small: ModelInfo) -> None:
    bare = replace(small, units=(), blocks=0)
    figure = plots.draw_diagram(plots.diagram(bare, plots.parameter_measure(bare)), LIGHT)
    assert "no layer that can be quantized" in figure.layout.annotations[0].text.replace("<br>", " ")
