"""Number formats: against independent references, exact small cases, promised properties, and a contract for all."""

from __future__ import annotations

from dataclasses import replace

import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quant_core import costs
from quant_core.errors import FormatError
from quant_core.formats import FAMILIES, fake_quantize, find, from_blocks, to_blocks
from quant_core.names import granularities
from quant_core.schema import ORIGINAL, FamilyInfo


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


def random_matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


# --- exact, by hand -------------------------------------------------------------------------------------------------


def test_int4_asymmetric_group_by_hand() -> None:
    """Range -3..4.5 over 15 steps: scale 0.5, zero point round(-8 + 6) = -2, so w = 0.5 (q + 2)."""
    group = torch.tensor([-3.0, 4.5, 0.0, 0.3, 0.2, 1.26, -0.75, -0.76])
    form = find("int4/g32/asym")
    codes = form.quantize(to_blocks(group[None], form))
    assert codes.grid.scales.item() == 0.5
    assert codes.grid.zero_points is not None
    assert codes.grid.zero_points.item() == -2
    # 0.3 / 0.5 - 2 = -1.4 -> -1; 0.2 -> -1.6 -> -2; 1.26 -> 0.52 -> 1; -0.75 -> -3.5 -> -4 (even); -0.76 -> -3.52
    assert codes.values[0, :8].tolist() == [-8, 7, -2, -1, -2, 1, -4, -4]
    assert fake_quantize(form, group[None])[0].tolist() == [-3.0, 4.5, 0.0, 0.5, 0.0, 1.5, -1.0, -1.0]


def test_int4_symmetric_group_by_hand() -> None:
    """Largest magnitude 3.75 over 7.5: scale 0.5; codes -8..7, so +3.75 is clipped to 3.5 and -3.75 becomes -4."""
    weights = torch.tensor([[3.75, -3.75, 0.24, 0.26, -3.0]])
    assert fake_quantize(find("int4/channel/sym"), weights)[0].tolist() == [3.5, -4.0, 0.0, 0.5, -3.0]


def test_int2_per_tensor_by_hand() -> None:
    """Range 0..3 over 3 steps: scale 1, zero point -2, four values 0, 1, 2, 3."""
    weights = torch.tensor([[0.0, 3.0], [1.4, 1.6]])
    assert fake_quantize(find("int2/tensor/asym"), weights).tolist() == [[0.0, 3.0], [1.0, 2.0]]


@pytest.mark.parametrize(
    ("name", "rows", "columns", "bits"),
    [
        ("int4/g64/asym", 2, 128, 2 * 128 * 4 + 4 * (16 + 4)),
        ("int4/g64/sym", 2, 128, 2 * 128 * 4 + 4 * 16),
        ("int3/channel/asym", 2, 100, 2 * 100 * 3 + 2 * (16 + 3)),
        ("int8/tensor/sym", 2, 100, 2 * 100 * 8 + 16),
        ("int2/g32/asym", 2, 100, 2 * 128 * 2 + 8 * (16 + 2)),
        ("nf4/g64", 2, 128, 2 * 128 * 4 + 4 * 32),
        ("fp8_e4m3/channel", 2, 100, 2 * 100 * 8 + 2 * 32),
        ("original", 2, 100, 2 * 100 * 16),
    ],
)
def test_storage_by_hand(name: str, rows: int, columns: int, bits: int) -> None:
    assert find(name).storage(rows, columns, 16).total == bits


# --- independent references -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [64, 128, 256])
def test_nf4_equals_bitsandbytes(group: int) -> None:
    weights = random_matrix(64, 512, seed=group)
    packed, state = bnb.quantize_4bit(weights, blocksize=group, quant_type="nf4")
    reference = bnb.dequantize_4bit(packed, state)
    assert torch.equal(fake_quantize(find(f"nf4/g{group}"), weights), reference)


