"""The integer-only linear layer: codes equal to its simulation, to Python's own integers, and near the float result."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quant_core.errors import FormatError
from quant_core.methods.activations.integer_only import (
    Affine,
    IntegerLinear,
    dot,
    fixed_point,
    integer_linear,
    multiply,
)

TYPES = (torch.int8, torch.uint8)


def _python(layer: IntegerLinear, codes: Tensor) -> list[list[int]]:
    """The layer in Python's integers of any size, a value at a time; rounding by exact fractions."""
    result = []
    for token in codes.tolist():
        row = []
        for output, weights in enumerate(layer.weight.tolist()):
            zero = int(layer.weight_zero[output])
            total = int(layer.bias[output]) + sum(
                (w - zero) * (x - layer.inputs.zero_point) for w, x in zip(weights, token, strict=True)
            )
            fraction, exponent = math.frexp(float(layer.multipliers[output]))
            mantissa, shift = math.floor(fraction * 2**31 + 0.5), -exponent
            if mantissa == 2**31:
                mantissa, shift = 2**30, shift - 1
            if shift > 31:
                mantissa, shift = 0, 0
            total = min(max(total * 2 ** max(0, -shift), -(2**31)), 2**31 - 1)
            high = math.floor(Fraction(total * mantissa, 2**31) + Fraction(1, 2))
            exact = Fraction(high, 2 ** max(0, shift))
            size = math.floor(abs(exact) + Fraction(1, 2))
            value = (size if exact >= 0 else -size) + layer.outputs.zero_point
            row.append(min(max(value, layer.outputs.low), layer.outputs.high))
        result.append(row)
    return result


@st.composite
def affines(draw: Any, low: float = 1e-4, high: float = 10.0) -> Affine:
    dtype = draw(st.sampled_from(TYPES))
    limits = torch.iinfo(dtype)
    return Affine(draw(st.floats(low, high)), draw(st.integers(limits.min, limits.max)), dtype)


@st.composite
def layers(draw: Any) -> tuple[IntegerLinear, Tensor]:
    """A layer and input codes: any codes, zero points and biases, and multipliers that saturate, tie and vanish."""
    tokens, columns, rows = draw(st.integers(1, 4)), draw(st.integers(1, 20)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=generator)

    inputs, outputs = draw(affines()), draw(affines())
    multipliers = [
        draw(
            st.one_of(
                st.floats(1e-12, 1e6),
                st.sampled_from(
                    [0.5, 0.25, 1.0, 2.0, 2.0**-7, 1 - 2**-40, 2.0**-32, 2.0**-31, 2.0**-40, 3.0]
                ),
            )
        )
        for _ in range(rows)
    ]
    extreme = draw(st.booleans())
    weight = integers(-128, 127, rows, columns)
    codes = integers(inputs.low, inputs.high, tokens, columns)
    if extreme:
        weight = torch.where(weight < 0, -128, 127)
        codes = torch.where(codes > inputs.zero_point, inputs.high, inputs.low)
    layer = IntegerLinear(
        weight.to(torch.int8),
        integers(-128, 127, rows) if draw(st.booleans()) else torch.zeros(rows, dtype=torch.int64),
        integers(-(2**20), 2**20, rows),
        torch.tensor(multipliers, dtype=torch.float64),
        inputs,
        outputs,
    )
    return layer, codes.to(inputs.dtype)


@settings(max_examples=150, deadline=None)
@given(layers())
def test_integers_equal_the_simulation_and_python(made: tuple[IntegerLinear, Tensor]) -> None:
    layer, codes = made
    result = layer.forward(codes)
    assert result.dtype == layer.outputs.dtype
    assert torch.equal(result, layer.simulate(codes))
    assert result.tolist() == _python(layer, codes)
    assert (result.int() - layer.rounded(codes).int()).abs().max() <= 1


@settings(max_examples=100, deadline=None)
@given(st.integers(-(2**31), 2**31 - 1), st.integers(2**30, 2**31 - 1), st.integers(-8, 31))
def test_the_two_steps_by_fractions(total: int, mantissa: int, shift: int) -> None:
    found = multiply(torch.tensor([total]), torch.tensor([mantissa]), torch.tensor([shift]))
    shifted = min(max(total * 2 ** max(0, -shift), -(2**31)), 2**31 - 1)
    high = math.floor(Fraction(shifted * mantissa, 2**31) + Fraction(1, 2))
    exact = Fraction(high, 2 ** max(0, shift))
    size = math.floor(abs(exact) + Fraction(1, 2))
    assert int(found) == (size if exact >= 0 else -size)


