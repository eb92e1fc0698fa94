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
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quant_core.calibration.batches import MOST_LABELS, label_uniforms
from quant_core.calibration.text import Tokens
from quant_core.errors import ModelError
from quant_core.jobs.context import Context
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel
from quant_core.models.memory import out_of_memory
from quant_core.sensitivity.errors import RoundingErrors
from quant_core.sensitivity.halfway import Halfway, Stand
from quant_core.sensitivity.passes import Part, Pass, Seen, energy
from quant_core.sensitivity.sums import StateSums

_RESAMPLES = 200


Report = Callable[["LayerScores", int, Sequence[int]], None]
"""Told scores of some units, from how many sequences, and which of the units they are."""


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
    lost: tuple[int, ...] = ()
    """Tokens at which a unit's outputs are not finite; they are left out."""
    resumed: bool = False
    """Whether the sweep went on from where it had been stopped, so that ``sums`` saw only a part of the model."""
    rows: int = 0
    """Sequences that were read at a time, where memory ran out with more; else 0."""


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
    report: Report | None = None,
    sums: StateSums | None = None,
    blockwise: bool = False,
    halfway: Halfway | None = None,
) -> LayerScores:
    """Fisher score and output error of every unit in every format, in one pass over the tokens or a few.

    Where memory runs out, half as many sequences are taken at a time.

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
        report: Told what is known so far: after every batch of sequences and, block by block, after every block.
        sums: Where to add up what a score state is made of.
        blockwise: Whether to hold one block of the model at a time (``passes``).
        halfway: Where to keep, block by block, what is known, and to go on from.

    Raises:
        ModelError: One sequence alone is too large for the memory.
    """
    length = tokens.ids.shape[1]
    rounding = errors.seconds(slots) if blockwise else 0.0
    going = Pass(context, loaded, tokens, slots, len(errors.formats), rounding, gradients, blockwise)
    if loaded.mapped and not going.blockwise:
        raise ModelError(
            "This model is larger than the memory, and cannot be computed block by block.",
            "Use a machine with more memory.",
        )
    halved = False
    while True:
        scoring = _Scoring(context, tokens, slots, errors, report, halfway)
        if sums is not None:
            sums.reset()
        try:
            scores = scoring.score(going, seed, precision, sums)
            return replace(scores, rows=going.rows) if halved else scores
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if not going.halve():
                raise ModelError(
                    f"The memory does not hold one sequence of {length:,} tokens.",
                    "Choose shorter sequences or another device.",
                ) from error
        halved = True  # outside of the exception, which holds what filled the memory
        errors.forget()
        context.progress(0.0, f"Out of memory: trying again with {going.rows} sequences at a time")


