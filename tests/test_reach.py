"""How many bits each layer needs, by hand and for any scores; and experts folded into what a map can show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_core import plots
from quant_core.plots.reach import Reached, where
from quant_core.schema import ModelInfo, ScoreTable, Unit, replace
from tests import made_results

FORMS = ("int2/g64/asym", "int4/g64/asym", "nf4/g64", "int8/g64/asym")
MODEL = made_results.model(3, embedding=False)
UNITS = tuple(replace(unit, rows=10, columns=10) for unit in MODEL.units[:3])
SMALL = replace(MODEL, units=UNITS)


def scored(*rows: tuple[float, ...], errors: float = 0.0) -> ScoreTable:
    """Units of 100 weights in formats of 2, 4, 4 and 8 bits."""
    names = tuple(unit.name for unit in UNITS[: len(rows)])
    return replace(
        made_results.table(MODEL), units=names, formats=FORMS, storage_bits=((200, 400, 400, 800),) * len(rows),
        fisher=rows, fisher_stderr=tuple((errors,) * 4 for _ in rows), weight=(), output=(),
    )  # fmt: skip


TABLE = scored((0.0008, 0.0001, 0.0002, 0.00001), (0.02, 0.003, 0.002, 0.0001), (0.9, 0.4, 0.3, 0.01))


def test_the_fewest_bits_are_those_worked_out_by_hand() -> None:
    found = plots.bits_to_reach(SMALL, TABLE, 0.001)
    assert list(found.values()) == [
        Reached("int2/g64/asym", 2.0, 0.0008),
        Reached("int8/g64/asym", 8.0, 0.0001),
        Reached("original", 16.0, 0.0),
    ]
    four = plots.bits_to_reach(SMALL, TABLE, 0.003)[UNITS[1].name]
    assert four == Reached("nf4/g64", 4.0, 0.002), (
        "of two formats of 4 bits the better; a threshold counts as under"
    )


def test_the_upper_end_of_the_interval_asks_for_more() -> None:
    table = scored((0.0009, 0.0001, 0.0002, 0.00001), errors=0.0001)
    assert plots.bits_to_reach(SMALL, table, 0.001)[UNITS[0].name].bits == 2
    assert plots.bits_to_reach(SMALL, table, 0.001, errors=1.96)[UNITS[0].name].format == "int4/g64/asym"


def test_the_sentence_names_the_layers_and_the_reason() -> None:
    found = plots.needs(SMALL, TABLE, 0.001)
    assert (found.kept, found.scored, found.open, found.least, found.most) == (1, 3, 0, 0.002, 0.3)
    assert plots.needs_text(found) == (
        "At 0.001 nats/token a layer, **2 of 3 layers need 8 bits or more**, and 1 of them keep their original bits: "
        "k_proj in block 0, v_proj in block 0. The best format of fewer bits would cost each 0.002 to 0.3 nats/token."
    )
    none = plots.needs_text(plots.needs(SMALL, TABLE, 0.5))
    assert none == "At 0.5 nats/token a layer, none of 3 layers needs 8 bits."
    assert plots.needs_text(plots.needs(SMALL, TABLE, 0.5, "measured")) == ""


def test_the_hungriest_layer_is_named_where_none_needs_many_bits() -> None:
    found = plots.bits_to_reach(SMALL, TABLE, 0.4)
    assert plots.hungriest_text(SMALL, found) == "The most, 4.00 bits, needs v_proj in block 0."
    assert plots.hungriest_text(SMALL, plots.bits_to_reach(SMALL, TABLE, 0.001)) == "", (
        "others need 8 or more"
    )
    assert plots.hungriest_text(SMALL, plots.bits_to_reach(SMALL, TABLE, 1.0)) == "", "all need 2"


def test_a_layer_whose_interval_spans_the_limit_is_counted_as_open() -> None:
    table = scored((0.02, 0.003, 0.00105, 0.0001), (0.9, 0.8, 0.7, 0.0001), errors=0.0001)
    found = plots.needs(SMALL, table, 0.001)
    assert len(found.many) == 2
    assert found.open == 1


def test_where_layers_are() -> None:
    def unit(role: str, block: int) -> Unit:
        return replace(UNITS[0], role=role, block=block)

    down = [unit("down_proj", block) for block in (0, 1, 2, 7)]
    assert where([*down, unit("lm_head", -1)]) == "down_proj in blocks 0–2 and 7, lm_head"
    assert where([unit("w1[3]", 5), unit("w1[4]", 5)]) == "w1 in block 5"
    assert where([unit(f"r{role}", 0) for role in range(6)]).endswith("and 2 more roles")
    assert where([unit(f"r{role}", 0) for role in range(5)]).endswith(", r4 in block 0")


SCORES = st.lists(st.tuples(*[st.floats(-1e-3, 1.0)] * 4), min_size=1, max_size=3)


@given(SCORES, st.floats(0, 0.5), st.floats(0, 1), st.floats(0, 0.1))
def test_a_lower_threshold_or_more_care_never_asks_for_fewer_bits(
    rows: list[tuple[float, ...]], threshold: float, share: float, error: float
) -> None:
    table = scored(*rows, errors=error)
    easy, hard, careful = (
        plots.bits_to_reach(SMALL, table, limit, errors=errors)
        for limit, errors in ((threshold, 0.0), (threshold * share, 0.0), (threshold, 1.96))
    )
    for name, one in easy.items():
        assert one.kl <= threshold
        assert hard[name].bits >= one.bits
        assert careful[name].bits >= one.bits


def routed(blocks: int, experts: int) -> ModelInfo:
    """Blocks of an attention weight and experts of one role."""
    units = []
    for block in range(blocks):
        units.append(replace(UNITS[0], name=f"layers.{block}.q", role="q", block=block))
        units += [
            replace(UNITS[0], name=f"layers.{block}.w[{expert}]", role=f"w[{expert}]", block=block, kind="expert")
            for expert in range(experts)
        ]  # fmt: skip
    return replace(MODEL, units=tuple(units), blocks=blocks)


def test_experts_are_folded_by_block_and_role_and_opened_again() -> None:
    model = routed(2, 70)
    table = made_results.table(model)
    folded = plots.fold(model, table)
    assert folded.closed
    assert [unit.name for unit in folded.model.units] == [
        "layers.0.q", "layers.0.w[*]", "layers.1.q", "layers.1.w[*]",
    ]  # fmt: skip
    assert folded.table.fisher[1][0] == pytest.approx(sum(row[0] for row in table.fisher[1:71]))
    assert folded.table.weight[1][0] == pytest.approx(sum(row[0] for row in table.weight[1:71]) / 70)
    assert sum(map(sum, folded.table.storage_bits)) == sum(map(sum, table.storage_bits))
    assert sum(unit.parameters for unit in folded.model.units) == sum(unit.parameters for unit in model.units)
    assert folded.drawn(["layers.1.w[3]", "layers.1.w[4]"]) == ("layers.1.w[*]",)
    assert len(folded.behind(["layers.1.w[*]", "layers.0.q"])) == 71
    grid = plots.block_grid(folded.model.units)
    assert (grid.rows, grid.columns) == (("q", "w"), ("0", "1"))

    inside = plots.fold(model, table, 1)
    assert not inside.closed
    grid = plots.block_grid(inside.model.units)
    assert grid.column_title == "Expert"
    assert grid.rows == ("q", "w")
    assert grid.units[1][1:3] == ("layers.1.w[0]", "layers.1.w[1]")
    assert inside.table.fisher == table.fisher[71:]


def test_formats_of_folded_experts_are_told() -> None:
    model = routed(1, 70)
    folded = plots.fold(model, made_results.table(model))
    forms = {unit.name: "int4/g64/asym" for unit in model.units} | {"layers.0.w[5]": "int8/g64/asym"}
    most, told = folded.most(forms)
    assert most["layers.0.w[*]"] == "int4/g64/asym"
    assert told == {"layers.0.w[*]": "69 in int4/g64/asym, 1 in int8/g64/asym"}
    assert folded.sums(dict.fromkeys(forms, 2.0)) == {"layers.0.q": 2.0, "layers.0.w[*]": 140.0}


def test_few_units_are_drawn_as_they_are() -> None:
    model = routed(2, 8)
    table = made_results.table(model)
    data = plots.fold(model, table)
    assert (data.model, data.table, data.needed) == (model, table, False)
