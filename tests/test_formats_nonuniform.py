"""Powers of two, their sums, and k-means tables: by hand, against second ways to the same result, and promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from quant_core.errors import FormatError
from quant_core.formats import fake_quantize, find, to_blocks

Floats = NDArray[np.float64]


def random_rows(rows: int, columns: int, seed: int = 0, heavy: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(rows, columns, generator=generator) * 0.05
    if not heavy:
        return normal
    return normal / torch.randn(3, rows, columns, generator=generator).square().mean(dim=0).sqrt()


def squared_error(weights: torch.Tensor, name: str) -> Floats:
    errors: Floats = (fake_quantize(find(name), weights) - weights).double().square().sum(dim=1).numpy()
    return errors


# --- powers of two --------------------------------------------------------------------------------------------------


def test_pot3_by_hand() -> None:
    """Largest 4: values 0, 1, 2, 4 with a sign; borders at 0.5, 1.5 and 3."""
    weights = torch.tensor([[4.0, -2.9, 3.1, 1.4, -1.6, 0.6, -0.4]])
    assert fake_quantize(find("pot3/channel"), weights)[0].tolist() == [4.0, -2.0, 4.0, 1.0, -2.0, 1.0, 0.0]


def test_apot4_by_hand() -> None:
    """Largest 10: values 0, 1, 2, 3, 4, 6, 8, 10 (sixteenths 1 + 0 up to 8 + 2, over 10)."""
    weights = torch.tensor([[10.0, 9.1, -8.9, 6.9, 4.9, -3.4, 2.6, 1.4, -0.4]])
    expected = [10.0, 10.0, -8.0, 6.0, 4.0, -3.0, 3.0, 1.0, 0.0]
    torch.testing.assert_close(fake_quantize(find("apot4/channel"), weights)[0], torch.tensor(expected))


@pytest.mark.parametrize(
    ("name", "magnitudes"),
    [
        ("pot3", [0, 1 / 4, 1 / 2, 1]),
        ("pot4", [0, *(2.0**-power for power in (6, 5, 4, 3, 2, 1, 0))]),
        ("pot5", [0, *(2.0**-power for power in range(14, -1, -1))]),
        ("apot4", [n / 10 for n in (0, 1, 2, 3, 4, 6, 8, 10)]),
        ("apot5", [n / 48 for n in (0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48)]),
    ],
)
def test_the_tables(name: str, magnitudes: list[float]) -> None:
    """The values of a block whose largest is 1; APoT5's are 64ths, sums of 0, 2, 8, 32 and 0, 1, 4, 16."""
    form = find(f"{name}/channel")
    levels = form.levels(form.fit(torch.tensor([[1.0, -0.3]])))
    table = sorted({sign * value for sign in (-1, 1) for value in magnitudes})
    torch.testing.assert_close(levels, torch.tensor(table))


@pytest.mark.parametrize("name", ["pot3/g32", "pot4/g64", "pot5/channel", "apot4/g128", "apot5/g64"])
def test_powers_equal_a_search_of_the_whole_table(name: str) -> None:
    weights = random_rows(8, 256, seed=1)
    form = find(name)
    blocks = to_blocks(weights, form)
    grid = form.fit(blocks)
    unit = form.levels(form.fit(torch.tensor([[1.0]]))).double().numpy()
    scales = blocks.abs().amax(dim=1).to(torch.float16).double().numpy()[:, None]
    assert np.array_equal(grid.scales.double().numpy(), scales)
    table = scales[..., None] * unit
    nearest = np.abs(table - blocks.double().numpy()[..., None]).min(axis=-1)
    ours = (form.decode(form.encode(blocks, grid), grid) - blocks).abs().double().numpy()
    np.testing.assert_allclose(ours, nearest, atol=1e-8)


def test_more_powers_only_help_near_zero() -> None:
    """Rigid resolution: from 4 to 5 bits powers of two gain next to nothing, their sums do."""
    weights = random_rows(16, 256, seed=2)
    errors = {
        name: squared_error(weights, f"{name}/g64").sum() for name in ("pot4", "pot5", "apot4", "apot5")
    }
    assert errors["pot5"] > 0.98 * errors["pot4"]
    assert errors["apot4"] < 0.5 * errors["pot4"]
    assert errors["apot5"] < 0.7 * errors["apot4"]


