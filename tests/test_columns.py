"""Columns scored from a state join the sweep's: which, in what order, and what is refused."""

from __future__ import annotations

import pytest

from quant_core.columns import joined
from quant_core.errors import QuantError
from quant_core.schema import ModelRef, RescoreRequest, ScoreTable, replace
from quant_core.store.keys import request_key
from quant_core.store.kinds import kind_of

SWEEP = ScoreTable(
    fingerprint="f", units=("a", "b"), formats=("int3", "int4"), storage_bits=((30, 40), (60, 80)),
    padded=((0, 0), (1, 1)), tokens=8, sequences=2, text_hash="t", text_label="text", seed=0, seconds=1.0,
    weight=((0.3, 0.2), (0.5, 0.4)), output=((3.0, 2.0), (5.0, 4.0)), fisher=((0.03, 0.02), (0.05, 0.04)),
    fisher_stderr=((0.003, 0.002), (0.005, 0.004)), state="s",
)  # fmt: skip
MORE = replace(
    SWEEP, formats=("int4", "nf4"), storage_bits=((1, 45), (1, 90)), padded=((9, 0), (9, 2)),
    weight=((9.0, 0.1), (9.0, 0.15)), output=((9.0, 1.0), (9.0, 1.5)), fisher=((9.0, 0.01), (9.0, 0.015)),
    fisher_stderr=((9.0, 0.001), (9.0, 0.0015)), rescored=("int4", "nf4"), notes=("A note.",), seconds=0.1,
)  # fmt: skip


def test_new_columns_stand_behind_the_sweeps_own_and_are_marked() -> None:
    both = joined(SWEEP, [MORE])
    assert both == replace(
        SWEEP, formats=("int3", "int4", "nf4"), rescored=("nf4",), storage_bits=((30, 40, 45), (60, 80, 90)),
        padded=((0, 0, 0), (1, 1, 2)), weight=((0.3, 0.2, 0.1), (0.5, 0.4, 0.15)),
        output=((3.0, 2.0, 1.0), (5.0, 4.0, 1.5)), fisher=((0.03, 0.02, 0.01), (0.05, 0.04, 0.015)),
        fisher_stderr=((0.003, 0.002, 0.001), (0.005, 0.004, 0.0015)), notes=("A note.",),
    )  # fmt: skip


def test_joining_nothing_or_the_same_twice_changes_nothing() -> None:
    assert joined(SWEEP, []) == SWEEP
    assert joined(SWEEP, [MORE, MORE]) == joined(SWEEP, [MORE])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"state": "other"}, "another sweep"),
        ({"state": ""}, "another sweep"),
        ({"units": ("a", "c")}, "2 layers"),
    ],
)
def test_foreign_columns_are_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(QuantError, match=sentence):
        joined(SWEEP, [replace(MORE, **changes)])


def test_rescoring_goes_first_and_counts_by_content() -> None:
    """It is served in the middle of long jobs, and where the model lies or runs makes no other request."""
    request = RescoreRequest(ModelRef("bundled"), "f", "s", ("nf4",))
    moved = replace(request, model=ModelRef("/elsewhere", device="cuda"), roots=("/",))
    assert kind_of(request).interactive
    assert request_key(moved) == request_key(request)
    others = [replace(request, state="t"), replace(request, formats=("fp4",)), replace(request, units=("a",))]
    assert len({request_key(each) for each in (request, *others)}) == 4


def test_a_sweep_without_a_state_takes_nothing() -> None:
    bare = replace(SWEEP, state="")
    with pytest.raises(QuantError, match="another sweep"):
        joined(bare, [replace(MORE, state="")])
