"""The Fisher score: what rounding one unit costs in KL divergence, to second order, from one forward pass.

For a small change dW of one weight, KL(original || changed) is to second order one half of the quadratic form of the
Fisher information of the model's own predictions. So: run the model on the calibration text, draw a label at every
position *from the model's own output distribution* (the text's next token would bias it), back-propagate the
log-probability of those labels to the activations, and at each unit, with input x_t and output gradient g_t,

    score = 1/2 mean_t (g_t . (dW x_t))^2      in nats a token.

The square is taken a token at a time, which drops the products between tokens and with them most of the noise. That is
right where an error acts on its own position. It is not for an attention's keys and values, whose errors at many tokens
act together: there the score is taken behind the attention (``quant_core.calibration.attention``). Where one
weight is applied twice (a tied embedding), both products are added before squaring. The means are kept by sequence; a
bootstrap over sequences gives standard errors. Where these are larger than asked, the text is read again with fresh
labels, whose squares join the mean.
Amari 1998 ("Natural gradient works efficiently in learning"); Kunstner et al. 2019 (arXiv:1905.12558) on sampled
labels against the empirical Fisher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quant_core.calibration.batches import MOST_LABELS, batch_rows, label_gradient, label_uniforms
from quant_core.calibration.capture import Product, capture
from quant_core.calibration.text import Tokens
from quant_core.jobs.context import Context
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel
from quant_core.sensitivity.errors import RoundingErrors
from quant_core.sensitivity.sums import StateSums

_RESAMPLES = 200


@dataclass(frozen=True)
class LayerScores:
    """Per-sequence means of shape (units, formats, sequences); ``fisher`` is None without a backward pass.

    ``output`` is the relative output error, mean |dW x|^2 / mean |W x|^2, of shape (units, formats).
    """

    output: Tensor
    fisher: Tensor | None
    signal: tuple[float, ...]
    """Mean |W x|^2 of each unit over all tokens."""
    labels: int
    """Labels drawn at each token."""


@dataclass(eq=False)
class _Seen:
    """A product of one batch with the gradients at its outputs and behind an attention."""

    product: Product
    direct: Tensor | None = None
    mixed: Tensor | None = None


class _Collector:
    """Keeps one batch's inputs and gradients by unit; ``sums`` looks on for a score state."""

    def __init__(self, wanted: set[str], sequences: int, sums: StateSums | None) -> None:
        self.wanted = wanted
        self.sequences = sequences
        self.sums = sums
        self.seen: dict[str, dict[Product, _Seen]] = {}
        self.energy: dict[str, float] = {}

    def forward(self, product: Product, outputs: Tensor) -> None:
        name = product.slot.unit.name
        if name in self.wanted:
            self.energy[name] = self.energy.get(name, 0.0) + _energy(outputs)
            self.seen.setdefault(name, {})[product] = _Seen(product)
            if self.sums is not None:
                self.sums.enter(product)

    def backward(self, product: Product, gradient: Tensor) -> None:
        name = product.slot.unit.name
        if name in self.wanted:
            self.seen[name][product].direct = gradient

    def backward_mixed(self, product: Product, gradient: Tensor) -> None:
        name = product.slot.unit.name
        if name in self.wanted:
            self.seen[name][product].mixed = gradient
            if self.sums is not None:
                self.sums.pull(product, gradient, self.sequences)


def _energy(values: Tensor) -> float:
    """The sum of squares."""
    return float(torch.linalg.vector_norm(values, dtype=torch.float32)) ** 2