@pytest.mark.parametrize("name", ["pot4/channel", "apot4/channel", "kmeans3/channel"])
def test_a_value_beyond_float16_is_refused(name: str) -> None:
    with pytest.raises(FormatError, match="beyond what a float16 scale can hold"):
        fake_quantize(find(name), torch.tensor([[1e9, 0.0, -1.0]]))


# --- k-means --------------------------------------------------------------------------------------------------------


def best_error(row: Floats, size: int, counts: Floats | None = None) -> float:
    """Least weighted squared error of any table: dynamic programming over the sorted row."""
    counts = np.ones_like(row) if counts is None else counts
    order = row.argsort()
    row, counts = row[order], counts[order]
    mass, total, square = (np.r_[0, (counts * row**power).cumsum()] for power in (0, 1, 2))
    best = np.r_[0.0, np.full(len(row), np.inf)]
    for _ in range(size):
        least = best.copy()
        for end in range(1, len(row) + 1):
            h, s, q = (sums[end] - sums[:end] for sums in (mass, total, square))
            with np.errstate(invalid="ignore", divide="ignore"):
                least[end] = min(least[end], (best[:end] + np.where(h > 0, q - s * s / h, 0.0)).min())
        best = least
    return float(best[-1])


def test_kmeans_by_hand() -> None:
    """Four pairs of values, four entries: each its pair's mean."""
    weights = torch.tensor([[9.0, -1.0, 0.0, 5.0, 1.0, -2.0, 10.0, 4.0]])
    form = find("kmeans2/channel")
    codes = form.quantize(weights)
    assert codes.grid.scales.tolist() == [[-1.5, 0.5, 4.5, 9.5]]
    assert codes.values.tolist() == [[3, 0, 1, 2, 1, 0, 3, 2]]
    assert fake_quantize(form, weights)[0].tolist() == [9.5, -1.5, 0.5, 4.5, 0.5, -1.5, 9.5, 4.5]


def test_kmeans_weighted_by_hand() -> None:
    """An entry is the weighted mean of its values: (3 * 4 + 1 * 8) / 4 = 5, and 8 counts nothing beside 100."""
    weights = torch.tensor([[4.0, 8.0, 100.0, 200.0, 300.0]])
    counts = torch.tensor([[3.0, 1.0, 1e4, 1e4, 1e4]])
    grid = find("kmeans2/channel").fit(weights, importance=counts)
    assert grid.scales.tolist() == [[5.0, 100.0, 200.0, 300.0]]


def test_kmeans_with_as_many_values_as_entries_is_exact() -> None:
    weights = torch.tensor([[-3.0, 0.25, 0.5, 7.0], [1.0, 1.0, 2.0, 2.0]])
    assert torch.equal(fake_quantize(find("kmeans2/channel"), weights), weights)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("heavy", [False, True])
def test_kmeans_comes_close_to_the_best_table(bits: int, heavy: bool) -> None:
    weights = random_rows(8, 90, seed=bits, heavy=heavy)
    ours = squared_error(weights, f"kmeans{bits}/channel")
    best = np.array([best_error(row, 2**bits) for row in weights.double().numpy()])
    ratio = ours / best
    assert ratio.min() > 1 - 1e-6, "nothing beats the best"
    assert ratio.mean() < 1.1
    assert ratio.max() < 1.5


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_kmeans_is_never_worse_than_its_starts_or_scipy_from_there(bits: int) -> None:
    weights = torch.cat([random_rows(8, 300, seed=bits), random_rows(8, 300, seed=9, heavy=True)])
    ours = squared_error(weights, f"kmeans{bits}/channel")
    step = (np.arange(2**bits) + 0.5) / 2**bits
    for error, row in zip(ours, weights.double().numpy(), strict=True):
        uniform = row.min() + (row.max() - row.min()) * step
        quantiles = np.sort(row)[np.ceil(step * len(row)).astype(int) - 1]
        for start in (uniform, quantiles):
            rounded = start.astype(np.float16).astype(np.float64)
            assert error <= np.square(row[:, None] - rounded).min(axis=1).sum() * (1 + 1e-6)
        with np.errstate(all="ignore"):
            centres = kmeans2(row[:, None], quantiles[:, None], iter=50, minit="matrix", missing="raise")[0]
        assert error <= np.square(row[:, None] - centres[:, 0]).min(axis=1).sum() * (1 + 1e-3)


rows_of_values = st.integers(1, 40).flatmap(
    lambda columns: arrays(np.float32, (2, columns), elements=st.floats(-4.0, 4.0, width=16))
)


