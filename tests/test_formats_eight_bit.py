"""FP8 and LLM.int8 against PyTorch, compressed-tensors, torchao and bitsandbytes, by hand, and in what they promise."""

from __future__ import annotations

import bitsandbytes.functional as bnb
import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization import fake_quantize as ct_fake_quantize
from compressed_tensors.quantization.utils import calculate_qparams
from torchao.quantization import quant_primitives as torchao

from quant_core.formats import fake_quantize, find, from_blocks, to_blocks
from tests.matrices import hard_rows, random_matrix

FP8 = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
SHARES = ("tensor", "channel", "b128")
ROWS, COLUMNS = 256, 384


# --- exact, by hand -------------------------------------------------------------------------------------------------


def test_fp8_e4m3_by_hand() -> None:
    """Scale 1: steps of 1/8 from 1, of 1/32 from 1/4, of 1/512 below 1/64; ties go to the even code."""
    weights = torch.tensor([[448.0, -448.0, 1.0625, 1.1875, 0.3, 0.001, 0.0009, 430.0]])
    expected = [448.0, -448.0, 1.0, 1.25, 0.3125, 2**-9, 0.0, 416.0]
    assert fake_quantize(find("fp8_e4m3/channel"), weights)[0].tolist() == expected


def test_fp8_e5m2_by_hand() -> None:
    """Largest value 28672, half of what the type holds: scale 1/2, so that the steps are 1/8 from 1/2."""
    weights = torch.tensor([[28672.0, 1.125, 1.375, 0.6, -0.7]])
    assert fake_quantize(find("fp8_e5m2/tensor"), weights)[0].tolist() == [28672.0, 1.0, 1.5, 0.625, -0.75]


def test_fp8_squares_by_hand() -> None:
    """A 130 x 140 matrix makes four squares; each has the scale of its own largest magnitude."""
    weights = torch.zeros(130, 140)
    weights[0, 0], weights[5, 130], weights[129, 3], weights[128, 139] = 448.0, 896.0, -44.8, 4.48
    form = find("fp8_e4m3/b128")
    grid = form.fit(to_blocks(weights, form))
    torch.testing.assert_close(grid.scales.flatten(), torch.tensor([1.0, 2.0, 0.1, 0.01]))
    torch.testing.assert_close(fake_quantize(form, weights), weights)


def test_llm_int8_by_hand() -> None:
    """A row whose largest magnitude is 127 has steps of 1; halves go to the even code; a row of zeros stays."""
    weights = torch.tensor([[127.0, -127.0, 0.4, 0.6, 63.5, -64.5], [0.0] * 6])
    form = find("llm_int8")
    codes = form.quantize(to_blocks(weights, form))
    assert codes.values.tolist() == [[127, -127, 0, 1, 64, -64], [0] * 6]
    assert codes.grid.scales.tolist() == [[127.0], [0.0]]
    torch.testing.assert_close(form.dequantize(codes), codes.values.float())
    assert form.step(codes.grid)[0].item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "rows", "columns", "bits"),
    [
        ("fp8_e4m3/channel", 2, 100, 2 * 100 * 8 + 2 * 32),
        ("fp8_e5m2/tensor", 2, 100, 2 * 100 * 8 + 32),
        ("fp8_e4m3/b128", 130, 140, 4 * (128 * 128 * 8 + 32)),
        ("llm_int8", 2, 100, 2 * 100 * 8 + 2 * 32),
    ],
)
def test_storage_by_hand(name: str, rows: int, columns: int, bits: int) -> None:
    assert find(name).storage(rows, columns, 16).total == bits


# --- independent references -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FP8)
@pytest.mark.parametrize("share", ["tensor", "channel"])
def test_fp8_equals_torch_casts(family: str, share: str) -> None:
    weights = random_matrix(ROWS, COLUMNS)
    largest = weights.abs().amax(dim=1, keepdim=True) if share == "channel" else weights.abs().max()
    scale = largest / torch.finfo(FP8[family]).max
    codes = (weights / scale).to(FP8[family])
    form = find(f"{family}/{share}")
    ours = form.quantize(to_blocks(weights, form)).values
    assert torch.equal(ours.view(torch.uint8).flatten(), codes.view(torch.uint8).flatten())
    assert torch.equal(fake_quantize(form, weights), codes.float() * scale)


@pytest.mark.parametrize("family", FP8)
def test_fp8_decodes_every_code_as_torch_does(family: str) -> None:
    form = find(f"{family}/channel")
    every = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(FP8[family]).float()
    every = every[torch.isfinite(every)]
    grid = form.fit(torch.tensor([[torch.finfo(FP8[family]).max]]))
    assert grid.scales.item() == 1.0
    assert torch.equal(form.decode(form.encode(every[None], grid), grid)[0], every)
    assert torch.equal(form.levels(grid), every.unique())
    far = torch.tensor([[torch.inf, -torch.inf, 3e38]])
    assert form.decode(form.encode(far, grid), grid)[0].tolist() == [every.max(), every.min(), every.max()]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("shape", [(256, 384), (200, 300)])
