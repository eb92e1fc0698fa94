"""The contract that every registered number format keeps, and what the layout does for all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from quant_core import costs
from quant_core.errors import FormatError
from quant_core.formats import FAMILIES, fake_quantize, find, from_blocks, to_blocks
from quant_core.names import granularities
from quant_core.schema import ORIGINAL, FamilyInfo
from tests.matrices import random_matrix


def every_format() -> list[str]:
    """The full name of each format that the registry can make, at each group size it offers."""
    return [name for family in FAMILIES.values() for name in _names(family.info)]


def _names(info: FamilyInfo) -> list[str]:
    shares = [f"/{part}" for part in granularities(info)] or [""]
    tails = [f"/{symmetry}" for symmetry in info.symmetries] or [""]
    names = [info.name + share + tail for share in shares for tail in tails]
    if info.double:
        names += [f"{name}/dq" for name in names]
    return names if info.name == ORIGINAL else [*names, f"{names[0]}/keep0.5"]


# --- exact, by hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "columns", "bits"),
    [
        ("original", 2, 100, 2 * 100 * 16),
        ("int4/g64/sym/keep0.5", 2, 128, 2 * 128 * 4 + 4 * 16 + (16 + 16) + 3 * 32),
        ("int4/channel/sym/keep1.0", 1, 100_000, 100_000 * 4 + 16 + 1000 * (16 + 32) + 2 * 32),
    ],
)
def test_storage_by_hand(name: str, rows: int, columns: int, bits: int) -> None:
    assert find(name).storage(rows, columns, 16).total == bits


# --- the contract: what holds for every registered format -----------------------------------------------------------


@pytest.mark.parametrize("name", every_format())
def test_contract(name: str) -> None:
    form = find(name)
    assert form.name == name, "a full name parses back to itself"
    weights = random_matrix(12, 200, seed=3)
    blocks = to_blocks(weights, form)
    codes = form.quantize(blocks)
    assert codes.values.shape == blocks.shape
    result = fake_quantize(form, weights)
    assert result.shape == weights.shape
    assert result.dtype == weights.dtype
    assert bool(torch.isfinite(result).all())
    assert torch.equal(result, fake_quantize(form, weights)), "deterministic"
    if not form.spec.keep:
        assert torch.equal(result, from_blocks(form.dequantize(codes), form, 12, 200)), "one path only"
    storage = costs.storage(info := form.info, replace(form.spec, keep=0), 12, 200, 16)
    assert storage.padded == blocks.numel() - weights.numel()
    assert storage.codes == len(blocks) * -(-blocks.shape[1] // info.pack) * (info.value_bits or 16)
    if info.value_bits and info.pack == 1:
        assert len(codes.values.float().unique()) <= 2**info.value_bits, "codes fit their bits"
    half = fake_quantize(form, weights.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert bool((fake_quantize(form, torch.zeros(4, 70)) == 0).all()), "zeros survive"


@pytest.mark.parametrize("name", [name for name in every_format() if name != ORIGINAL])
def test_every_value_is_the_nearest_level_of_its_place(name: str) -> None:
    """Up to ties and a float error, no other value that the place can hold is nearer."""
    form = find(name)
    blocks = to_blocks(random_matrix(4, 512, seed=6), form)
    codes = form.quantize(blocks)
    values = form.dequantize(codes)
    low, high = form.bounds(codes.grid, blocks.shape[1])
    for position in (0, 17 % blocks.shape[1], blocks.shape[1] - 1):
        levels = form.levels(codes.grid.take(slice(0, 1)), position)
        assert bool((levels.diff() > 0).all())
        value = values[0, position]
        assert bool(torch.isin(value, levels))
        assert (
            float((value - blocks[0, position]).abs())
            <= float((levels - blocks[0, position]).abs().min()) + 1e-6
        )
        assert (float(low[0, position]), float(high[0, position])) == (float(levels[0]), float(levels[-1]))
        if form.info.uniform:
            step = form.step(codes.grid)[0]
            torch.testing.assert_close(
                levels.diff(), step[min(position, len(step) - 1)].expand(len(levels) - 1)
            )


@pytest.mark.parametrize("name", [name for name in every_format() if name != ORIGINAL])
def test_a_code_depends_on_its_value_and_place_alone(name: str) -> None:
    form = find(name)
    blocks = to_blocks(random_matrix(6, 512, seed=7), form)
    grid = form.fit(blocks)
    whole = form.decode(form.encode(blocks, grid), grid)
    for start, width in ((0, 1), (19, 1), (32, 16)):
        if start + width > blocks.shape[1]:
            continue
        some = torch.arange(len(blocks)).flip(0)
        part, part_grid = blocks[some, start : start + width], grid.take(some)
        again = form.decode(form.encode(part, part_grid, start), part_grid, start)
        assert torch.equal(again, whole[some, start : start + width])


@pytest.mark.parametrize("name", [name for name in every_format() if "keep" in name])
def test_kept_weights_come_back_exactly(name: str) -> None:
    form = find(name)
    weights = random_matrix(16, 250, seed=8).to(torch.bfloat16)
    result = fake_quantize(form, weights)
    largest = weights.float().abs().flatten().sort(descending=True, stable=True).indices[:20]
    assert torch.equal(result.flatten()[largest], weights.flatten()[largest])
    dense = fake_quantize(find(name.replace("/keep0.5", "")), weights)
    assert float((result - weights).square().sum()) <= float((dense - weights).square().sum())


@pytest.mark.parametrize("name", [name for name in every_format() if name != ORIGINAL])
def test_hard_cases(name: str) -> None:
    """Groups of zeros, one huge value, values too small to divide by, and rows that no group divides."""
    form = find(name)
    weights = random_matrix(5, 333, seed=9)
    weights[0] = 0.0
    weights[1, 7] = 3e4
    weights[2] = 1e-42
    weights[3] *= 1e-6
    result = fake_quantize(form, weights)
    assert bool(torch.isfinite(result).all())
    if form.spec.granularity not in ("tensor", "block") and not form.info.tensor_bits:
        assert bool((result[0] == 0).all())
    reach = float(weights.abs().max())
    assert float(result.abs().max()) <= 1.2 * reach
    for dtype in (torch.float16, torch.bfloat16):
        assert bool(torch.isfinite(fake_quantize(form, weights.to(dtype))).all())


def test_padding_changes_nothing() -> None:
    """A row of 100 in groups of 64 is quantized as its 64 and its 36 values are on their own."""
    weights = random_matrix(3, 100)
    whole = fake_quantize(find("int4/g64/asym"), weights)
    parts = [fake_quantize(find("int4/channel/asym"), part) for part in (weights[:, :64], weights[:, 64:])]
    assert torch.equal(whole, torch.cat(parts, dim=1))


def test_the_smallest_numbers_become_zero_or_stay() -> None:
    """A row whose largest value is the smallest float has no scale of its own, and must not turn into NaN."""
    weights = torch.tensor([[1e-45, 0.0, 0.0], [1.0, 2.0, 3.0]])
    for name in ("fp8_e4m3/channel", "int8/channel/asym", "nf4/g32"):
        result = fake_quantize(find(name), weights)
        assert bool(torch.isfinite(result).all())
        assert float(result[0].abs().max()) < 1e-6


def test_refusals() -> None:
    with pytest.raises(FormatError, match="infinite or undefined"):
        fake_quantize(find("int4"), torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(FormatError, match="no matrix"):
        fake_quantize(find("int4"), torch.zeros(3))
