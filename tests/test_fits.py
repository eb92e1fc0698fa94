"""Which machines a model fits on, by hand."""

from __future__ import annotations

import pytest

from quant_core.allocation.fits import fits, usable_share
from quant_core.schema import ModelInfo, Use, replace
from quant_core.targets.hardware import Hardware, machines
from quant_core.workspace import Workspace
from tests import made_results


def machine(kind: str, memory: float) -> Hardware:
    return Hardware("x", "X", kind, 100.0, 10.0, memory, frozenset(), "made up")


@pytest.fixture
def large() -> ModelInfo:
    """1,000 cached values a token, activations of 2 · 1,000 · (2 · 10 + 2 · 512) bytes and logits of 4 · 100."""
    return replace(made_results.model(), kv_values=1000, hidden_size=10, vocabulary=100)


def test_what_is_needed_and_left_by_hand(large: ModelInfo) -> None:
    (found,) = fits(large, {"a": 5e9, "b": 10e9}, Use(1000, 1, 16.0), [machine("GPU", 10.0)])
    beside = 1000 * 1000 * 2 + 2 * 1000 * (2 * 10 + 2 * 512) + 4 * 100
    assert found.usable == 9e9
    assert found.needed == {"a": 5e9 + beside, "b": 10e9 + beside}
    assert found.left("a") == pytest.approx(1 - (5e9 + beside) / 9e9)
    assert found.left("b") < 0


def test_a_smaller_cache_leaves_more(large: ModelInfo) -> None:
    left = [
        fits(large, {"a": 1e9}, Use(context, 1, bits), [machine("CPU", 10.0)])[0].left("a")
        for context, bits in ((4000, 16.0), (4000, 4.0), (2048, 4.0))
    ]
    assert left == sorted(left)
    assert len(set(left)) == 3


@pytest.mark.parametrize(
    ("kind", "memory", "share"),
    [("GPU", 24, 0.9), ("CPU", 64, 0.8), ("Apple", 16, 2 / 3), ("Apple", 36, 2 / 3), ("Apple", 64, 0.75)],
)
def test_what_a_runtime_can_use(kind: str, memory: float, share: float) -> None:
    assert usable_share(machine(kind, memory)) == share


def test_every_machine_of_the_list_is_judged(workspace: Workspace, info: ModelInfo) -> None:
    found = workspace.fits(info, {"original": workspace.weight_bytes(info, "original")}, Use())
    assert [fit.machine.name for fit in found] == list(machines())
    assert {fit.machine.kind for fit in found} == {"GPU", "Apple", "CPU"}, "every kind has its share"
    assert all(fit.left("original") > 0.99 for fit in found)


def test_assigned_bits_add_up_to_assigned_bytes(workspace: Workspace, info: ModelInfo) -> None:
    """Units of one shape and format are worked out once; each still has its own."""
    first, second, *_ = (unit.name for unit in info.units if unit.role == "q_proj")
    bits = workspace.assigned_bits(info, {first: "int4/g64/asym"})
    assert bits[first] == workspace.stored_bits(
        next(u for u in info.units if u.name == first), "int4/g64/asym"
    )
    assert bits[second] == 256 * 256 * 16
    assert list(bits) == [unit.name for unit in info.units]
    assert (
        workspace.assigned_bytes(info, {first: "int4/g64/asym"}) == (sum(bits.values()) + info.other_bits) / 8
    )