class _Scoring:
    """The scores of one sweep, as far as it has come."""

    def __init__(
        self,
        context: Context,
        tokens: Tokens,
        slots: Sequence[Slot],
        errors: RoundingErrors,
        report: Report | None,
        halfway: Halfway | None,
    ) -> None:
        self._context, self._tokens, self._slots, self._errors = context, tokens, slots, errors
        self._report, self._halfway = report, halfway
        self._scored: set[int] = set()
        self._place = {slot.unit.name: index for index, slot in enumerate(slots)}
        device = slots[0].parameter.device  # nothing is waited for until the scores are asked for
        wide = torch.float32 if device.type == "mps" else torch.float64
        self._fisher = torch.zeros(len(slots), len(errors.formats), len(tokens.ids), device=device)
        self._noise = torch.zeros(len(slots), len(errors.formats), dtype=wide, device=device)
        self._signal = torch.zeros(len(slots), dtype=wide, device=device)
        self._lost = torch.zeros(len(slots), dtype=torch.long, device=device)
        self._labels = 0
        self._resumed = False

    def score(self, going: Pass, seed: int, precision: float, sums: StateSums | None) -> LayerScores:
        """Read the whole text, once or with fresh labels until the scores are known to ``precision``."""
        sequences, length = self._tokens.ids.shape
        most = MOST_LABELS if precision and going.gradients else 1
        if most > 1 or going.rows < sequences or not going.gradients:
            self._halfway = None  # what is known of a block is not the last word
        for label in range(most):
            self._labels = label + 1
            uniforms = label_uniforms(sequences, length, seed, label)
            for start in range(0, sequences, going.rows):
                self._read(going, label, most, start, uniforms, sums)
                if self._report is not None:
                    read = sequences if label else min(start + going.rows, sequences)
                    self._report(self._scores(read, going.gradients), read, range(len(self._slots)))
            if most == 1 or uncertainty(self._fisher.cpu(), seed) <= precision:
                break
        self._errors.check(self._slots)
        if self._halfway is not None:
            self._halfway.close()
        return self._scores(sequences, going.gradients)

    def _begin(self) -> Stand | None:
        """Where the sweep is to go on from."""
        stand = self._halfway.read() if self._halfway is not None else None
        if stand is not None:
            self._resumed = True
            for own, kept in zip(self._sums(), stand[2:], strict=True):
                own.copy_(kept)
            self._scored = {row for row, slot in enumerate(self._slots) if slot.unit.block >= stand.blocks}
        return stand

    def _keep(self, part: Part, sequences: int) -> None:
        """Tell and keep what is known after a part of a pass."""
        if part.gradient is None:
            return
        if self._report is not None and self._scored:
            rows = sorted(self._scored)
            whole = self._scores(sequences, True)
            assert whole.fisher is not None
            signal = tuple(whole.signal[row] for row in rows)
            known = LayerScores(whole.output[rows], whole.fisher[rows], signal, self._labels)
            self._report(known, sequences, rows)
        if self._halfway is not None:
            self._halfway.save(Stand(part.blocks, part.gradient, *self._sums()))

    def _sums(self) -> tuple[Tensor, ...]:
        """What is added up, in the order of ``Stand``."""
        return self._fisher, self._noise, self._signal, self._lost

    def _read(
        self, going: Pass, label: int, most: int, start: int, uniforms: Tensor, sums: StateSums | None
    ) -> None:
        """Read some sequences, from number ``start`` on, with the label of a number below ``most``."""
        sequences, length = self._tokens.ids.shape
        count = min(going.rows, sequences - start)
        slopes: dict[int, Tensor] = {}
        again = f", label {label + 1}" if label else ""
        for part in going.run(start, uniforms, sums, label, self._begin()):
            names = sorted(part.found.seen, key=self._place.__getitem__)
            for number, name in enumerate(names):
                share = part.begin + (part.end - part.begin) * number / len(names)
                done = (start + count * share) / sequences
                read = f"{int(done * self._tokens.count):,} of {self._tokens.count:,} calibration tokens"
                self._context.progress((label + done) / most, (name if going.blockwise else read) + again)
                index = self._place[name]
                with part.found.taken(name) as seen:
                    if sums is not None:
                        sums.add(name, [(entry.product, entry.direct) for entry in seen])
                    errors = [self._errors.of(self._slots[index], form) for form in self._errors.formats]
                    found, moved = _project(errors, seen, count * length)
                if label == 0:
                    self._signal[index] += part.found.energy[name]
                    self._lost[index] += part.found.lost[name]
                    self._noise[index] += moved
                if not going.gradients:
                    continue
                before = slopes.get(index)
                slopes[index] = found if before is None else before + found
                squares = _mean_square(slopes[index], count)
                if before is not None:  # a tied weight that was met before: its products count together
                    squares -= _mean_square(before, count)
                mean = self._fisher[index, :, start : start + count]
                if before is None:
                    mean *= label / (label + 1)
                mean += squares / (label + 1)
                self._scored.add(index)
            if label == 0 and count == sequences:
                self._keep(part, sequences)

    def _scores(self, sequences: int, gradients: bool) -> LayerScores:
        """What is known from the first so many sequences."""
        signal = self._signal.cpu()
        ratio = self._noise.cpu() / signal.clamp(min=1e-30)[:, None]
        mean = tuple((signal / (sequences * self._tokens.ids.shape[1])).tolist())
        fisher = self._fisher[..., :sequences].cpu() if gradients else None
        return LayerScores(ratio, fisher, mean, self._labels, tuple(self._lost.tolist()), self._resumed)


def _mean_square(slopes: Tensor, sequences: int) -> Tensor:
    """Half the mean square of slopes (formats, tokens) where they are finite, (formats, sequences)."""
    squares = slopes.square().view(len(slopes), sequences, -1)
    finite = torch.isfinite(squares)
    return torch.where(finite, squares, 0.0).sum(dim=-1) / finite.sum(dim=-1).clamp(min=1) / 2


def _project(errors: Sequence[Tensor], seen: Sequence[Seen], tokens: int) -> tuple[Tensor, Tensor]:
    """What rounding errors of a unit, (rows, columns) each, do over one batch.

    Returns:
        The sum over the unit's products of g . (dW x), (errors, tokens), and of |dW x|^2 over all tokens, (errors,),
        both float32.
    """
    device = errors[0].device
    slopes = torch.zeros(len(errors), tokens, device=device)
    moved_by = torch.zeros(len(errors), device=device)
    for entry in seen:
        product, behind = entry.product, []
        for column, error in enumerate(errors):
            moved = (
                error[product.inputs] if product.lookup else product.inputs @ error.T.to(product.inputs.dtype)
            )
            moved_by[column] += energy(moved)[0]
            if product.plain and entry.direct is not None:
                plain = moved if product.mixed is None else moved * ~product.mixed
                slope = (plain * entry.direct).sum(-1, dtype=torch.float32)
                slopes[column].index_add_(0, product.token, slope)
            if entry.mixed is not None:
                behind.append(moved)
        if product.slopes is not None and entry.mixed is not None:
            slopes.index_add_(1, product.token, product.slopes(behind, entry.mixed))
    return slopes, moved_by


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
