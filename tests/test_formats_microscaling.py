"""MX formats and NVFP4: against torchao and compressed-tensors, by hand, and what a power of two promises."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.quantization import preset_name_to_scheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize as ct_fake_quantize
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

from quant_core.formats import fake_quantize, find, nvfp4, to_blocks
from quant_core.methods.rounding._common import best_grid

TORCHAO: dict[str, Any] = {
    "mxfp4": torch.float4_e2m1fn_x2,
    "mxfp6_e2m3": "fp6_e2m3",
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp8_e4m3": torch.float8_e4m3fn,
    "mxfp8_e5m2": torch.float8_e5m2,
}
EVERY = [*TORCHAO, "mxint8"]


def hard_matrix() -> torch.Tensor:
    """Blocks of very different size, blocks full of ties, a block of zeros of both signs, and the extremes."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(40, 256, generator=generator) * torch.logspace(-20, 20, 40, base=2.0)[:, None]
    weights[30:36] = torch.randint(-256, 257, (6, 256), generator=generator) / 32.0
    weights[36] = 0.0
    weights[36, ::2] = -0.0
    weights[37] *= 1e30
    weights[38] *= 1e-30
    weights[39, 5] = torch.finfo(torch.float32).max
    return weights


# --- independent references -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TORCHAO)
def test_mx_equals_torchao(name: str) -> None:
    weights = hard_matrix()
    scales, data = to_mx(weights, TORCHAO[name], 32)
    form = find(name)
    codes = form.quantize(to_blocks(weights, form))
    assert torch.equal(codes.grid.scales.view(torch.uint8).flatten(), scales.view(torch.uint8).flatten())
    ours = codes.values.view(torch.uint8).reshape(weights.shape)
    if name == "mxfp4":
        ours = ours[:, ::2] | ours[:, 1::2] << 4
    assert torch.equal(ours, data.view(torch.uint8)), "the same bits"
    reference = to_dtype(data, scales, TORCHAO[name], 32, torch.float32)
    assert torch.equal(fake_quantize(form, weights), reference)


def test_mxint8_equals_exact_fractions() -> None:
    """A second way to the same codes: whole-number arithmetic on each value, without floats."""
    weights = hard_matrix()[10:36, :32]
    form = find("mxint8")
    codes = form.quantize(weights)
    for block, values, scale in zip(weights.tolist(), codes.values.tolist(), codes.grid.scales, strict=True):
        power = Fraction(1)
        largest = max(abs(Fraction(value)) for value in block)
        while power * 2 <= largest:
            power *= 2
        while power > largest:
            power /= 2
        assert float(power) == scale.item()
        assert values == [max(-127, min(127, round(Fraction(value) / power * 64))) for value in block]