def score_layers(
    context: Context,
    loaded: LoadedModel,
    tokens: Tokens,
    slots: Sequence[Slot],
    errors: RoundingErrors,
    *,
    seed: int,
    gradients: bool = True,
    precision: float = 0.0,
    report: Callable[[LayerScores, int], None] | None = None,
    sums: StateSums | None = None,
) -> LayerScores:
    """Fisher score and output error of every unit in every format, in one pass over the tokens or a few.

    Args:
        context: For progress and cancel.
        loaded: The model.
        tokens: Calibration sequences.
        slots: Units to score.
        errors: Their rounding errors by format.
        seed: For the labels, drawn on the CPU so that devices agree.
        gradients: False skips the backward pass and the Fisher score.
        precision: The tokens are read again with fresh labels while ``uncertainty`` is larger, up to ``MOST_LABELS``
            times in all; 0 reads them once.
        report: Told after every batch what is known so far, and from how many sequences.
        sums: Where to add up what a score state is made of.
    """
    formats = errors.formats
    sequences, length = tokens.ids.shape
    fisher = torch.zeros(len(slots), len(formats), sequences)
    noise = torch.zeros(len(slots), len(formats), dtype=torch.float64)
    signal = torch.zeros(len(slots), dtype=torch.float64)
    step = batch_rows(loaded, length, sum(slot.unit.rows + slot.unit.columns for slot in slots))
    most = MOST_LABELS if precision and gradients else 1
    for label in range(most):
        uniforms = label_uniforms(sequences, length, seed, label)
        again = f", label {label + 1}" if label else ""
        for start in range(0, sequences, step):
            ids = tokens.ids[start : start + step]
            stop = start + len(ids)
            context.progress(
                (label + start / sequences) / most,
                f"{start * length:,} of {tokens.count:,} calibration tokens{again}",
            )
            drawn = uniforms[start:stop] if gradients else None
            if sums is not None:
                sums.begin(label)
            found = _run(loaded, ids, {slot.unit.name for slot in slots}, drawn, sums)
            for index, slot in enumerate(slots):
                done = (start + len(ids) * index / len(slots)) / sequences
                context.progress(
                    (label + done) / most,
                    f"{int(done * tokens.count):,} of {tokens.count:,} calibration tokens{again}",
                )
                seen = list(found.seen.pop(slot.unit.name, {}).values())
                if sums is not None:
                    sums.add(slot.unit.name, [(entry.product, entry.direct) for entry in seen])
                slopes, energy = _project([errors.of(slot, form) for form in formats], seen, ids.numel())
                if label == 0:
                    signal[index] += found.energy.get(slot.unit.name, 0.0)
                    noise[index] += energy.cpu()
                squares = slopes.square().unflatten(-1, ids.shape).mean(dim=-1).cpu() / 2
                fisher[index, :, start:stop] += (squares - fisher[index, :, start:stop]) / (label + 1)
            read = sequences if label else stop
            ratio = noise / signal.clamp(min=1e-30)[:, None]
            mean = tuple((signal / (read * length)).tolist())
            scores = LayerScores(ratio, fisher[..., :read] if gradients else None, mean, label + 1)
            if report is not None:
                report(scores, read)
        if uncertainty(fisher, seed) <= precision:
            break
    return scores


def _run(
    loaded: LoadedModel, ids: Tensor, wanted: set[str], uniforms: Tensor | None, sums: StateSums | None
) -> _Collector:
    found = _Collector(wanted, len(ids), sums)
    model: Any = loaded.model
    with torch.set_grad_enabled(uniforms is not None), capture(loaded.graph, found, model):
        logits = model(ids.to(loaded.device), use_cache=False).logits
        if uniforms is not None:
            logits.backward(label_gradient(logits.detach(), uniforms))
    return found


def _project(errors: Sequence[Tensor], seen: Sequence[_Seen], tokens: int) -> tuple[Tensor, Tensor]:
    """What rounding errors of a unit, (rows, columns) each, do over one batch.

    Returns:
        The sum over the unit's products of g . (dW x), (errors, tokens), and of |dW x|^2 over all tokens, (errors,),
        both float32.
    """
    device = errors[0].device
    slopes = torch.zeros(len(errors), tokens, device=device)
    energy = torch.zeros(len(errors), device=device)
    for entry in seen:
        product, behind = entry.product, []
        direct = product.mixed is None or not bool(product.mixed.all())
        for column, error in enumerate(errors):
            moved = (
                error[product.inputs] if product.lookup else product.inputs @ error.T.to(product.inputs.dtype)
            )
            energy[column] += torch.linalg.vector_norm(moved, dtype=torch.float32).square()
            if direct and entry.direct is not None:
                plain = moved if product.mixed is None else moved * ~product.mixed
                slope = (plain * entry.direct).sum(-1, dtype=torch.float32)
                slopes[column].index_add_(0, product.token, slope)
            if entry.mixed is not None:
                behind.append(moved)
        if product.slopes is not None and entry.mixed is not None:
            slopes += product.slopes(behind, entry.mixed)
    return slopes, energy


def uncertainty(per_sequence: Tensor, seed: int) -> float:
    """How well scores (units, formats, sequences) are known: their standard error over them, as a share.

    The median over units, in the format where it is largest; 0 where there is nothing to tell.
    """
    if not per_sequence[..., 0].numel():
        return 0.0
    relative = bootstrap_error(per_sequence, seed) / per_sequence.mean(dim=-1).clamp(min=1e-30)
    return float(relative.median(dim=0).values.max())


def bootstrap_error(per_sequence: Tensor, seed: int) -> Tensor:
    """Standard error of the mean over the last dimension (sequences), by resampling sequences with replacement.

    Shape (..., sequences) to (...). Efron 1979. With a single sequence nothing can be said and 0 is returned.
    """
    sequences = per_sequence.shape[-1]
    if sequences < 2:
        return torch.zeros(per_sequence.shape[:-1])
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(sequences, (_RESAMPLES, sequences), generator=generator)
    weights = torch.zeros(_RESAMPLES, sequences).scatter_add_(1, drawn, torch.ones(drawn.shape)) / sequences
    return (per_sequence.float() @ weights.T).std(dim=-1)
