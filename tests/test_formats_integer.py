"""INT2 to INT8 against compressed-tensors, torchao and PyTorch, by hand, and in what they promise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs, quantize
from compressed_tensors.quantization import fake_quantize as ct_fake_quantize
from compressed_tensors.quantization.utils import calculate_qparams
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from torchao.quantization import quant_primitives as torchao

from quant_core.errors import FormatError
from quant_core.formats import Codes, Format, fake_quantize, find, from_blocks, to_blocks
from tests.matrices import hard_rows, random_matrix

BITS = range(2, 9)
SHARES = ("tensor", "channel", "g32", "g128")
ROWS, COLUMNS = 24, 256


def quantized(name: str, weights: Tensor) -> tuple[Format, Codes]:
    form = find(name)
    return form, form.quantize(to_blocks(weights, form))


def block_shape(share: str) -> tuple[int, int]:
    """The block of one scale as (rows, columns), which is how torchao names granularities."""
    wide = {"tensor": (ROWS, COLUMNS), "channel": (1, COLUMNS)}
    return wide.get(share) or (1, int(share[1:]))


def per_block(values: Tensor, share: str) -> Tensor:
    """(blocks, 1) as the references lay them out: a row of groups for each output."""
    return values.reshape(1, 1) if share == "tensor" else values.reshape(ROWS, -1)


def clear(weights: Tensor, scales: Tensor, zero: Tensor, share: str) -> Tensor:
    """Which weights (rows, columns) lie off the half step by more than float error."""
    wide = COLUMNS // per_block(scales, share).shape[1]
    step, origin = (per_block(part, share).repeat_interleave(wide, dim=1) for part in (scales, zero))
    return ((weights / step + origin) % 1.0 - 0.5).abs() > 1e-3


# --- exact, by hand -------------------------------------------------------------------------------------------------


def test_int4_asymmetric_group_by_hand() -> None:
    """Range -3..4.5 over 15 steps: scale 0.5, zero point round(-8 + 6) = -2, so w = 0.5 (q + 2)."""
    group = torch.tensor([[-3.0, 4.5, 0.0, 0.3, 0.2, 1.26, -0.75, -0.76]])
    form, codes = quantized("int4/g32/asym", group)
    assert codes.grid.scales.item() == 0.5
    assert codes.grid.zero_points is not None
    assert codes.grid.zero_points.item() == -2
    # 0.3 / 0.5 - 2 = -1.4 -> -1; 0.2 -> -1.6 -> -2; 1.26 -> 0.52 -> 1; -0.75 -> -3.5 -> -4 (even); -0.76 -> -3.52
    assert codes.values[0, :8].tolist() == [-8, 7, -2, -1, -2, 1, -4, -4]
    assert fake_quantize(form, group)[0].tolist() == [-3.0, 4.5, 0.0, 0.5, 0.0, 1.5, -1.0, -1.0]


def test_int4_symmetric_group_by_hand() -> None:
    """Largest magnitude 3.75 over 7.5: scale 0.5; codes -8..7, so +3.75 is clipped to 3.5 and -3.75 becomes -4."""
    weights = torch.tensor([[3.75, -3.75, 0.24, 0.26, -3.0]])
    assert fake_quantize(find("int4/channel/sym"), weights)[0].tolist() == [3.5, -4.0, 0.0, 0.5, -3.0]


def test_int2_per_tensor_by_hand() -> None:
    """Range 0..3 over 3 steps: scale 1, zero point -2, four values 0, 1, 2, 3."""
    weights = torch.tensor([[0.0, 3.0], [1.4, 1.6]])
    assert fake_quantize(find("int2/tensor/asym"), weights).tolist() == [[0.0, 3.0], [1.0, 2.0]]


def test_int2_float_zero_point_by_hand() -> None:
    """Range 1..2.5 over 3 steps, without 0: scale 0.5, zero point -2 - 2 = -4; row 2: -1..0.5, so -2 + 2 = 0.

    Row 3: range -0.25..1.25, zero point -2 + 0.5 = -1.5, no whole number: the grid is -0.25, 0.25, 0.75, 1.25.
    """
    weights = torch.tensor([[1.0, 1.3, 2.5, 1.8], [-1.0, 0.5, 0.2, -0.3], [-0.25, 1.25, 0.1, 0.6]])
    form, codes = quantized("int2/channel/float", weights)
    assert codes.grid.scales.flatten().tolist() == [0.5, 0.5, 0.5]
    assert codes.grid.zero_points is not None
    assert codes.grid.zero_points.dtype == torch.float16
    assert codes.grid.zero_points.flatten().tolist() == [-4.0, 0.0, -1.5]
    assert codes.values.tolist() == [[-2, -1, 1, 0], [-2, 1, 0, -1], [-2, 1, -1, 0]]
    expected = [[1.0, 1.5, 2.5, 2.0], [-1.0, 0.5, 0.0, -0.5], [-0.25, 1.25, 0.25, 0.75]]
    assert form.dequantize(codes).tolist() == expected
    assert form.levels(codes.grid.take(slice(2, 3))).tolist() == [-0.25, 0.25, 0.75, 1.25]


@pytest.mark.parametrize(
    ("name", "rows", "columns", "bits"),
    [
        ("int4/g64/asym", 2, 128, 2 * 128 * 4 + 4 * (16 + 4)),
        ("int4/g64/sym", 2, 128, 2 * 128 * 4 + 4 * 16),
        ("int4/g64/float", 2, 128, 2 * 128 * 4 + 4 * (16 + 16)),
        ("int3/channel/asym", 2, 100, 2 * 100 * 3 + 2 * (16 + 3)),
        ("int7/g256/asym", 2, 300, 2 * 512 * 7 + 4 * (16 + 7)),
        ("int8/tensor/sym", 2, 100, 2 * 100 * 8 + 16),
        ("int2/g32/asym", 2, 100, 2 * 128 * 2 + 8 * (16 + 2)),
        ("int5/tensor/float", 2, 100, 2 * 100 * 5 + 32),
    ],
)
def test_storage_by_hand(name: str, rows: int, columns: int, bits: int) -> None:
    assert find(name).storage(rows, columns, 16).total == bits


# --- independent references -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetry", ["sym", "asym"])
@pytest.mark.parametrize("share", SHARES)
def test_equals_compressed_tensors(bits: int, symmetry: str, share: str) -> None:
    """Its scale, told to round to float16, is ours; from our scale it makes our codes and values, bit for bit.

    It takes the zero point from the scale before that is rounded, so that one near a half step may be the neighbour.
    """
    weights = random_matrix(ROWS, COLUMNS, seed=bits) + 0.01
    form, codes = quantized(f"int{bits}/{share}/{symmetry}", weights)
    args = QuantizationArgs(
        num_bits=bits,
        symmetric=symmetry == "sym",
        strategy="group" if share.startswith("g") else share,
        group_size=int(share[1:]) if share.startswith("g") else None,
        scale_dtype=torch.float16,
    )
    blocks = to_blocks(weights, form)
    scales, zero = calculate_qparams(blocks.amin(dim=1), blocks.amax(dim=1), args)
    assert torch.equal(scales, codes.grid.scales.flatten().float())
    ours = torch.zeros(len(blocks), dtype=torch.int8)
    if codes.grid.zero_points is not None:
        ours = codes.grid.zero_points.flatten()
        low, high = blocks.amin(dim=1).clamp(max=0), blocks.amax(dim=1).clamp(min=0)
        phase = (-low / (high - low) * (2**bits - 1)) % 1.0
        sure = (phase - 0.5).abs() > 2**bits / 2048
        assert int(sure.sum()) >= len(sure) // 2
        assert torch.equal(ours[sure], zero[sure])
        assert int((ours.int() - zero.int()).abs().max()) <= 1
    given = per_block(scales, share), per_block(ours, share)
    assert torch.equal(
        quantize(weights, *given, args), from_blocks(codes.values, form, ROWS, COLUMNS).float()
    )
    assert torch.equal(ct_fake_quantize(weights, *given, args), fake_quantize(form, weights))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetry", ["sym", "asym"])
@pytest.mark.parametrize("share", SHARES)
def test_equals_torchao(bits: int, symmetry: str, share: str) -> None:
    """Its scale, as float16, is ours; from our scale and zero point it makes our codes, off the half steps.

    torchao multiplies by 1/scale and rounds before it adds the zero point, so that ties may go the other way.
    """
    weights = random_matrix(ROWS, COLUMNS, seed=10 + bits) - 0.01
    form, codes = quantized(f"int{bits}/{share}/{symmetry}", weights)
    kind = torchao.MappingType.SYMMETRIC if symmetry == "sym" else torchao.MappingType.ASYMMETRIC
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    block = block_shape(share)
    scales, _ = torchao.choose_qparams_affine(
        weights, kind, block, torch.int8, low, high, scale_dtype=torch.float16
    )
    assert torch.equal(scales.flatten(), codes.grid.scales.flatten())
    step = codes.grid.scales.float()
    zero = torch.zeros_like(step) if codes.grid.zero_points is None else codes.grid.zero_points.float()
    reference = torchao.quantize_affine(weights, block, step, zero, torch.int8, low, high)
    sure = clear(weights, step, zero, share)
    assert float(sure.float().mean()) > 0.95
    assert torch.equal(from_blocks(codes.values, form, ROWS, COLUMNS)[sure], reference[sure])
    values = torchao.dequantize_affine(reference, block, step, zero, torch.int8, low, high)
    assert torch.equal(fake_quantize(form, weights)[sure], values[sure])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("share", SHARES)
def test_float_zero_point_equals_torchao(bits: int, share: str) -> None:
    """The float domain of torchao stores ``-scale * z``; from ours, so turned, it makes our codes and values."""
    weights = random_matrix(ROWS, COLUMNS, seed=20 + bits) + 0.02
    form, codes = quantized(f"int{bits}/{share}/float", weights)
    assert codes.grid.zero_points is not None
    block, high, half = block_shape(share), 2**bits - 1, 2 ** (bits - 1)
    step, zero = codes.grid.scales.float(), codes.grid.zero_points.float()
    scales, origin = torchao._choose_qparams_affine_tinygemm(
        weights, torchao.MappingType.ASYMMETRIC, block, torch.uint8, 0, high, scale_dtype=torch.float16
    )
    assert torch.equal(scales.flatten(), codes.grid.scales.flatten())
    rounding = step * (half + zero.abs()) / 1024  # of the scale, which it rounds after, and of our zero point
    assert bool(((-step * zero - origin.reshape(-1, 1)).abs() <= rounding).all())
    reference = torchao._quantize_affine_tinygemm(weights, block, step, -step * zero, torch.uint8, 0, high)
    sure = clear(weights, step, zero, share)
    assert float(sure.float().mean()) > 0.95
    ours = from_blocks(codes.values, form, ROWS, COLUMNS)
    assert torch.equal(ours[sure].int() + half, reference[sure].int())
    values = torchao._dequantize_affine_tinygemm(reference, block, step, -step * zero, torch.uint8, 0, high)
    torch.testing.assert_close(fake_quantize(form, weights)[sure], values[sure], rtol=0, atol=1e-6)


@pytest.mark.parametrize("bits", [bits for bits in BITS if bits != 4])  # at 4 bits HQQ rounds its zero point
def test_float_zero_point_equals_hqq(bits: int) -> None:
    """HQQ's zero point and scale, before it optimises them, up to our float16 (it counts codes from 0)."""
    weights = random_matrix(ROWS, COLUMNS, seed=30 + bits) + 0.02
    _, codes = quantized(f"int{bits}/g64/float", weights)
    assert codes.grid.zero_points is not None
    _, scales, zero, _ = torchao._choose_qparams_and_quantize_affine_hqq(
        weights, bits, 64, optimize=False, compute_dtype=torch.float32, device="cpu", raw_output=True
    )
    torch.testing.assert_close(codes.grid.scales.float(), scales.reshape(-1, 1), rtol=2**-11, atol=0)
    ours = codes.grid.zero_points.float() + 2 ** (bits - 1)
    torch.testing.assert_close(ours, zero.reshape(-1, 1), rtol=2**-10, atol=2**bits / 2048)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_equals_torch_fake_quantize(bits: int, symmetric: bool) -> None:
    """PyTorch's own per-channel kernel, given our scale and zero point, rounds to the same values off the half steps.

    The kernel multiplies by 1/scale where we divide.
    """
    weights = random_matrix(ROWS, COLUMNS, seed=bits)
    form, codes = quantized(f"int{bits}/channel/{'sym' if symmetric else 'asym'}", weights)
    scales = codes.grid.scales.float().flatten()
    zero = torch.zeros(ROWS) if codes.grid.zero_points is None else codes.grid.zero_points.flatten().float()
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    reference = torch.fake_quantize_per_channel_affine(weights, scales, zero.int(), 0, low, high)
    sure = clear(weights, scales, zero, "channel")
    torch.testing.assert_close(fake_quantize(form, weights)[sure], reference[sure], rtol=0, atol=1e-6)


