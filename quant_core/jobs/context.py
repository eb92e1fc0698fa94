"""What a job may ask of the machinery that runs it: the only coupling between the two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, overload

from quant_core.schema import (
    Event,
    Exported,
    ExportRequest,
    ModelRef,
    Proof,
    ProveRequest,
    ScoreTable,
    SensitivityRequest,
)

if TYPE_CHECKING:
    from quant_core.models.loading import LoadedModel


class Context(Protocol):
    """Progress, cancel, streamed events and the warm model, for a job function ``(context, request) -> result``."""

    def progress(self, fraction: float, message: str = "") -> None:
        """Report ``fraction`` (0..1) done; less than was reported before changes the message alone.

        Called only where the model is as it was loaded: waiting interactive requests are served in here, and a
        cancelled job leaves from here by ``Cancelled``.
        """

    def check_cancelled(self) -> None:
        """Raise ``Cancelled`` if the user asked for it; may be called anywhere."""

    def emit(self, event: Event) -> None:
        """Store an event for whoever watches the job."""

    def folder(self) -> Path:
        """The folder for arrays that outlive the job: weights it trained, a checkpoint, text the model wrote."""

    def loaded(self, ref: ModelRef, roots: tuple[str, ...], fingerprint: str = "") -> LoadedModel:
        """The model, kept warm between jobs; ``ModelError`` if it is no longer the one with ``fingerprint``."""


class ChainContext(Context, Protocol):
    """What a job made of others may ask beside that."""

    @overload
    def answer(self, request: SensitivityRequest, start: float, end: float) -> ScoreTable: ...
    @overload
    def answer(self, request: ProveRequest, start: float, end: float) -> Proof: ...
    @overload
    def answer(self, request: ExportRequest, start: float, end: float) -> Exported: ...
    def answer(
        self, request: SensitivityRequest | ProveRequest | ExportRequest, start: float, end: float
    ) -> ScoreTable | Proof | Exported:
        """The stored answer to a request that is part of this job; else it is worked out here and stored.

        Its progress fills this job's from ``start`` to ``end``, both in 0..1. A part that is stored is there for all
        who ask for it, and a job that was stopped goes on behind it.
        """
