"""NF4 and FP4, with and without double quantization, against bitsandbytes, by hand, and in what they promise."""

from __future__ import annotations

import bitsandbytes.functional as bnb
import pytest
import torch
from torch import Tensor

from quant_core.formats import Grid, fake_quantize, find, from_blocks, to_blocks
from quant_core.formats.tables4 import FP4_TABLE, NF4_TABLE, dynamic_map
from tests.matrices import hard_rows, random_matrix

SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)


def unpacked(packed: Tensor, size: int) -> Tensor:
    """Codes as bitsandbytes packs them, two in a byte and the first in its upper half, as (blocks, size)."""
    return torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).reshape(-1, size)


# --- exact, by hand -------------------------------------------------------------------------------------------------


def test_nf4_by_hand() -> None:
    """Largest magnitude 2: 1.0 is 0.5 of it, between 0.4407 and 0.5626 and nearer to the first, which is code 12."""
    weights = torch.tensor([[2.0, -2.0, 0.0, 1.0, 1.01, -0.1]])
    form = find("nf4/g32")
    codes = form.quantize(to_blocks(weights, form))
    assert codes.grid.scales.item() == 2.0
    assert codes.values[0, :6].tolist() == [15, 0, 7, 12, 13, 6]
    expected = [2.0, -2.0, 0.0, 2 * NF4_TABLE[12], 2 * NF4_TABLE[13], 2 * NF4_TABLE[6]]
    torch.testing.assert_close(fake_quantize(form, weights), torch.tensor([expected]), rtol=0, atol=0)


def test_fp4_by_hand() -> None:
    """Largest magnitude 12, so that the values are 0, 0.0625, 2, 3, 4, 6, 8, 12, coded by their bits."""
    weights = torch.tensor([[12.0, -12.0, 0.03, 0.04, 4.9, -5.1, 7.1, -2.4]])
    form = find("fp4/g32")
    codes = form.quantize(to_blocks(weights, form))
    assert codes.values[0, :8].tolist() == [0b0011, 0b1011, 0, 0b0001, 0b0100, 0b1101, 0b0010, 0b1110]
    expected = torch.tensor([[12.0, -12.0, 0.0, 0.0625, 4.0, -6.0, 8.0, -2.0]])
    torch.testing.assert_close(fake_quantize(form, weights), expected, rtol=1e-6, atol=0)
    assert len(form.levels(codes.grid)) == 15


@pytest.mark.parametrize("family", ["nf4", "fp4"])
def test_double_quantization_by_hand(family: str) -> None:
    """Scales 1, 2, 3: mean 2, the rest -1, 0, 1, of largest magnitude 1; the least entry is -0.99297, the code 0."""
    weights = torch.zeros(3, 32)
    weights[:, 0] = torch.tensor([1.0, 2.0, -3.0])
    form = find(f"{family}/g32/dq")
    grid = form.fit(weights)
    assert grid.scales.dtype == torch.uint8
    assert grid.scales.flatten().tolist() == [0, 127, 255]
    assert grid.extras["offset"].tolist() == [[2.0]]
    assert grid.extras["second"].tolist() == [[1.0]] * 3
    values = fake_quantize(form, weights)
    least = 1.0 - (0.9 + 0.1 * 63 / 64 - 0.1) / 0.9 * 0 - (0.1 + 0.9 * 63.5 / 64)
    torch.testing.assert_close(values[:, 0], torch.tensor([1.0 + least, 2.0, -3.0]))


def test_a_negative_scale_mirrors_the_block() -> None:
    """Scales 0.01, 1 and 5: mean 2.0033, and the first less the mean is -0.66519 of the largest rest, 2.9967.

    The nearest entry is -0.1 - 0.9 * 40.5 / 64 = -0.66953, so that the first block's scale is stored as -0.00303.
    """
    weights = torch.zeros(3, 32)
    weights[0, :5] = torch.tensor([0.01, -0.01, 0.003, 0.0005, -0.002])
    weights[1, 0], weights[2, 0] = 1.0, 5.0
    form = find("nf4/g32/dq")
    codes = form.quantize(weights)
    assert codes.values[0, :6].tolist() == [0, 15, 0, 5, 14, 7]
    grid = codes.grid.take(slice(0, 1))
    levels = torch.tensor(NF4_TABLE) * float(form.dequantize(codes)[0, 1])
    assert levels[15] == pytest.approx(-0.00303, abs=1e-5)
    nearest = levels[(weights[0, :, None] - levels).abs().argmin(dim=1)]
    assert torch.equal(form.dequantize(codes)[0], nearest)
    assert torch.equal(form.levels(grid), levels.flip(0))
    low, high = form.bounds(grid, 1)
    assert (low.item(), high.item()) == (levels[15].item(), levels[0].item())


@pytest.mark.parametrize(
    ("name", "rows", "columns", "bits"),
    [
        ("nf4/g64", 2, 128, 2 * 128 * 4 + 4 * 32),
        ("fp4/g4096", 2, 100, 2 * 4096 * 4 + 2 * 32),
        ("nf4/g64/dq", 2, 128, 2 * 128 * 4 + 4 * 8 + 32 + 32),
        ("fp4/g32/dq", 16, 544, 16 * 544 * 4 + 272 * 8 + 2 * 32 + 32),
    ],
)
def test_storage_by_hand(name: str, rows: int, columns: int, bits: int) -> None:
    assert find(name).storage(rows, columns, 16).total == bits