def away_from_ties(weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Which values are not within float error of the middle between two E2M1 numbers."""
    size = (weights.view(-1, 16) / scales).abs()
    middles = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    return ((size[..., None] / middles - 1).abs() > 1e-6).all(dim=-1).view(weights.shape)


def nvfp4_matrix() -> torch.Tensor:
    """Every block's largest value is at least a 20,000th of the weight's, so that no block scale is subnormal."""
    weights = torch.randn(64, 512, generator=torch.Generator().manual_seed(2)) * 0.05
    return weights * torch.logspace(0, -3, 64)[:, None]


def test_nvfp4_equals_torchao() -> None:
    weights = nvfp4_matrix()
    reference = NVFP4Tensor.to_nvfp4(weights, per_tensor_scale=per_tensor_amax_to_scale(weights.abs().max()))
    form = find("nvfp4")
    codes = form.quantize(to_blocks(weights, form))
    assert torch.equal(codes.grid.extras[nvfp4.TENSOR].flatten(), reference.per_tensor_scale.flatten())
    assert torch.equal(codes.grid.scales.float().flatten(), reference.scale.float().flatten())
    clear = away_from_ties(weights, codes.grid.scales.float() * codes.grid.extras[nvfp4.TENSOR])
    assert float(clear.float().mean()) > 0.999
    assert torch.equal(fake_quantize(form, weights)[clear], reference.dequantize(torch.float32)[clear])


def test_nvfp4_equals_compressed_tensors() -> None:
    """Block scales down into E4M3's subnormals; values to float error, for it divides by the inverse of S."""
    weights = nvfp4_matrix() * torch.logspace(0, -1.5, 64)[:, None]
    scheme = preset_name_to_scheme("NVFP4", ["Linear"]).weights
    inverse = generate_gparam(weights.min(), weights.max())
    blocks = weights.view(64, 32, 16)
    scales, zero = calculate_qparams(blocks.amin(-1), blocks.amax(-1), scheme, global_scale=inverse)
    reference = ct_fake_quantize(weights, scales, zero, scheme, global_scale=inverse)
    form = find("nvfp4")
    grid = form.fit(to_blocks(weights, form))
    assert float(grid.scales.float().min()) < 2.0**-6
    assert torch.equal(grid.scales.float().view(64, 32), scales.float())
    clear = away_from_ties(weights, grid.scales.float() * grid.extras[nvfp4.TENSOR])
    torch.testing.assert_close(fake_quantize(form, weights)[clear], reference[clear], rtol=1e-6, atol=0)


# --- exact, by hand -------------------------------------------------------------------------------------------------


def test_mxfp4_by_hand() -> None:
    """Largest 7.9: X = 2^(2 - 2) = 1, so 7.9 saturates at 6, and ties go to the even code (0, 1, 2, 4)."""
    weights = torch.tensor([[7.9, -0.25, 0.75, 1.25, -1.75, 2.5, 3.5, 5.0, 5.01, 0.26]])
    codes = find("mxfp4").quantize(to_blocks(weights, find("mxfp4")))
    assert codes.grid.scales.item() == 1.0
    assert codes.values[0, :10].tolist() == [7, 8, 2, 2, 12, 4, 6, 6, 7, 1]
    expected = [6.0, 0.0, 1.0, 1.0, -2.0, 2.0, 4.0, 4.0, 6.0, 0.5]
    assert fake_quantize(find("mxfp4"), weights)[0].tolist() == expected


def test_mxint8_by_hand() -> None:
    """Largest 1.999: X = 1, steps of 1/64; 1.999 * 64 = 127.9 saturates at 127 and -1.999 at -127."""
    weights = torch.tensor([[1.999, -1.999, 0.5, 1.5 / 64, 2.5 / 64]])
    assert [value * 64 for value in fake_quantize(find("mxint8"), weights)[0].tolist()] == [
        127, -127, 32, 2, 2,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "largest", "emax"), [("mxfp4", 6.0, 2), ("mxfp6_e3m2", 28.0, 4), ("mxfp8_e5m2", 57344.0, 15)]
)
def test_the_ends_of_the_scale(name: str, largest: float, emax: int) -> None:
    """E8M0 ends at 2^-127: below, elements get small instead, and the smallest numbers become 0."""
    form = find(name)
    tiny = torch.tensor([[2.0**-127, 2.0**-149]])
    assert form.fit(to_blocks(tiny, form)).scales.float().item() == 2.0**-127
    assert fake_quantize(form, tiny)[0].tolist() == [2.0**-127, 0.0]
    huge = torch.tensor([[torch.finfo(torch.float32).max, -1.0]])
    assert fake_quantize(form, huge)[0].tolist() == [largest * 2.0 ** (127 - emax), 0.0]


def test_nvfp4_by_hand() -> None:
    """Largest 2688 = 448 * 6, so S = 1. The second block reaches 9: 9 / 6 = 1.5 is an E4M3 number, steps of 0.75."""
    weights = torch.zeros(1, 32)
    weights[0, :3] = torch.tensor([2688.0, -1344.0, 100.0])
    weights[0, 16:20] = torch.tensor([9.0, -9.0, 1.0, 0.3])
    codes = find("nvfp4").quantize(to_blocks(weights, find("nvfp4")))
    assert codes.grid.extras[nvfp4.TENSOR].item() == 1.0
    assert codes.grid.scales.float().flatten().tolist() == [448.0, 1.5]
    result = fake_quantize(find("nvfp4"), weights)[0]
    # 100 / 448 = 0.22 -> 0; 1 / 1.5 = 0.67 -> 0.5; 0.3 / 1.5 = 0.2 -> 0
    assert result[:3].tolist() == [2688.0, -1344.0, 0.0]
    assert result[16:20].tolist() == [9.0, -9.0, 0.75, 0.0]