# --- promised properties --------------------------------------------------------------------------------------------

finite = st.floats(-4.0, 4.0, width=32)
matrices = st.tuples(st.integers(1, 4), st.integers(1, 70)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=finite)
)


@settings(deadline=None, max_examples=40)
@given(
    matrices,
    st.sampled_from(list(BITS)),
    st.sampled_from(["asym", "sym", "float"]),
    st.sampled_from(["g32", "channel"]),
)
def test_error_is_at_most_half_a_step_within_the_grid(
    values: np.ndarray, bits: int, symmetry: str, share: str
) -> None:
    form = find(f"int{bits}/{share}/{symmetry}")
    blocks = to_blocks(torch.from_numpy(values), form)
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
@given(matrices, st.sampled_from(list(BITS)))
def test_a_float_zero_point_covers_the_block(values: np.ndarray, bits: int) -> None:
    """No value lies beyond the grid by more than a step and what float16 leaves of the scale."""
    form = find(f"int{bits}/channel/float")
    blocks = to_blocks(torch.from_numpy(values), form)
    grid = form.fit(blocks)
    low, high = form.bounds(grid, blocks.shape[1])
    slack = form.step(grid) + (high - low) * 2**-10 + 2.0**-12
    assert bool(((blocks >= low - slack) & (blocks <= high + slack)).all())


