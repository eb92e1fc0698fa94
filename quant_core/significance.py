"""Could it be chance? Exact tests and intervals for counts, by hand, so that the server needs no statistics library."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import comb, sqrt
from typing import NamedTuple

from quant_core.schema import Matrix, Question

Z95 = 1.959964
"""Standard deviations that hold 95 % of a normal distribution."""


def sign_test(first: int, second: int) -> float:
    """The chance of a split at least this uneven if both were equally likely; ties are left out before.

    Two-sided exact binomial test at 1/2 (Dixon & Mood 1946). Of the answers that only one of two models gets right it
    is McNemar's exact test (McNemar 1947).
    """
    count = first + second
    tail = sum(comb(count, lower) for lower in range(min(first, second) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**count)))


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927), both ends in 0..1; everything where nothing was counted."""
    if not count:
        return 0.0, 1.0
    share, z2 = hits / count, Z95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    reach = Z95 * sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, middle - reach), min(1.0, middle + reach)


class Accuracy(NamedTuple):
    """How often the choice that a model finds likeliest is the right one."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        """In 0..1."""
        return self.right / self.asked

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by Wilson."""
        return wilson(self.right, self.asked)


class Paired(NamedTuple):
    """Original and recipe on the same questions."""

    original: Accuracy
    recipe: Accuracy
    lost: int
    """Questions that the original alone gets right."""
    won: int
    """Questions that the recipe alone gets right."""

    @property
    def p(self) -> float:
        """The chance of a difference at least this large if there were none: McNemar's exact test."""
        return sign_test(self.lost, self.won)


def picks(questions: Sequence[Question], scores: Matrix, per_byte: bool) -> list[int]:
    """The choice that has the highest score for each question, the first of several.

    Args:
        questions: What was asked.
        scores: Log-likelihoods, a row a question.
        per_byte: Whether to divide by the choice's length in UTF-8 bytes (``acc_norm`` of lm-evaluation-harness, which
            counts letters; the same for ASCII), so that long choices are not at a disadvantage.
    """
    found = []
    for question, row in zip(questions, scores, strict=True):
        sizes = [len(choice.encode()) if per_byte else 1 for choice in question.choices]
        rated = [score / size for score, size in zip(row, sizes, strict=True)]
        found.append(rated.index(max(rated)))
    return found


def paired(questions: Sequence[Question], original: Matrix, recipe: Matrix, per_byte: bool) -> Paired:
    """The accuracy of both, and where they differ."""
    answers = [question.answer for question in questions]
    before, after = (
        [pick == answer for pick, answer in zip(picks(questions, scores, per_byte), answers, strict=True)]
        for scores in (original, recipe)
    )
    pairs = list(zip(before, after, strict=True))
    return Paired(
        Accuracy(sum(before), len(answers)),
        Accuracy(sum(after), len(answers)),
        sum(first and not second for first, second in pairs),
        sum(second and not first for first, second in pairs),
    )
