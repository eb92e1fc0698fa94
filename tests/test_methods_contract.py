"""The contract of rounding methods: what holds for every registered one, in every family of formats it works with."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from quant_core.calibration.inputs import Inputs
from quant_core.errors import FormatError
from quant_core.formats import FAMILIES, Grid, fake_quantize, find, from_blocks, infos, to_blocks
from quant_core.methods import rounding
from quant_core.methods.rounder import Rounder
from quant_core.methods.slot_rounder import Quantized
from quant_core.models.layers import Slot
from quant_core.names import parse_format
from quant_core.schema import ORIGINAL, Calibration, Unit
from tests.tiny import FakeContext

ROWS, COLUMNS = 8, 160
OFFERED = rounding.infos(infos())


def every_pair() -> list[str]:
    """Each method with the default format of each family that it takes."""
    return [f"{find(family).name}@{method.name}" for method in OFFERED.values() for family in method.families]


def every_option() -> list[str]:
    """Each choice that is no default, with the first family that the method takes."""
    return [
        f"{find(method.families[0]).name}@{method.name}:{option.name}={choice}"
        for method in OFFERED.values()
        for option in method.options
        for choice in option.choices[1:]
    ]


class Given(Rounder):
    """A rounder that is given what entered the layer."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(FakeContext(), None, Calibration())  # type: ignore[arg-type]  # no model: nothing is read
        self.given = inputs

    def inputs(self, slot: Slot, gradients: bool = False) -> Inputs:
        return self.given


def seen(x: Tensor, rows: int = ROWS) -> Inputs:
    """What a layer that was fed ``x`` (tokens, columns) has seen."""
    generator = torch.Generator().manual_seed(4)
    fisher = (torch.rand(rows, len(x), generator=generator) + 0.1) @ x.square() / len(x)
    return Inputs(x.T @ x / len(x), x.abs().mean(0), x.abs().amax(0), x, len(x), fisher)


@lru_cache
def tokens(count: int) -> Tensor:
    """Correlated inputs of uneven size, of which some are always 0."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.eye(COLUMNS) + 0.1 * torch.randn(COLUMNS, COLUMNS, generator=generator)
    x = torch.randn(count, COLUMNS, generator=generator) @ mixing * torch.linspace(0.1, 2, COLUMNS)
    x[:, 5] = x[:, -1] = 0.0
    return x


@lru_cache
def hard_matrix() -> Tensor:
    """Row 0 is 0, row 1 holds a huge value, row 2 is tiny."""
    weights = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(2)) * 0.05
    weights[0] = 0.0
    weights[1, 7] = 3e4
    weights[2] *= 1e-6
    return weights


def quantize(name: str, weights: Tensor, inputs: Inputs) -> Quantized:
    rows, columns = weights.shape
    unit = Unit("layer.weight", 0, "layer", "linear", rows, columns, 16, True)
    slot = Slot(unit, nn.Parameter(weights, requires_grad=False))
    return Given(inputs).quantize(slot, find(name))


def tensors(grid: Grid) -> dict[str, Tensor]:
    zero = {} if grid.zero_points is None else {"zero points": grid.zero_points}
    return {"scales": grid.scales, **zero, **grid.extras}


@pytest.mark.parametrize("name", every_pair())
def test_contract(name: str) -> None:
    assert parse_format(name, infos(), methods=OFFERED).name == name
    weights, form = hard_matrix(), find(name)
    result = quantize(name, weights, seen(tokens(400)))
    assert torch.equal(weights, hard_matrix.__wrapped__()), "the weight is left as it was"
    assert result.matrix.shape == weights.shape
    assert bool(torch.isfinite(result.matrix).all())
    assert torch.equal(result.matrix, from_blocks(form.dequantize(result.codes), form, ROWS, COLUMNS))
    nearest = fake_quantize(find(form.spec.format), weights)
    if bool((nearest[0] == 0).all()):
        assert bool((result.matrix[0] == 0).all()), "zeros stay zeros"

    plain = form.quantize(to_blocks(weights, form))
    assert (result.codes.values.shape, result.codes.values.dtype) == (plain.values.shape, plain.values.dtype)
    grid = tensors(result.codes.grid)
    assert {key: (value.shape, value.dtype) for key, value in grid.items()} == {
        key: (value.shape, value.dtype) for key, value in tensors(plain.grid).items()
    }, "stored as the format stores it"


@pytest.mark.parametrize(
    "name", every_option() + [f"{find(way.families[-1]).name}@{way.name}" for way in OFFERED.values()]
)
def test_deterministic(name: str) -> None:
    first, again = (quantize(name, hard_matrix(), seen(tokens(200))).codes for _ in range(2))
    assert torch.equal(first.values.float(), again.values.float())
    grid = tensors(first.grid)
    assert all(torch.equal(value.float(), grid[key].float()) for key, value in tensors(again.grid).items())


@pytest.mark.parametrize("name", every_pair())
def test_half_weights_and_one_token(name: str) -> None:
    """A moment of rank 1 is all that an expert chosen once leaves."""
    dtype = torch.float16 if len(name) % 2 else torch.bfloat16
    weights = (hard_matrix() / 100).to(dtype)
    result = quantize(name, weights, seen(tokens(1)))
    assert result.matrix.dtype == dtype
    assert bool(torch.isfinite(result.matrix).all())


@pytest.mark.parametrize("method", [method.name for method in OFFERED.values() if method.needs])
def test_silent_inputs(method: str) -> None:
    """Inputs that are 0 at every token say nothing, and nothing is divided by them."""
    for family in (OFFERED[method].families[0], OFFERED[method].families[-1]):
        result = quantize(f"{find(family).name}@{method}", hard_matrix(), seen(torch.zeros(3, COLUMNS)))
        assert bool(torch.isfinite(result.matrix).all())


@pytest.mark.parametrize("method", list(rounding.METHODS))
def test_a_refusal_says_why(method: str) -> None:
    refused = OFFERED[method].except_for
    assert all(reason.endswith(".") for reason in refused.values())
    assert set(refused).isdisjoint(OFFERED[method].families)
    assert set(refused) | set(OFFERED[method].families) == set(FAMILIES) - {ORIGINAL}
    for family in list(refused)[:1]:
        with pytest.raises(FormatError, match=r"layer\.weight: .* cannot round to"):
            quantize(f"{find(family).name}@{method}", hard_matrix(), seen(tokens(2)))


@pytest.mark.parametrize("method", [method.name for method in OFFERED.values() if method.needs])
def test_without_tokens_to_nearest(method: str) -> None:
    nothing = replace(seen(tokens(2)), rows=0)
    family = OFFERED[method].families[0]
    result = quantize(f"{find(family).name}@{method}", hard_matrix(), nothing)
    assert torch.equal(result.matrix, fake_quantize(find(family), hard_matrix()))
