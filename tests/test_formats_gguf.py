"""llama.cpp's number formats: against gguf-py and a compiled ggml, by hand, and what they promise."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.gguf import TYPES, Library, made_up, ours, relative_error
from quant_core.errors import FormatError
from quant_core.formats import FAMILIES, Codes, Grid, _gguf, fake_quantize, find, to_blocks
from quant_core.formats.gguf_k import SHAPES
from tests.matrices import hard_rows, random_matrix

LEGACY = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
BITS = {
    "q4_0": 4.5, "q4_1": 5.0, "q5_0": 5.5, "q5_1": 6.0, "q8_0": 8.5, "iq4_nl": 4.5,
    "q2_k": 2.625, "q3_k": 3.4375, "q4_k": 4.5, "q5_k": 5.5, "q6_k": 6.5625,
}  # fmt: skip


def kind(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[name.upper()]


def packed(name: str, codes: Codes) -> np.ndarray:
    form = find(name)
    assert isinstance(form, _gguf.GgufFormat)
    return form.pack(codes.values, codes.grid).numpy()


def unpacked(name: str, stored: np.ndarray) -> Tensor:
    return torch.from_numpy(gguf.quants.dequantize(stored, kind(name)))


# --- independent references -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_gguf_py_reads_what_we_mean(name: str, weighted: bool) -> None:
    form = find(name)
    for matrix in (random_matrix(4, 512), hard_rows(3e4)):
        blocks = to_blocks(matrix, form)
        importance = random_matrix(len(blocks), form.info.block, seed=1).abs() if weighted else None
        codes = form.quantize(blocks, importance=importance)
        stored = packed(name, codes)
        assert stored.shape == (len(blocks), gguf.GGML_QUANT_SIZES[kind(name)][1])
        assert torch.equal(form.dequantize(codes), unpacked(name, stored))


@pytest.mark.parametrize("name", TYPES)
def test_every_bit_has_its_place(name: str) -> None:
    """Codes and grids that no weight would give, all values of each field among them."""
    form, random = find(name), torch.Generator().manual_seed(0)

    def any_of(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=random)

    blocks, size = 300, form.info.block
    codes = any_of(0, 2**form.info.value_bits - 1, blocks, size).to(torch.uint8)
    if name == "q8_0":
        codes = any_of(-127, 127, blocks, size).to(torch.int8)
    extras = {}
    if name in SHAPES:
        shape = SHAPES[name]
        parts = size // shape.part
        extras["part_scales"] = any_of(shape.lowest, shape.highest, blocks, parts).to(torch.int8)
        if shape.with_minimum:
            extras["part_minima"] = any_of(shape.lowest, shape.highest, blocks, parts).to(torch.int8)
    if name.endswith("_1") or "part_minima" in extras:
        extras["minimum"] = torch.randn(blocks, 1, generator=random).half()
    grid = Grid(torch.randn(blocks, 1, generator=random).half(), None, extras)
    assert torch.equal(form.decode(codes, grid), unpacked(name, packed(name, Codes(codes, grid))))


@pytest.mark.parametrize("name", ["q4_0", "q5_0"])
def test_bytes_of_bfloat16_weights_are_those_of_ggml(name: str) -> None:
    """Eight bits of mantissa over a power of two are exact in float16, so that ggml rounds with the stored step too."""
    matrix = random_matrix(64, 512).to(torch.bfloat16).float()
    codes = find(name).quantize(to_blocks(matrix, find(name)))
    assert np.array_equal(
        packed(name, codes).reshape(64, -1), gguf.quants.quantize(matrix.numpy(), kind(name))
    )


@pytest.mark.parametrize("name", LEGACY)
def test_bytes_with_exact_steps_are_those_of_ggml(name: str) -> None:
    """Quarter steps, with every tie there is, in blocks whose step is 1/64."""
    top = {"q4_0": 8, "q5_0": 16, "q8_0": 127, "q4_1": 15, "q5_1": 31}[name]
    low = 0 if name.endswith("_1") else -top
    random = torch.Generator().manual_seed(0)
    quarters = torch.randint(low * 4, top * 4 + 1, (200, 32), generator=random)
    quarters[:, 3], quarters[:, 5] = low * 4, top * 4
    if low and top != 127:
        quarters[:, 5] = 0
    matrix = quarters / 256 - (0.25 if low == 0 else 0.0)
    codes = find(name).quantize(matrix)
    assert bool((codes.grid.scales.abs() == 1 / 64).all())
    assert np.array_equal(packed(name, codes), gguf.quants.quantize(matrix.numpy(), kind(name)))


@pytest.mark.parametrize("name", LEGACY)
def test_scales_are_those_of_ggml_and_codes_nearer(name: str) -> None:
    matrix = random_matrix(64, 512, seed=5)
    codes = find(name).quantize(to_blocks(matrix, find(name)))
    mine = packed(name, codes).reshape(64 * 16, -1)
    theirs = gguf.quants.quantize(matrix.numpy(), kind(name)).reshape(mine.shape)
    scales = 4 if name.endswith("_1") else 2
    assert np.array_equal(mine[:, :scales], theirs[:, :scales])
    values = matrix.reshape(-1, 32)
    error, other = ((unpacked(name, stored) - values).abs() for stored in (mine, theirs))
    assert bool((error <= other + 1e-7).all())
    assert float((error < other - 1e-7).float().mean()) < 0.1


@pytest.mark.parametrize("low", [-4, -32, 0])
def test_steps_are_as_good_as_a_fine_scan(low: int) -> None:
    high = -low - 1 if low else 15
    x = random_matrix(50, 16, seed=2) if low else random_matrix(50, 16, seed=2).abs()
    w = random_matrix(50, 16, seed=3).abs()
    ends = torch.linspace(0.6, 1.4, 4001)[:, None, None] * x.abs().amax(dim=1, keepdim=True)
    steps = ends / (-low if low else high) * (torch.tensor([1.0, -1.0])[:, None, None, None] if low else 1.0)
    scanned = (
        (w * (x - steps * (x / steps).round().clamp(low, high)).square()).sum(dim=-1).reshape(-1, 50).amin(0)
    )
    step = _gguf.best_step(x, w, low, high)
    found = (w * (x - step * (x / step).round().clamp(low, high)).square()).sum(dim=-1)
    assert float(found.sum()) < 1.15 * float(scanned.sum())
    extreme = x.gather(1, x.abs().argmax(dim=1, keepdim=True)) / (low or high)
    covering = (w * (x - extreme * (x / extreme).round().clamp(low, high)).square()).sum(dim=-1)
    assert bool((found <= covering * 1.0001).all())


def test_lines_are_as_good_as_a_fine_scan() -> None:
    """A scan over both ends of the range, 60 by 60."""
    x, w = random_matrix(40, 16, seed=4), random_matrix(40, 16, seed=5).abs() + 0.01

    def errors(step: Tensor, minimum: Tensor) -> Tensor:
        codes = ((x + minimum) / step).round().clamp(0, 3)
        return (w * (step * codes - minimum - x).square()).sum(dim=-1)

    shares = torch.linspace(0.5, 1.1, 60)[:, None, None]
    low = -x.amin(dim=1, keepdim=True) * shares[:, None]
    high = x.amax(dim=1, keepdim=True) * shares[None]
    scanned = errors((low + high) / 3, low.expand(60, 60, 40, 1)).reshape(-1, 40).amin(dim=0)
    found = errors(*_gguf.best_line(x, w, 3))
    assert float(found.sum()) < 1.06 * float(scanned.sum())


@lru_cache
def compiled() -> Library:
    path = os.environ.get("QUANTLENS_GGML", "")
    if not path:
        pytest.skip("QUANTLENS_GGML names no library with llama.cpp's quantizers (see benchmarks/gguf.py)")
    return Library(Path(path).resolve())


@pytest.mark.parametrize("name", TYPES)
def test_no_more_error_than_llama_cpp(name: str) -> None:
    for _, matrix, importance in made_up(64, 512):
        for counts in (None, importance):
            theirs = relative_error(compiled().round(name, matrix, counts), matrix, counts)
            assert relative_error(ours(name, matrix, counts), matrix, counts) < 1.01 * theirs


@pytest.mark.parametrize("name", ["q4_0", "q5_0"])
def test_bytes_are_those_of_llama_cpp(name: str) -> None:
    matrix = random_matrix(16, 512).to(torch.bfloat16).float()
    codes = find(name).quantize(to_blocks(matrix, find(name)))
    assert np.array_equal(packed(name, codes).reshape(16, -1), compiled().quantize(name, matrix))


# --- exact, by hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "bits"), BITS.items())
def test_bits_a_weight(name: str, bits: float) -> None:
    assert find(name).storage(3, 512).total == 3 * 512 * bits
    assert find(name).info.kind == "GGUF"


def test_all_types_are_here() -> None:
    assert set(BITS) == set(TYPES) == {name for name in FAMILIES if FAMILIES[name].info.kind == "GGUF"}


def test_rows_are_padded_and_paid_for() -> None:
    assert find("q4_k").storage(2, 300).total == 2 * 2 * 144 * 8
    assert find("q4_0").storage(2, 33).total == 2 * 2 * 18 * 8


def test_q4_0_by_hand() -> None:
    """The largest magnitude, 4, becomes -8 steps of -0.5; 0.25 is half a step below 0, and halves go up."""
    row = torch.zeros(1, 32)
    row[0, :6] = torch.tensor([4.0, -3.5, -4.0, 0.25, -0.25, 0.3])
    codes = find("q4_0").quantize(row)
    assert codes.grid.scales.item() == -0.5
    assert codes.values[0, :7].tolist() == [0, 15, 15, 8, 9, 7, 8]
    assert fake_quantize(find("q4_0"), row)[0, :7].tolist() == [4.0, -3.5, -3.5, 0.0, -0.5, 0.5, 0.0]
    assert packed("q4_0", codes)[0, :5].tolist() == [0x00, 0xB8, 0x80, 0x8F, 0x8F]


def test_q4_1_by_hand() -> None:
    """From -1 on in steps of 0.2 (0.19995 in float16)."""
    row = torch.linspace(-1, 2, 16).repeat(1, 2)
    codes = find("q4_1").quantize(row)
    assert codes.values[0].tolist() == [*range(16)] * 2
    assert codes.grid.scales.item() == 0.199951171875
    assert codes.grid.extras["minimum"].item() == -1.0
    assert packed("q4_1", codes)[0, 4:].tolist() == [17 * code for code in range(16)]


def test_iq4_nl_finds_its_own_table() -> None:
    """A block made of table entries times -0.5 comes back exactly."""
    table = torch.tensor([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113.0]).repeat(
        1, 2
    )
    codes = find("iq4_nl").quantize(table * -0.5)
    assert codes.grid.scales.item() == -0.5
    assert codes.values[0].tolist() == [*range(16)] * 2


@pytest.mark.parametrize("name", SHAPES)
def test_k_quants_find_their_own_grid(name: str) -> None:
    """Values on a grid of 1/64 whose parts use all codes, and other steps part by part, come back exactly."""
    shape = SHAPES[name]
    parts = 256 // shape.part
    low = 0 if shape.with_minimum else -(2 ** (shape.bits - 1))
    random = torch.Generator().manual_seed(0)
    codes = torch.randint(low, low + 2**shape.bits, (5, parts, shape.part), generator=random)
    codes[..., 0], codes[..., 1] = low, low + 2**shape.bits - 1
    steps = torch.randint(1, shape.highest + 1, (5, parts, 1), generator=random)
    steps[:, 0] = shape.highest if shape.with_minimum else shape.lowest
    values = steps * codes
    if shape.with_minimum:
        minima = torch.randint(1, shape.highest + 1, (5, parts, 1), generator=random)
        minima[:, 0] = shape.highest
        values = values - minima
    matrix = (values / 64).reshape(5, 256)
    error = relative_error(fake_quantize(find(name), matrix), matrix)
    assert error < 2e-6


@pytest.mark.parametrize("name", ["q4_1", "q4_k", "q2_k", "q5_k", "q5_1"])
def test_a_block_of_one_negative_value_is_kept(name: str) -> None:
    matrix = torch.full((1, 256), -0.75)
    assert torch.allclose(fake_quantize(find(name), matrix), matrix, rtol=1e-3)


# --- promised properties --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in TYPES if name != "q8_0"])
def test_importance_moves_the_error_to_where_it_counts_less(name: str) -> None:
    for _, matrix, importance in made_up(64, 512, seed=1):
        aware, blind = (relative_error(ours(name, matrix, i), matrix, importance) for i in (importance, None))
        assert aware < blind


@pytest.mark.parametrize("name", [name for name in TYPES if name != "q8_0"])
def test_importance_counts_by_its_ratios(name: str) -> None:
    """Importance eight times as large changes nothing, nor does one of 0 give anything but finite values."""
    form = find(name)
    blocks, importance = (
        to_blocks(random_matrix(4, 512), form),
        to_blocks(random_matrix(4, 512, seed=1).abs(), form),
    )
    once, more = (form.fit(blocks, importance=importance * factor) for factor in (1.0, 8.0))
    assert torch.equal(once.scales, more.scales)
    nothing = form.quantize(blocks, importance=torch.zeros_like(blocks))
    assert relative_error(form.dequantize(nothing), blocks) < 0.2


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 6), st.sampled_from(TYPES))
def test_doubled_weights_have_doubled_grids(seed: int, power: int, name: str) -> None:
    """Exactly, as long as float16 holds all scales as normal numbers."""
    matrix = random_matrix(2, 256, seed=seed) * 8
    scaled = fake_quantize(find(name), matrix * 2.0**power)
    assert torch.equal(scaled, fake_quantize(find(name), matrix) * 2.0**power)


def test_more_bits_less_error() -> None:
    matrix = random_matrix(32, 512)
    errors = [
        relative_error(ours(name, matrix), matrix)
        for name in ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0")
    ]
    assert errors == sorted(errors, reverse=True)
    assert relative_error(ours("q4_k", matrix), matrix) < relative_error(ours("iq4_nl", matrix), matrix)


@pytest.mark.parametrize("name", TYPES)
def test_blocks_do_not_touch_each_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    form = find(name)
    blocks = to_blocks(random_matrix(7, 512), form)
    importance = random_matrix(len(blocks), form.info.block, seed=1).abs()
    whole = [form.fit(blocks), form.fit(blocks, importance=importance)]
    monkeypatch.setattr(_gguf, "AT_ONCE", 3 * form.info.block)
    for grid, again in zip(whole, [form.fit(blocks), form.fit(blocks, importance=importance)], strict=True):
        assert torch.equal(grid.scales, again.scales)
        assert all(torch.equal(values, again.extras[key]) for key, values in grid.extras.items())


@pytest.mark.parametrize("name", TYPES)
def test_infinity_gets_the_end_of_the_grid(name: str) -> None:
    form = find(name)
    grid = form.fit(torch.cat([random_matrix(2, form.info.block), torch.zeros(1, form.info.block)]))
    low, high = form.bounds(grid, form.info.block)
    for value, end in ((torch.inf, high), (-torch.inf, low)):
        values = torch.full((3, form.info.block), value)
        assert torch.equal(form.decode(form.encode(values, grid), grid), end)


@pytest.mark.parametrize("name", TYPES)
def test_a_scale_beyond_float16_is_refused(name: str) -> None:
    matrix = random_matrix(1, 256)
    matrix[0, 7] = -1e12
    with pytest.raises(FormatError, match="beyond what a float16 scale can hold"):
        fake_quantize(find(name), matrix)