@settings(deadline=None, max_examples=40)
@given(rows_of_values, st.sampled_from([2, 3, 4]), st.integers(0, 2**32 - 1))
def test_no_weighting_makes_kmeans_worse_than_one_level_for_all(
    values: np.ndarray, bits: int, seed: int
) -> None:
    """Any weights, zeros among them: finite tables in order, at least as good as the best single value."""
    weights = torch.from_numpy(values)
    counts = torch.rand(weights.shape, generator=torch.Generator().manual_seed(seed)).mul(3).floor()
    form = find(f"kmeans{bits}/channel")
    grid = form.fit(weights, importance=counts)
    assert bool(torch.isfinite(grid.scales).all())
    assert bool((grid.scales.float().diff(dim=1) >= 0).all())
    error = (form.decode(form.encode(weights, grid), grid) - weights).square().mul(counts).sum(dim=1)
    mean = (weights * counts).sum(dim=1, keepdim=True) / counts.sum(dim=1, keepdim=True).clamp(min=1e-9)
    single = (mean - weights).square().mul(counts).sum(dim=1)
    assert bool((error <= single + 1e-4).all())


def test_counting_a_value_twice_is_having_it_twice() -> None:
    weights = random_rows(6, 200, seed=5)
    counts = torch.ones_like(weights)
    counts[:, ::3] = 2.0
    form = find("kmeans3/channel")
    doubled = torch.cat([weights, weights[:, ::3]], dim=1)
    torch.testing.assert_close(
        form.fit(weights, importance=counts).scales.float(),
        form.fit(doubled).scales.float(),
        rtol=2e-3,
        atol=1e-6,
    )


def test_weighted_kmeans_comes_close_to_the_best_weighted_table() -> None:
    weights = random_rows(8, 100, seed=6)
    counts = torch.rand(8, 100, generator=torch.Generator().manual_seed(6)).pow(4)
    form = find("kmeans3/channel")
    grid = form.fit(weights, importance=counts)
    error = (form.decode(form.encode(weights, grid), grid) - weights).double().square().mul(counts)
    best = [
        best_error(row, 8, count)
        for row, count in zip(weights.double().numpy(), counts.double().numpy(), strict=True)
    ]
    ratio = error.sum(dim=1).numpy() / best
    assert ratio.min() > 1 - 1e-6
    assert ratio.mean() < 1.1


def test_every_entry_is_the_mean_of_its_values() -> None:
    """Lloyd's condition, up to float16."""
    weights = random_rows(4, 500, seed=7)
    form = find("kmeans3/channel")
    codes = form.quantize(weights)
    for row, code, table in zip(weights, codes.values, codes.grid.scales.float(), strict=True):
        means = torch.stack([row[code == entry].mean() for entry in range(8)])
        torch.testing.assert_close(table, means, rtol=2e-3, atol=1e-4)


def test_a_row_is_the_same_alone_and_among_others() -> None:
    weights = torch.cat([random_rows(5, 300, seed=8), random_rows(5, 300, seed=8, heavy=True)])
    form = find("kmeans4/channel")
    together = form.fit(weights).scales
    alone = torch.cat([form.fit(row[None]).scales for row in weights])
    assert torch.equal(together, alone)
    assert torch.equal(form.fit(weights).scales, together), "deterministic"


def test_importance_of_zero_throughout_is_none() -> None:
    weights = random_rows(3, 64, seed=9)
    form = find("kmeans2/channel")
    counts = torch.ones_like(weights)
    counts[1] = 0.0
    assert torch.equal(form.fit(weights, importance=counts).scales, form.fit(weights).scales)


def test_long_rows_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are sorted a few at a time, so that a large weight needs no multiple of its memory."""
    weights = random_rows(7, 50, seed=10)
    form = find("kmeans3/channel")
    whole = form.fit(weights).scales
    monkeypatch.setattr("quant_core.formats._common._PART", 120)
    assert torch.equal(form.fit(weights).scales, whole)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("kmeans2/channel", 2 * 100 * 2 + 2 * 4 * 16),
        ("kmeans4/channel", 2 * 100 * 4 + 2 * 16 * 16),
        ("pot4/g64", 2 * 128 * 4 + 4 * 16),
        ("apot5/channel", 2 * 100 * 5 + 2 * 16),
    ],
)
def test_storage_by_hand(name: str, bits: int) -> None:
    assert find(name).storage(2, 100).total == bits
