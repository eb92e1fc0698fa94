"""Measuring a recipe: run the original and the quantized model over the same text and compare what they predict."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from quant_core.calibration.batches import batch_rows
from quant_core.calibration.text import Tokens, tokenize
from quant_core.jobs.context import Context
from quant_core.methods.variant import Variant, make_variant
from quant_core.metrics import (
    kl_divergence,
    log_probabilities,
    mean_and_error,
    negative_log_likelihood,
    top1_agreement,
)
from quant_core.models.loading import LoadedModel
from quant_core.schema import EvaluateRequest, Evaluation, replace


def evaluate(context: Context, request: EvaluateRequest) -> Evaluation:
    """Make the request's variant of the model and ``compare`` it with the original."""
    loaded = context.loaded(request.model, request.roots, request.fingerprint)
    tokens = tokenize(context, loaded, request.text, request.tokens, request.sequence)
    begun = time.monotonic()
    context.progress(0.0, "Rounding the weights")
    variant = make_variant(context, loaded, request.assignment, request.setup)
    found = compare(context, loaded, variant, tokens)
    return replace(found, seconds=time.monotonic() - begun)


def compare(context: Context, loaded: LoadedModel, variant: Variant, tokens: Tokens) -> Evaluation:
    """KL, perplexity and agreement of a variant with the original model over sequences that do not overlap.

    Every position that predicts a token of its sequence counts, so ``length - 1`` a sequence. Perplexity is
    exp(mean negative log-likelihood); its standard error follows from the one over sequences by the delta method.
    """
    begun = time.monotonic()
    columns: dict[str, list[Tensor]] = {"kl": [], "before": [], "after": [], "same": []}
    for ids, reference, other in passes(context, loaded, variant, tokens):
        columns["kl"].append(kl_divergence(reference, other).cpu())
        columns["before"].append(negative_log_likelihood(reference, ids[:, 1:]).cpu())
        columns["after"].append(negative_log_likelihood(other, ids[:, 1:]).cpu())
        columns["same"].append(top1_agreement(reference, other).float().cpu())
    kl, before, after, same = (torch.cat(parts) for parts in columns.values())
    kl_mean, kl_stderr = mean_and_error(kl.mean(dim=1))
    return Evaluation(
        kl_mean=kl_mean,
        kl_stderr=kl_stderr,
        kl_median=float(kl.quantile(0.5)),
        kl_p99=float(kl.flatten().sort().values[math.ceil(0.99 * kl.numel()) - 1]),
        **_perplexity("perplexity", after),
        **_perplexity("perplexity_original", before),
        top1_agreement=float(same.mean()),
        tokens=kl.numel(),
        sequences=len(tokens.ids),
        text_hash=tokens.text_hash,
        text_label=tokens.label,
        seconds=time.monotonic() - begun,
        notes=variant.notes,
    )


def passes(
    context: Context, loaded: LoadedModel, variant: Variant, tokens: Tokens
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Both models over the text, some sequences at a time.

    Gives ids (rows, length) and log-probabilities (rows, length - 1, vocabulary) of the original and of the variant.
    """
    sequences, length = tokens.ids.shape
    model: Any = loaded.model
    step = batch_rows(loaded, length, 1)
    for start in range(0, sequences, step):
        context.progress(start / sequences, f"{start * length:,} of {tokens.count:,} evaluation tokens")
        ids = tokens.ids[start : start + step].to(loaded.device)
        with torch.no_grad():
            reference = log_probabilities(model(ids, use_cache=False).logits[:, :-1])
            with variant.active() as changed:
                run: Any = changed
                other = log_probabilities(run(ids, use_cache=False).logits[:, :-1])
        yield ids, reference, other


def _perplexity(name: str, nll: Tensor) -> dict[str, float]:
    mean, error = mean_and_error(nll.mean(dim=1))
    return {name: math.exp(mean), f"{name}_stderr": math.exp(mean) * error}
