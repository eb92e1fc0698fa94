"""Two sweeps or two recipes compared: cases worked out by hand, and what holds for any two."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from quant_core.allocation.solution import price
from quant_core.contrast import Changes, changes, contrast
from quant_core.plots import stored_bits
from quant_core.schema import ScoreTable, replace
from tests import made_results

MODEL = made_results.model(1, embedding=False)
TABLE = made_results.table(MODEL)


def with_scores(*column: float, formats: tuple[str, ...] = ("int4/g64/asym",)) -> ScoreTable:
    """The made model's first units with these scores."""
    rows = tuple((value,) * len(formats) for value in column)
    return replace(TABLE, units=TABLE.units[: len(column)], formats=formats, fisher=rows)


def test_places_factor_and_rank_are_those_worked_out_by_hand() -> None:
    found = contrast(with_scores(4.0, 3.0, 2.0, 1.0), with_scores(2.0, 6.0, 4.0, 8.0))
    assert found.units == 4
    agreement = found.agreements[0]
    assert agreement.ratio == 2.0, "of 0.5, 2, 2 and 8"
    assert agreement.rank is not None
    # places 1 2 3 4 and 4 2 3 1: 1 - 6 (9 + 0 + 0 + 9) / (4 (16 - 1))
    assert math.isclose(agreement.rank, 1 - 6 * 18 / 60)
    assert [(move.unit, move.places, move.scores) for move in found.moves] == [
        (TABLE.units[0], (1, 4), (4.0, 2.0)),
        (TABLE.units[3], (4, 1), (1.0, 8.0)),
    ]


def test_only_what_both_sweeps_have_is_compared() -> None:
    first = with_scores(3.0, 2.0, 1.0, formats=("int2/g64/asym", "int4/g64/asym"))
    second = with_scores(3.0, 2.0, formats=("int4/g64/asym", "int8/g64/asym"))
    found = contrast(first, second)
    assert found.units == 2
    assert [each.format for each in found.agreements] == ["int4/g64/asym"]
    assert found.agreements[0].rank is None, "two units have no rank correlation"
    assert found.moves == ()
    assert contrast(first, replace(second, formats=("nf4/g64", "q4_k"))).agreements == ()


@given(st.lists(st.floats(1e-6, 1e3), min_size=3, max_size=7, unique=True), st.floats(0.1, 10))
def test_a_sweep_and_its_multiple_agree_in_order(values: list[float], factor: float) -> None:
    found = contrast(with_scores(*values), with_scores(*(value * factor for value in values)))
    assert found.moves == () or len({value * factor for value in values}) < len(values)
    assert math.isclose(found.agreements[0].ratio, factor, rel_tol=1e-9)


def changed(first: dict[str, str], second: dict[str, str], table: ScoreTable = TABLE) -> Changes:
    stored = (stored_bits(MODEL, table, first), stored_bits(MODEL, table, second))
    return changes(MODEL, table, (first, second), stored)


def test_what_a_recipe_changes_is_worked_out_by_hand() -> None:
    q, k, v = TABLE.units[:3]
    table = replace(
        TABLE, units=(q, k, v), formats=("int4/g64/asym", "int8/g64/asym"), fisher=((0.5, 0.1), (0.2, 0.3), (0.4, 0.0)),
        fisher_stderr=((0.03, 0.04), (0.0, 0.01), (0.1, 0.1)),
        storage_bits=tuple((4 * unit.parameters, 8 * unit.parameters) for unit in MODEL.units[:3]),
    )  # fmt: skip
    first = {q: "int4/g64/asym", k: "int4/g64/asym", v: "int8/g64/asym"}
    found = changed(first, {q: "int8/g64/asym", k: "original", v: "int8/g64/asym"}, table)
    assert [(one.unit, one.bits, one.kl) for one in found.units] == [(q, 4.0, -0.4), (k, 12.0, -0.2)]
    assert math.isclose(found.units[0].stderr, 0.05), "hypot of 0.03 and 0.04"
    assert found.kl is not None
    assert math.isclose(found.kl, -0.6)
    assert math.isclose(found.stderr, 0.05)
    assert changed(first, first, table) == ((), 0.0, 0.0)


def test_a_format_without_scores_leaves_the_difference_open() -> None:
    q, k = TABLE.units[:2]
    found = changed({q: "q4_k", k: "int4/g64/asym"}, {q: "int4/g64/asym", k: "int2/g64/asym"})
    assert (found.units[0].unit, found.units[0].kl, found.kl) == (q, None, None)
    assert found.units[1].kl is not None


FORMS = st.lists(st.sampled_from((*TABLE.formats, "original")), min_size=7, max_size=7)


@given(FORMS, FORMS)
def test_the_difference_is_that_of_the_sums_and_turns_around(left: list[str], right: list[str]) -> None:
    first, second = (dict(zip(TABLE.units, forms, strict=True)) for forms in (left, right))
    there, back = changed(first, second), changed(second, first)
    sums = [price(MODEL, TABLE, assignment).predicted_kl for assignment in (first, second)]
    assert there.kl is not None
    assert back.kl is not None
    assert math.isclose(there.kl, sums[1] - sums[0], abs_tol=1e-12)
    assert there.kl == -back.kl
    assert {one.unit for one in there.units} == {unit for unit in first if first[unit] != second[unit]}