@settings(deadline=None, max_examples=40)
@given(matrices)
def test_zero_stays_zero(values: np.ndarray) -> None:
    """A float zero point makes no such promise."""
    weights = torch.from_numpy(values)
    for name in ("int2/g32/asym", "int4/channel/asym", "int7/g256/asym", "int8/tensor/asym", "int4/g64/sym"):
        assert bool((fake_quantize(find(name), weights)[weights == 0] == 0).all())


@pytest.mark.parametrize("name", ["int2/channel/float", "int4/channel/float", "int8/channel/float"])
def test_a_float_zero_point_serves_rows_far_from_zero(name: str) -> None:
    """A constant, and values of one sign: float16 must hold scale and zero point, at any size of the weights."""
    for size in (1e-4, 1.0, 1e3):
        weights = hard_rows(3.0) * size
        result = fake_quantize(find(name), weights)
        assert bool((result[0] == 0).all())
        assert float((result[4] - weights[4]).abs().max()) <= 2e-3 * 0.05 * size + 2.0**-24
        assert float((result[5] - weights[5]).abs().max()) <= 2e-3 * size


def test_a_float_zero_point_is_more_exact_where_weights_have_one_sign() -> None:
    weights = random_matrix(16, 256).abs() + 0.1
    error = {tail: (fake_quantize(find(f"int4/g64/{tail}"), weights) - weights).square().sum()
             for tail in ("sym", "asym", "float")}  # fmt: skip
    assert error["float"] < error["asym"] < error["sym"]


