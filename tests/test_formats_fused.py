"""The fused round trip against its eager twin: the same values, to the last bit."""

from __future__ import annotations

import shutil

import pytest
import torch

from quant_core.formats import base, fake_quantize, find, fused
from tests.matrices import random_matrix

FUSED = ["int4/g64/asym", "nf4/g64"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU, and there is none")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # the compiler's own imports
@pytest.mark.parametrize("name", FUSED)
def test_fused_equals_eager(name: str) -> None:
    form = find(name)
    weights = random_matrix(48, 256, seed=2)
    weights[3] = 0.0
    weights[4, 5] = 30.0
    weights[5] *= 1e-30
    values, scales = fused.round_trip(form, weights)
    assert torch.equal(values, base.fake_quantize(form, weights))
    assert torch.equal(scales, form.fit(base.to_blocks(weights, form)).scales)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("name", [*FUSED, "int3/g64/sym", "int8/channel/sym", "nf4/g128"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_fused_equals_eager_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    form = find(name)
    weights = random_matrix(4096, 4096, seed=3).to("cuda", dtype)
    assert torch.equal(fake_quantize(form, weights), base.fake_quantize(form, weights))


def test_what_does_not_suit_goes_the_eager_way() -> None:
    ragged, square = random_matrix(4, 100), random_matrix(4, 128)
    assert fused.suits(find("int4/g64/asym"), square)
    assert not fused.suits(find("int4/g64/asym"), ragged)
    assert not fused.suits(find("int4/g64/asym"), square.T)
    assert not fused.suits(find("int4/g64/asym/keep0.5"), square)
    assert not fused.suits(find("nf4/g64/dq"), square)
    assert not fused.suits(find("int4/tensor/asym"), square)