def test_fp8_e4m3_equals_compressed_tensors(share: str, shape: tuple[int, int]) -> None:
    """Scales and values, bit for bit, squares that stick out of the matrix included."""
    weights = random_matrix(*shape, seed=2)
    strategy = {"b128": "block"}.get(share, share)
    squares = [128, 128] if share == "b128" else None
    args = QuantizationArgs(num_bits=8, type="float", strategy=strategy, block_structure=squares)
    form = find(f"fp8_e4m3/{share}")
    blocks = to_blocks(weights, form)
    scales, _ = calculate_qparams(blocks.amin(dim=1), blocks.amax(dim=1), args)
    assert torch.equal(scales, form.fit(blocks).scales.flatten())
    laid = scales.reshape(-(-shape[0] // 128), -1) if share == "b128" else scales.reshape(-1, 1)
    assert torch.equal(fake_quantize(form, weights), ct_fake_quantize(weights, laid, None, args))


@pytest.mark.parametrize("family", FP8)
@pytest.mark.parametrize("share", SHARES)
def test_fp8_equals_torchao(family: str, share: str) -> None:
    weights = random_matrix(ROWS, COLUMNS, seed=3)
    block = {"tensor": (ROWS, COLUMNS), "channel": (1, COLUMNS)}.get(share, (128, 128))
    scales = torchao._choose_scale_float8(weights, list(block), FP8[family])
    codes = torchao._quantize_affine_float8(weights, scales, FP8[family])
    form = find(f"{family}/{share}")
    ours = form.quantize(to_blocks(weights, form))
    assert torch.equal(ours.grid.scales.flatten(), scales.flatten())
    laid = from_blocks(ours.values.view(torch.uint8), form, ROWS, COLUMNS)
    assert torch.equal(laid, codes.view(torch.uint8))
    reference = torchao._dequantize_affine_float8(codes, scales)
    assert torch.equal(fake_quantize(form, weights), reference)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_llm_int8_equals_bitsandbytes(dtype: torch.dtype) -> None:
    """Codes, scales and values, bit for bit, whatever dtype its quantizer is given; its layer gives it float16."""
    weights = random_matrix(64, 300, seed=4).to(dtype)
    codes, scales, _ = bnb.int8_vectorwise_quant(weights)
    form = find("llm_int8")
    ours = form.quantize(to_blocks(weights, form))
    assert torch.equal(ours.values, codes)
    assert torch.equal(ours.grid.scales.flatten(), scales)
    assert torch.equal(form.dequantize(ours), bnb.int8_vectorwise_dequant(codes, scales))


# --- promised properties --------------------------------------------------------------------------------------------


def test_llm_int8_errs_by_half_a_step_at_most() -> None:
    weights = random_matrix(32, 200, seed=5)
    form = find("llm_int8")
    error = (fake_quantize(form, weights) - weights).abs()
    assert bool((error <= weights.abs().amax(dim=1, keepdim=True) / 254 * (1 + 1e-5)).all())


def test_e5m2_reaches_further_down_and_e4m3_is_finer() -> None:
    weights = random_matrix(8, 256, seed=6)
    fine, wide = (fake_quantize(find(f"{family}/channel"), weights) for family in FP8)
    assert (fine - weights).square().sum() < (wide - weights).square().sum()
    tiny = torch.tensor([[1.0, 1e-6]])
    assert fake_quantize(find("fp8_e4m3/channel"), tiny)[0, 1] == 0
    assert fake_quantize(find("fp8_e5m2/channel"), tiny)[0, 1] == pytest.approx(1e-6, rel=0.125)


@pytest.mark.parametrize("name", ["fp8_e4m3/channel", "fp8_e5m2/tensor", "fp8_e4m3/b128", "llm_int8/channel"])
def test_hard_rows_stay_finite(name: str) -> None:
    for largest in (3e4, 1e30):
        result = fake_quantize(find(name), hard_rows(largest))
        assert bool(torch.isfinite(result).all())
        assert bool((result[0] == 0).all())
        assert float(result.abs().max()) == pytest.approx(largest)


@pytest.mark.parametrize("name", ["fp8_e4m3/channel", "fp8_e5m2/channel", "llm_int8/channel"])
def test_shrinking_clips(name: str) -> None:
    form = find(name)
    blocks = random_matrix(4, 100, seed=7)
    grid = form.fit(blocks, shrink=torch.full((4, 1), 0.5))
    reach = form.decode(form.encode(blocks, grid), grid).abs().amax(dim=1)
    torch.testing.assert_close(reach, blocks.abs().amax(dim=1) / 2)
