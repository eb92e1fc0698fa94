"""What may go wrong, said in one sentence with a remedy.

Every error a user can cause is a :class:`QuantError`: the browser shows ``message`` and ``hint``, the command line
prints them and exits with 1. Anything else is a defect of the program and keeps its traceback in the worker's log.
"""

from __future__ import annotations


class QuantError(Exception):
    """A failure with a plain sentence for the user.

    Args:
        message: What went wrong, one sentence.
        hint: What to do about it, one sentence; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class ModelError(QuantError):
    """The model cannot be found, read, or used."""


class FormatError(QuantError):
    """A number format's name or parameters make no sense."""


class TextError(QuantError):
    """Calibration or evaluation text is missing or too short."""


class BudgetError(QuantError):
    """No recipe meets the budget and the pins."""


class RecipeError(QuantError):
    """A recipe file is malformed or belongs to another model."""


class ExportError(QuantError):
    """A model cannot be written for a runtime, or a quantized checkpoint cannot be read."""


class EndpointError(QuantError):
    """A server cannot be reached, or answers other than was asked."""


class JobError(QuantError):
    """A job failed, was lost, or cannot be started."""


class Cancelled(QuantError):
    """The user cancelled the job."""