# --- independent references -----------------------------------------------------------------------------------------


def test_tables_equal_bitsandbytes() -> None:
    for name, table in (("nf4", NF4_TABLE), ("fp4", FP4_TABLE)):
        assert torch.equal(torch.tensor(table), bnb.get_4bit_type(name, device="cpu"))
    assert torch.equal(dynamic_map(), bnb.create_dynamic_map())


@pytest.mark.parametrize("family", ["nf4", "fp4"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_equals_bitsandbytes(family: str, size: int, dtype: torch.dtype) -> None:
    """Codes, scales and values, bit for bit; FP4's second zero, which bitsandbytes also writes, is the first."""
    weights = random_matrix(max(4, 16384 // size), size, seed=size).to(dtype)
    form = find(f"{family}/g{size}")
    codes = form.quantize(to_blocks(weights, form))
    packed, state = bnb.quantize_4bit(weights, blocksize=size, quant_type=family)
    theirs = unpacked(packed, size)
    if family == "fp4":
        theirs = torch.where(theirs == 8, 0, theirs)
    assert torch.equal(codes.values, theirs)
    assert torch.equal(codes.grid.scales.flatten(), state.absmax)
    assert torch.equal(fake_quantize(form, weights), bnb.dequantize_4bit(packed, state))


@pytest.mark.parametrize("family", ["nf4", "fp4"])
@pytest.mark.parametrize(("size", "rows"), [(32, 100), (64, 512), (256, 6), (4096, 2)])
def test_double_quantization_equals_bitsandbytes(family: str, size: int, rows: int) -> None:
    """The stored second level is bitsandbytes' own, and what it stores decodes to the same bits here.

    Its codes for the scales come from a coarse look-up on a CPU: a few are one off, and ours are as near or nearer.
    """
    weights = random_matrix(rows, 4096, seed=size) * torch.linspace(0.5, 2.0, rows)[:, None]
    form = find(f"{family}/g{size}/dq")
    codes = form.quantize(to_blocks(weights, form))
    packed, state = bnb.quantize_4bit(weights, blocksize=size, quant_type=family, compress_statistics=True)
    second = state.state2.absmax.repeat_interleave(256)[: len(state.absmax)]
    assert torch.equal(codes.grid.extras["offset"].flatten(), state.offset.flatten())
    assert torch.equal(codes.grid.extras["second"].flatten(), second)
    ours, theirs = codes.grid.scales.flatten(), state.absmax
    assert int((ours.int() - theirs.int()).abs().max()) <= 1
    assert float((ours != theirs).float().mean()) <= 0.01
    target = (to_blocks(weights, form).abs().amax(dim=1) - state.offset) / second
    near, nearest = ((dynamic_map()[code.int()] - target).abs() for code in (theirs, ours))
    assert bool((nearest <= near + 1e-6).all())

    grid = Grid(theirs[:, None], extras={"second": second[:, None], "offset": state.offset.reshape(1, 1)})
    reference = bnb.dequantize_4bit(packed, state)
    decoded = from_blocks(form.decode(unpacked(packed, size), grid), form, rows, 4096)
    assert torch.equal(decoded, reference)
    blocks = to_blocks(weights, form)
    error = (form.decode(form.encode(blocks, grid), grid) - blocks).abs()
    assert bool((error <= (to_blocks(reference, form) - blocks).abs() + 1e-7).all())


# --- promised properties --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["nf4", "fp4"])
def test_double_quantization_costs_little(family: str) -> None:
    """QLoRA's claim: rounding the scales hardly adds to the error, and saves 0.37 bits a weight at blocks of 64."""
    weights = random_matrix(64, 1024)
    plain, double = find(f"{family}/g64"), find(f"{family}/g64/dq")
    error = [float((fake_quantize(form, weights) - weights).square().sum()) for form in (plain, double)]
    assert error[1] <= 1.02 * error[0]
    saved = (plain.storage(4096, 4096).total - double.storage(4096, 4096).total) / 4096**2
    assert saved == pytest.approx(0.373, abs=0.0005)


def test_only_double_quantization_ties_blocks_together() -> None:
    assert find("nf4/g64").independent
    assert not find("fp4/g64/dq").independent


@pytest.mark.parametrize("name", ["nf4/g32", "fp4/g64", "nf4/g64/dq", "fp4/g32/dq"])
def test_hard_rows_stay_finite(name: str) -> None:
    for largest in (3e4, 1e30):
        result = fake_quantize(find(name), hard_rows(largest))
        assert bool(torch.isfinite(result).all())
        assert bool((result[0] == 0).all())
        assert result[1, 7] == largest or name.endswith("dq")
        assert float(result.abs().max()) <= 1.01 * largest


def test_nf4_suits_normal_weights() -> None:
    """QLoRA's reason for the table: of 4-bit formats with a scale alone a block, it errs least on normal ones."""
    weights = random_matrix(64, 1024, seed=1)
    nf4, *others = (
        float((fake_quantize(find(name), weights) - weights).square().sum())
        for name in ("nf4/g64", "int4/g64/sym", "fp4/g64")
    )
    assert nf4 < min(others)
