"""KL divergence, likelihood and agreement: by hand, against SciPy, and their promised properties."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_core import metrics
from quant_core.metrics import (
    Baseline,
    kl_divergence,
    log_probabilities,
    mean_and_error,
    negative_log_likelihood,
    top1_agreement,
)


def test_kl_by_hand() -> None:
    """KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 ln 3/2 + 1/4 ln 1/2."""
    p, q = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kl_divergence(p, q).item() == pytest.approx(expected, rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_kl_equals_scipy_and_is_never_negative(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = (log_probabilities(torch.randn(3, 50, generator=generator) * 3) for _ in range(2))
    ours = kl_divergence(first, second)
    reference = scipy.stats.entropy(first.exp().double().numpy(), second.exp().double().numpy(), axis=1)
    torch.testing.assert_close(ours.double(), torch.from_numpy(reference), rtol=1e-4, atol=1e-6)
    assert bool((ours >= 0).all())
    assert kl_divergence(first, first).abs().max().item() == 0.0


def test_likelihood_and_agreement_by_hand() -> None:
    log_probs = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]).log()
    nll = negative_log_likelihood(log_probs, torch.tensor([1, 1]))
    assert nll.tolist() == pytest.approx([math.log(4), -math.log(0.8)])
    other = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    assert top1_agreement(log_probs, other).tolist() == [False, True]


def test_mean_and_error_by_hand() -> None:
    """1, 2, 3, 4: mean 2.5, sample deviation sqrt(5/3), error sqrt(5/12)."""
    mean, error = mean_and_error(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert mean == 2.5
    assert error == pytest.approx(math.sqrt(5 / 12))
    assert mean_and_error(torch.tensor([7.0])) == (7.0, 0.0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([1e-4, 0.03, 1.0, 30.0]))
def test_divergence_from_logits_equals_float64(seed: int, size: float) -> None:
    """Small changes must not drown in rounding, large ones not overflow, and a common shift of the logits is none."""
    generator = torch.Generator().manual_seed(seed)
    before = torch.randn(2, 7, 300, generator=generator) * 3
    after = before + torch.randn(2, 7, 300, generator=generator) * size + 0.5
    log_p, log_q = before.double().log_softmax(-1), after.double().log_softmax(-1)
    exact = (log_p.exp() * (log_p - log_q)).sum(-1)
    torch.testing.assert_close(Baseline(before).divergence(after).double(), exact, rtol=2e-3, atol=1e-9)


def test_divergence_of_the_same_logits_is_exactly_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(0)) * 9
    assert Baseline(logits).divergence(logits.clone()).tolist() == [[0.0] * 5] * 3
    monkeypatch.setattr(metrics, "_CHUNK", 80)
    changed = logits + torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(1))
    in_chunks = Baseline(logits).divergence(changed)
    monkeypatch.undo()
    torch.testing.assert_close(in_chunks, Baseline(logits).divergence(changed))


def test_divergence_survives_a_logit_that_explodes() -> None:
    """All chance moves to a token that had 1/2: KL = -1/2 log(1 - e^-200) - 1/2 log e^-200 = 100 - log 2 of entropy."""
    before, after = torch.zeros(1, 2), torch.tensor([[200.0, 0.0]])
    assert Baseline(before).divergence(after).item() == pytest.approx(100 - math.log(2))
    after = torch.tensor([[float("nan"), 0.0], [0.0, 0.0]])
    assert Baseline(torch.zeros(2, 2)).divergence(after).isfinite().tolist() == [False, True]