@pytest.mark.parametrize("symmetry", ["asym", "sym", "float"])
def test_shrinking_keeps_to_the_part_of_the_range(symmetry: str) -> None:
    form = find(f"int6/g64/{symmetry}")
    blocks = to_blocks(random_matrix(8, 256, seed=4), form)
    whole = form.fit(blocks)
    half = form.fit(blocks, shrink=torch.full((len(blocks), 1), 0.5))
    torch.testing.assert_close(half.scales.float(), whole.scales.float() / 2, rtol=2**-10, atol=0)
    (low, high), (least, most) = form.bounds(half, 64), form.bounds(whole, 64)
    slack = form.step(whole)
    assert bool(((low - least / 2).abs() <= slack).all())
    assert bool(((high - most / 2).abs() <= slack).all())


def test_what_float16_cannot_scale_is_refused() -> None:
    for name in ("int8/tensor/asym", "int2/g32/sym", "int4/channel/float"):
        assert bool(torch.isfinite(fake_quantize(find(name), hard_rows(3e4))).all())
        with pytest.raises(FormatError, match="beyond what a float16 scale can hold"):
            fake_quantize(find(name), hard_rows(1e30))


@pytest.mark.parametrize("symmetry", ["asym", "sym", "float"])
@pytest.mark.parametrize("share", SHARES)
def test_a_bit_more_halves_the_error(symmetry: str, share: str) -> None:
    """From 3 bits on the root of the squared error falls by nearly a half a bit."""
    weights = random_matrix(ROWS, COLUMNS)
    names = [f"int{bits}/{share}/{symmetry}" for bits in BITS]
    errors = [float((fake_quantize(find(name), weights) - weights).norm()) for name in names]
    ratios = [after / before for before, after in pairwise(errors)]
    assert max(ratios) < 0.65
    assert all(ratio > 0.4 for ratio in ratios[1:])