def test_ties_by_hand() -> None:
    """M = 1/4 of 2, 6, -2, -6: halves of codes go away from zero; M = 1/2 has one step, whose ties go up."""
    mantissa, shift = fixed_point(torch.tensor([0.25, 0.5], dtype=torch.float64))
    assert mantissa.tolist() == [2**30, 2**30]
    assert shift.tolist() == [1, 0]
    sums = torch.tensor([2, 6, -2, -6, 3, -3])
    assert multiply(sums, mantissa[0], shift[0]).tolist() == [1, 2, -1, -2, 1, -1]
    assert multiply(torch.tensor([1, 3, -1, -3]), mantissa[1], shift[1]).tolist() == [1, 2, 0, -1]


def test_multipliers_by_hand() -> None:
    values = torch.tensor([0.75, 3.0, 1 - 2.0**-40, 2.0**-33, 2.0**-32], dtype=torch.float64)
    mantissa, shift = fixed_point(values)
    assert mantissa.tolist() == [3 * 2**29, 3 * 2**29, 2**30, 0, 2**30]
    assert shift.tolist() == [0, -2, -1, 0, 31]
    with pytest.raises(FormatError, match="output's scale is too small"):
        fixed_point(torch.tensor([2.0**31], dtype=torch.float64))


def test_rounding_twice_can_cost_a_code() -> None:
    """5 / 4 = 1.25: the first step makes 2.5 a 3, the second 1.5 a 2. So one code is what can be promised."""
    layer = IntegerLinear(
        weight=torch.ones(1, 1, dtype=torch.int8),
        weight_zero=torch.zeros(1, dtype=torch.int64),
        bias=torch.tensor([2]),
        multipliers=torch.tensor([0.25], dtype=torch.float64),
        inputs=Affine(1.0, 0),
        outputs=Affine(1.0, 0),
    )
    codes = torch.tensor([[3]], dtype=torch.int8)
    assert int(layer.forward(codes)) == int(layer.simulate(codes)) == 2
    assert int(layer.rounded(codes)) == 1


def test_a_float_layer_is_met_within_its_steps() -> None:
    """Against the layer in floats: off by the output's step, and what 8-bit weights and inputs cost."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(24, 64, generator=generator), torch.randn(24, generator=generator)
    x = torch.randn(50, 64, generator=generator)
    expected = x @ weight.T + bias
    inputs = Affine(float(x.max() - x.min()) / 255, 0)
    inputs = Affine(inputs.scale, int(-128 - x.min() / inputs.scale))
    outputs = Affine(float(expected.max() - expected.min()) / 255, 128, torch.uint8)
    for symmetric in (True, False):
        layer = integer_linear(weight, bias, inputs, outputs, symmetric=symmetric)
        result = layer.forward(inputs.encode(x))
        assert torch.equal(result, layer.simulate(inputs.encode(x)))
        assert (outputs.decode(result) - expected).abs().mean() < outputs.scale
        assert not symmetric or not layer.weight_zero.any()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_codes_of_pytorch_s_own_kernel() -> None:
    """``torch.ops.quantized.linear`` multiplies by M as a float: never more than one code away.

    Inputs use 7 of 8 bits, for its kernels add pairs of products in 16 bits on some processors.
    """
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(16, 32, generator=generator)
    inputs, outputs = Affine(0.05, 63, torch.uint8), Affine(0.2, 131, torch.uint8)
    layer = integer_linear(weight, None, inputs, outputs)
    scales = layer.multipliers * outputs.scale / inputs.scale
    packed = torch.ops.quantized.linear_prepack(
        torch._make_per_channel_quantized_tensor(layer.weight, scales, layer.weight_zero, 0), None
    )
    codes = torch.randint(0, 128, (40, 32), generator=generator).to(torch.uint8)
    quantized = torch._make_per_tensor_quantized_tensor(codes, inputs.scale, inputs.zero_point)
    found = torch.ops.quantized.linear(quantized, packed, outputs.scale, outputs.zero_point).int_repr()
    difference = (found.int() - layer.forward(codes).int()).abs()
    assert int(difference.max()) <= 1
    assert difference.float().mean() < 0.01


def test_products_of_extreme_codes_are_exact() -> None:
    x = torch.full((3, 40), -128, dtype=torch.int8)
    assert dot(x, x[:2]).tolist() == [[128 * 128 * 40] * 2] * 3
    assert dot(x, x[:2]).dtype == torch.int32


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Affine(1.0, 200), "200 is no code. Codes go from -128 to 127."),
        (lambda: Affine(0.0, 0), "positive scale"),
        (lambda: Affine(1.0, 0, torch.int32), "torch.int8 or torch.uint8"),
        (
            lambda: integer_linear(torch.ones(1, 200_000), None, Affine(1.0, 0), Affine(1.0, 0)),
            "A sum over 200,000 inputs may not fit into 32 bits.",
        ),
        (
            lambda: integer_linear(torch.ones(1, 2), torch.tensor([1e30]), Affine(1.0, 0), Affine(1.0, 0)),
            "may not fit into 32 bits",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, says: str) -> None:
    with pytest.raises(FormatError) as error:
        make()
    assert says in str(error.value)
