"""Binary and ternary weights: by hand, against a search of every choice, and what least error promises."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quant_core.formats import fake_quantize, find, to_blocks
from quant_core.methods.rounding._common import importance_blocks


def random_matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


# --- exact, by hand -------------------------------------------------------------------------------------------------


def test_binary_by_hand() -> None:
    """Mean magnitude (1 + 2 + 3 + 6) / 4 = 3."""
    weights = torch.tensor([[1.0, -2.0, 3.0, -6.0]])
    assert fake_quantize(find("binary/channel"), weights)[0].tolist() == [3.0, -3.0, 3.0, -3.0]


def test_ternary_by_hand() -> None:
    """Sums of the largest 5, 4, 1, 1: 25/1, 81/2 = 40.5, 100/3 = 33.3, 121/4 = 30.25; so scale 9/2."""
    weights = torch.tensor([[1.0, -5.0, 4.0, -1.0]])
    codes = find("ternary/channel").quantize(weights)
    assert codes.grid.scales.item() == 4.5
    assert codes.values.tolist() == [[0, -1, 1, 0]]
    assert fake_quantize(find("ternary/tensor"), weights)[0].tolist() == [0.0, -4.5, 4.5, 0.0]


def test_half_a_scale_goes_to_zero() -> None:
    """Largest 2 counts so much that the scale is 2; 1 is its half, and as far from 2 as from 0."""
    weights = torch.tensor([[2.0, 1.0, 1.01, -1.0]])
    grid = find("ternary/channel").fit(weights, importance=torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    assert grid.scales.item() == 2.0
    assert find("ternary/channel").encode(weights, grid).tolist() == [[1, 0, 1, 0]]


def test_importance_by_hand() -> None:
    """Binary: (3 * 1 + 1 * 5) / 4 = 2. Ternary: 5 alone gives 5^2 / 1 = 25, both give (5 + 3)^2 / 4 = 16."""
    weights, counts = torch.tensor([[1.0, -5.0]]), torch.tensor([[3.0, 1.0]])
    assert find("binary/channel").fit(weights, importance=counts).scales.item() == 2.0
    assert find("ternary/channel").fit(weights, importance=counts).scales.item() == 5.0
    assert find("ternary/channel").fit(weights, importance=counts.flip(1)).scales.item() == 5.0
    many = torch.tensor([[100.0, 1.0]])  # 5^2 = 25 < (100 + 5)^2 / 101 = 109
    assert find("ternary/channel").fit(weights, importance=many).scales.item() == pytest.approx(
        105 / 101, 1e-3
    )


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("ternary/g64", 4 * 13 * 8 + 4 * 16),  # 64 values need 13 bytes of five
        ("ternary/channel", 2 * 20 * 8 + 2 * 16),
        ("ternary/tensor", 40 * 8 + 16),
        ("binary/g32", 8 * 32 + 8 * 16),
        ("binary/tensor", 200 + 16),
    ],
)
def test_storage_by_hand(name: str, bits: int) -> None:
    assert find(name).storage(2, 100).total == bits


def test_five_ternary_values_fit_a_byte() -> None:
    info = find("ternary").info
    assert 3**info.pack <= 2**info.value_bits < 3 ** (info.pack + 1)


# --- a search of every choice ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "symbols"), [("binary", (-1, 1)), ("ternary", (-1, 0, 1))])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_other_codes_and_scale_are_better(name: str, symbols: tuple[int, ...], weighted: bool) -> None:
    """All codes of seven values, each with the best scale there is for them."""
    weights = random_matrix(6, 7, seed=len(symbols))
    counts = torch.rand(6, 7, generator=torch.Generator().manual_seed(1)) if weighted else torch.ones(6, 7)
    form = find(f"{name}/channel")
    grid = form.fit(weights, importance=counts if weighted else None)
    ours = (form.decode(form.encode(weights, grid), grid) - weights).double().square().mul(counts).sum(dim=1)
    every = np.array([codes for codes in product(symbols, repeat=7) if any(codes)], dtype=np.float64)
    for error, row, count in zip(ours, weights.double().numpy(), counts.double().numpy(), strict=True):
        scale = (every * row * count).sum(axis=1) / (every**2 * count).sum(axis=1)
        best = (count * (scale[:, None] * every - row) ** 2).sum(axis=1).min()
        assert best * (1 - 1e-9) <= float(error) <= best * (1 + 1e-4), "up to the float16 scale"


# --- promised properties --------------------------------------------------------------------------------------------

matrices = st.integers(1, 70).flatmap(
    lambda columns: arrays(np.float32, (2, columns), elements=st.floats(-4.0, 4.0, width=16))
)


def error_at(weights: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Squared error of rounding each row to the nearest of -scale, 0 and scale."""
    nearest = torch.stack([(weights - sign * scale).square() for sign in (-1, 0, 1)]).amin(dim=0)
    return nearest.sum(dim=1)


@settings(deadline=None, max_examples=50)
@given(matrices)
def test_ternary_is_never_worse_than_bitnet_or_the_estimated_threshold(values: np.ndarray) -> None:
    weights = torch.from_numpy(values)
    size = weights.abs()
    mean = size.mean(dim=1, keepdim=True)
    beyond = size > 0.7 * mean
    estimated = (size * beyond).sum(dim=1, keepdim=True) / beyond.sum(dim=1, keepdim=True).clamp(min=1)
    ours = (fake_quantize(find("ternary/channel"), weights) - weights).square().sum(dim=1)
    slack = 1e-5 * weights.square().sum(dim=1) + 1e-9
    for scale in (mean, estimated):
        assert bool((ours <= error_at(weights, scale) + slack).all())


def test_the_absmean_rule_costs_random_weights_more() -> None:
    weights = random_matrix(16, 512, seed=3)
    bitnet = error_at(weights, weights.abs().mean(dim=1, keepdim=True)).sum()
    ours = (fake_quantize(find("ternary/channel"), weights) - weights).square().sum()
    assert float(ours) < 0.85 * float(bitnet)


@pytest.mark.parametrize("name", ["binary", "ternary"])
def test_padding_changes_nothing(name: str) -> None:
    """A row of 100 in groups of 64 is rounded as its 64 and its 36 values are on their own."""
    weights = random_matrix(3, 100, seed=4)
    whole = fake_quantize(find(f"{name}/g64"), weights)
    parts = [fake_quantize(find(f"{name}/channel"), part) for part in (weights[:, :64], weights[:, 64:])]
    assert torch.equal(whole, torch.cat(parts, dim=1))


@pytest.mark.parametrize("name", ["binary/g32", "ternary/g32"])
def test_importance_laid_out_by_a_method(name: str) -> None:
    """What fills up counts nothing, and a block whose importance is 0 throughout gets its plain grid."""
    weights = random_matrix(2, 40, seed=5)
    form = find(name)
    blocks = to_blocks(weights, form)
    plain = form.fit(blocks).scales
    even = importance_blocks(torch.ones(1, 40), weights, form)
    torch.testing.assert_close(form.fit(blocks, importance=even).scales, plain)
    assert torch.equal(form.fit(blocks, importance=torch.zeros_like(blocks)).scales, plain)
