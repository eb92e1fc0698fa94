"""Two sweeps compared: a case worked out by hand, and what holds for any two."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from quant_core.contrast import contrast
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
