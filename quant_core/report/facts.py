"""What a report stands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from quant_core.allocation.calibration import Interval
from quant_core.schema import Evaluation, ModelInfo, ParetoPoint, Recipe, Result, Run, ScoreTable
from quant_core.store.votes import Vote

R = TypeVar("R", bound=Result)


class Measured(NamedTuple):
    """A recipe's KL on a text, in nats a token."""

    kl: float
    stderr: float
    tokens: int
    text: str
    text_hash: str
    how: str
    """Alone, or side by side with others."""


@dataclass(frozen=True)
class Report:
    """A recipe with all that is stored of it."""

    version: str
    """Of QuantLens."""
    info: ModelInfo
    """The model as the recipe's rewrites leave it."""
    recipe: Recipe
    licence: str
    """Of the original, as its own card states it; empty if it is not known."""
    table: ScoreTable | None
    """The scores that the prediction is a sum of; None if they are not stored."""
    scores: Mapping[str, tuple[float, float]]
    """By unit, in its format: predicted KL in nats a token, and its standard error."""
    interval: Interval | None
    """The calibrated prediction; None if nothing was measured to calibrate on."""
    front: tuple[ParetoPoint, ...]
    votes: Mapping[str, tuple[Vote, ...]]
    """What was said in blind votes, by the key of the run that wrote the texts."""
    runs: tuple[Run, ...]
    """What was scored, measured, written, voted on, trained and exported of this very recipe, the oldest first."""
    solved: bool
    """Whether it is what the solver answers to its budget with the stored scores."""
    commands: tuple[str, ...]

    def results(self, kind: type[R]) -> list[tuple[Run, R]]:
        """The runs whose answer is of a kind, with the answer, the newest first."""
        return [(run, run.result) for run in reversed(self.runs) if isinstance(run.result, kind)]

    @property
    def evaluation(self) -> Evaluation | None:
        """The measurement that the recipe carries, else the newest stored one."""
        stored = [found for _, found in self.results(Evaluation)]
        return self.recipe.measured or next(iter(stored), None)
