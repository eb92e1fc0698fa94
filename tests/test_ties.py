"""Ties: the rule by hand, and what it promises for any list."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from quant_core.plots.ties import tied, tied_neighbours, tied_runs, tied_with

Scores = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 2)), max_size=12)


def test_the_rule_by_hand() -> None:
    """Errors 3 and 4 make 5 for the difference, so that 9.8 is the most that is tied."""
    assert tied(10.0, 3.0, 0.2, 4.0)
    assert tied(0.2, 4.0, 10.0, 3.0)
    assert not tied(10.1, 3.0, 0.2, 4.0)
    assert tied(1.0, 0.0, 1.0, 0.0), "equal scores are tied however sure they are"
    assert not tied(1.0, 0.0, 1.1, 0.0)


def test_a_ranked_list_by_hand() -> None:
    """With errors of 1 a difference of up to 2.77 is tied: 10, 8, 6 in pairs but not all; 1 stands alone."""
    values, errors = (10.0, 8.0, 6.0, 1.0), (1.0,) * 4
    assert tied_neighbours(values, errors) == (True, True, False)
    assert tied_runs(values, errors) == ((0, 1), (1, 2))
    assert tied_runs((3.0, 2.0, 1.0), (1.0,) * 3) == ((0, 2),)
    columns = dict(zip("abcd", values, strict=True)), dict(zip("abcd", errors, strict=True))
    assert tied_with("b", *columns) == ("a", "c")
    assert tied_with("d", *columns) == ()
    assert tied_with("no such", *columns) == ()
    assert tied_with("a", columns[0], {}) == (), "without errors nothing is known"
    assert not tied_neighbours((), ())
    assert not tied_runs((), ())


@given(Scores)
def test_stretches_agree_with_neighbours_and_none_is_inside_another(
    scores: list[tuple[float, float]],
) -> None:
    ranked = sorted(scores, key=lambda pair: -pair[0])
    values, errors = [value for value, _ in ranked], [error for _, error in ranked]
    runs = tied_runs(values, errors)
    for first, last in runs:
        assert first < last
        bound = [1.96 * math.hypot(errors[first], errors[place]) for place in range(first + 1, last + 1)]
        assert all(
            values[first] - values[place] <= most
            for place, most in zip(range(first + 1, last + 1), bound, strict=True)
        )
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(runs))
    for place, is_tied in enumerate(tied_neighbours(values, errors)):
        if is_tied:
            assert any(first <= place and place + 1 <= last for first, last in runs)
