"""Where a layer's cost comes from: three factors against the median layer, by hand and as a property."""

from __future__ import annotations

import math

import pytest

from quant_core.plots import reason, reason_text
from quant_core.plots.reasons import Reason
from quant_core.schema import replace
from tests import made_results

FORM = "int4/g64/asym"


def column(values: dict[int, float], rows: int, formats: int) -> tuple[tuple[float, ...], ...]:
    """Ones, but for some rows."""
    return tuple((values.get(row, 1.0),) * formats for row in range(rows))


def test_the_factors_of_one_layer_by_hand() -> None:
    """KL 12 times, output error 6 times, weight error 2 times the median: 2, then 6/2, then 12/6."""
    whole = made_results.table(made_results.model())
    size = (len(whole.units), len(whole.formats))
    table = replace(
        whole, fisher=column({3: 12.0}, *size), output=column({3: 6.0}, *size), weight=column({3: 2.0}, *size)
    )
    assert reason(table, whole.units[3], FORM) == Reason(12.0, 2.0, 3.0, 2.0)
    assert reason_text(Reason(12.0, 2.0, 3.0, 2.0)) == (
        "It costs 12 times what the median layer costs, above all because its inputs stress the weights that err more: "
        "weights × 2, inputs × 3, model × 2."
    )
    assert reason(table, whole.units[0], FORM) == Reason(1.0, 1.0, 1.0, 1.0)
    assert reason_text(Reason(1.0, 1.0, 1.0, 1.0)).startswith("It costs about as much as the median layer: ")
    assert "the model reacts to its output more weakly" in reason_text(Reason(0.1, 1.0, 1.0, 0.1))


def test_the_factors_multiply_to_the_whole() -> None:
    table = made_results.table(made_results.model())
    for unit in table.units:
        found = reason(table, unit, FORM)
        assert found is not None
        assert math.isclose(found.times, found.weights * found.inputs * found.model, rel_tol=1e-9)


@pytest.mark.parametrize("missing", ["fisher", "output", "weight"])
def test_without_one_of_the_scores_there_is_no_reason(missing: str) -> None:
    table = made_results.table(made_results.model())
    assert reason(replace(table, **{missing: ()}), table.units[0], FORM) is None