def test_fp8_per_tensor_equals_torch_float8() -> None:
    weights = random_matrix(48, 80)
    scale = weights.abs().max() / 448.0
    reference = (weights / scale).to(torch.float8_e4m3fn).float() * scale
    assert torch.equal(fake_quantize(find("fp8_e4m3/tensor"), weights), reference)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_integers_equal_torch_fake_quantize(bits: int, symmetric: bool) -> None:
    """PyTorch's own per-channel kernel, given our scale and zero point, rounds to the same values.

    The kernel multiplies by 1/scale where we divide, so a value within float error of a half step may round the other
    way: such ties are left out.
    """
    form = find(f"int{bits}/channel/{'sym' if symmetric else 'asym'}")
    weights = random_matrix(32, 96, seed=bits)
    codes = form.quantize(to_blocks(weights, form))
    scales = codes.grid.scales.float().flatten()
    zero = torch.zeros(32) if codes.grid.zero_points is None else codes.grid.zero_points.flatten().float()
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    reference = torch.fake_quantize_per_channel_affine(weights, scales, zero.int(), 0, low, high)
    phase = (weights / scales[:, None]).abs() % 1.0
    clear = (phase - 0.5).abs() > 1e-4
    ours = from_blocks(form.dequantize(codes), form, *weights.shape)
    torch.testing.assert_close(ours[clear], reference[clear], rtol=0, atol=1e-6)


# --- promised properties --------------------------------------------------------------------------------------------

finite = st.floats(-4.0, 4.0, width=32)
matrices = st.tuples(st.integers(1, 4), st.integers(1, 70)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=finite)
)


@settings(deadline=None, max_examples=40)
@given(
    matrices,
    st.sampled_from([2, 3, 4, 8]),
    st.sampled_from(["asym", "sym"]),
    st.sampled_from(["g32", "channel"]),
)
def test_integer_error_is_at_most_half_a_step_within_the_grid(
    values: np.ndarray, bits: int, symmetry: str, share: str
) -> None:
    form = find(f"int{bits}/{share}/{symmetry}")
    weights = torch.from_numpy(values)
    blocks = to_blocks(weights, form)
    codes = form.quantize(blocks)
    step = codes.grid.scales.float()
    zero = torch.zeros_like(step) if codes.grid.zero_points is None else codes.grid.zero_points.float()
    low, high = (-(2 ** (bits - 1)) - zero) * step, (2 ** (bits - 1) - 1 - zero) * step
    error = (form.dequantize(codes) - blocks).abs()
    within = (blocks >= low) & (blocks <= high)
    assert bool((error <= step * 0.5 + blocks.abs() * 1e-5)[within].all())
    nearest_end = torch.minimum((blocks - low).abs(), (blocks - high).abs())
    torch.testing.assert_close(error[~within], nearest_end[~within], rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(matrices)
def test_zero_stays_zero_in_every_integer_format(values: np.ndarray) -> None:
    weights = torch.from_numpy(values)
    for name in ("int2/g32/asym", "int4/channel/asym", "int8/tensor/asym", "int4/g64/sym"):
        assert bool((fake_quantize(find(name), weights)[weights == 0] == 0).all())


@pytest.mark.parametrize(
    "name", ["int8/channel/asym", "int6/g64/asym", "int4/g64/sym", "nf4/g64", "fp8_e4m3/channel"]
)
def test_more_bits_less_error(name: str) -> None:
    weights = random_matrix(32, 256)
    error = (fake_quantize(find(name), weights) - weights).square().sum()
    worse = (fake_quantize(find("int2/g64/asym"), weights) - weights).square().sum()
    assert error < worse


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
    for position in (0, 17, blocks.shape[1] - 1):
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
    with pytest.raises(FormatError, match="beyond what a float16 scale can hold"):
        fake_quantize(find("int8"), torch.tensor([[1e9, 0.0]]))
    with pytest.raises(FormatError, match="no matrix"):
        fake_quantize(find("int4"), torch.zeros(3))