def test_nvfp4_gives_small_blocks_small_scales() -> None:
    """A block 2^-9 of S keeps E4M3's smallest scale, where torchao's smallest, 2^-6, would round it to nothing."""
    weights = torch.zeros(1, 48)
    weights[0, 0] = 2688.0
    weights[0, 16:18] = torch.tensor([6.0, 1.0]) * 2.0**-9
    weights[0, 32] = 2.0**-11
    result = fake_quantize(find("nvfp4"), weights)[0]
    assert result[16:18].tolist() == [6.0 * 2.0**-9, 2.0**-9]
    assert result[32].item() == 0.0


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("mxfp4", 2 * 128 * 4 + 8 * 8),
        ("mxfp6_e2m3", 2 * 128 * 6 + 8 * 8),
        ("mxfp8_e4m3", 2 * 128 * 8 + 8 * 8),
        ("mxint8", 2 * 128 * 8 + 8 * 8),
        ("nvfp4", 2 * 112 * 4 + 14 * 8 + 32),
    ],
)
def test_storage_by_hand(name: str, bits: int) -> None:
    """Two rows of 100: four blocks of 32 each, or seven of 16."""
    assert find(name).storage(2, 100).total == bits


# --- promised properties --------------------------------------------------------------------------------------------

blocks_of_32 = arrays(np.float32, (2, 32), elements=st.floats(-4.0, 4.0, width=32))


@settings(deadline=None, max_examples=30)
@given(blocks_of_32, st.sampled_from(EVERY), st.integers(-20, 20))
def test_a_power_of_two_passes_through(values: np.ndarray, name: str, power: int) -> None:
    """Scaling a weight by 2^n scales what it is rounded to, for all but the smallest numbers."""
    weights = torch.from_numpy(values)
    weights[weights.abs() < 2.0**-60] = 0.0
    scaled = fake_quantize(find(name), weights * 2.0**power)
    assert torch.equal(scaled, fake_quantize(find(name), weights) * 2.0**power)


@settings(deadline=None, max_examples=30)
@given(blocks_of_32, st.sampled_from(EVERY))
def test_rounding_twice_changes_nothing(values: np.ndarray, name: str) -> None:
    weights = torch.from_numpy(values)
    weights[weights.abs() < 2.0**-60] = 0.0
    once = fake_quantize(find(name), weights)
    assert torch.equal(fake_quantize(find(name), once), once)


@pytest.mark.parametrize("name", [*EVERY, "nvfp4"])
def test_clipping_helps_or_leaves_it(name: str) -> None:
    """Half the range is half the scale; the best range is never worse than the rule's."""
    form = find(name)
    weights = torch.randn(8, 256, generator=torch.Generator().manual_seed(3)) * 0.05
    blocks = to_blocks(weights, form)
    grid = form.fit(blocks)
    half = form.fit(blocks, shrink=torch.full((len(blocks), 1), 0.5))
    torch.testing.assert_close(half.scales.float(), grid.scales.float() / 2, rtol=0.0, atol=0.0)
    best = best_grid(blocks, form)
    error = (form.decode(form.encode(blocks, best), best) - blocks).square().sum(dim=1)
    nearest = (form.dequantize(form.quantize(blocks)) - blocks).square().sum(dim=1)
    assert bool((error <= nearest).all())
    if name == "nvfp4":
        assert float(error.sum()) < float(nearest.sum())


def test_clipping_a_power_of_two_by_hand() -> None:
    """Beside 4.0, X = 1 makes 0.3 a 0.5: error 31 * 0.04 = 1.24. X = 1/2 makes them 3 and 0.25: 1 + 31 * 0.0025."""
    blocks = torch.full((1, 32), 0.3)
    blocks[0, 7] = 4.0
    form = find("mxfp4")
    assert form.fit(blocks).scales.float().item() == 1.0
    grid = best_grid(blocks, form)
    assert grid.scales.float().item() == 0.5
    assert form.decode(form.encode(blocks, grid), grid)[0, 6:8].tolist() == [0.25, 3.0]


def test_more_mantissa_less_error() -> None:
    weights = torch.randn(16, 256, generator=torch.Generator().manual_seed(4))
    names = ("mxfp4", "mxfp6_e3m2", "mxfp6_e2m3", "mxint8")
    errors = [float((fake_quantize(find(name), weights) - weights).square().mean()) for name in names]
    assert errors == sorted(errors, reverse=True)
    smaller = float((fake_quantize(find("nvfp4"), weights) - weights).square().mean())
    assert smaller < errors[0], "finer scales and smaller blocks"
