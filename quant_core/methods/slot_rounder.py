"""Rounding units by full format name, method included, wherever the weights and what methods ask for come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from quant_core.calibration.inputs import Inputs
from quant_core.errors import FormatError
from quant_core.formats import Codes, Format, fake_quantize, find, from_blocks, join, split, to_blocks
from quant_core.methods import rounding
from quant_core.methods.trained import Trained
from quant_core.models.slots import Slot
from quant_core.schema import Unit


@dataclass(frozen=True)
class Quantized:
    """One unit rounded: its codes, which weights are kept in 16 bits, and the matrix they stand for."""

    form: Format
    codes: Codes
    kept: Tensor | None
    matrix: Tensor
    """(rows, columns), in the dtype of the model."""


class SlotRounder(ABC):
    """Rounds units; subclasses say what entered them.

    Args:
        trained: A training whose codes are taken for the units it covers.
    """

    def __init__(self, trained: Trained | None = None) -> None:
        self._trained = trained
        self.notes: dict[str, str] = {}
        """What the user should know of a unit's rounding, by ``unit: format``."""

    @abstractmethod
    def inputs(self, slot: Slot, gradients: bool = False) -> Inputs:
        """What entered a unit over the calibration text, with the diagonal of its Fisher information if asked."""

    def matrix(self, slot: Slot, name: str, check: bool = True) -> Tensor:
        """A unit's matrix (rows, columns) after rounding to the format of full ``name``; errors name the unit.

        Without ``check``, what cannot be rounded may come out as values that are not finite.
        """
        form = find(name)
        if not form.spec.method and self._trained is None:
            return _named(slot.unit, lambda: fake_quantize(form, slot.matrix(), check))
        return self.quantize(slot, form).matrix

    def by_rows(self, unit: Unit, form: Format) -> bool:
        """Whether some rows of a unit round as they do among all: no block crosses rows, and nothing sees them all."""
        whole = form.spec.method or form.spec.keep or form.spec.granularity in ("tensor", "block")
        trained = self._trained is not None and self._trained.covers(unit.name, form)
        return form.independent and not whole and not trained

    def quantize(self, slot: Slot, form: Format) -> Quantized:
        """A unit rounded to ``form`` by the method in its name; ``FormatError`` names the unit."""
        return _named(slot.unit, lambda: self._quantize(slot, form))

    def _quantize(self, slot: Slot, form: Format) -> Quantized:
        matrix = slot.matrix()
        if self._trained is not None and self._trained.covers(slot.unit.name, form):
            codes, mask = self._trained.read(slot.unit.name, matrix.device)
        else:
            if self._trained is not None:
                self.notes[f"{slot.unit.name}: {form.name}"] = "was not trained in this format"
            dense, mask = split(form, matrix)
            codes = self._codes(slot, form, dense.float())
        values = from_blocks(form.dequantize(codes), form, *matrix.shape)
        return Quantized(form, codes, mask, join(values, matrix, mask))

    def _codes(self, slot: Slot, form: Format, dense: Tensor) -> Codes:
        if not form.spec.method:
            return form.quantize(to_blocks(dense, form))
        method = rounding.METHODS[form.spec.method.split(":")[0]]
        reason = method.refuses(form.info)
        if reason:
            raise FormatError(f"{method.info.title} cannot round to {form.spec.family}.", reason)
        inputs = self.inputs(slot, "gradients" in method.info.needs) if method.info.needs else None
        if inputs is not None and (
            not inputs.rows or ("gradients" in method.info.needs and inputs.fisher is None)
        ):
            why = "saw no calibration token" if slot.unit.kind == "expert" else "multiplies no input"
            self.notes[f"{slot.unit.name}: {form.name}"] = f"{why}; rounded to nearest instead"
            return form.quantize(to_blocks(dense, form))
        rounded = rounding.find(form.spec.method).round(dense, form, inputs)
        if rounded.note:
            self.notes[f"{slot.unit.name}: {form.name}"] = rounded.note
        return rounded.codes


T = TypeVar("T")


def _named(unit: Unit, work: Callable[[], T]) -> T:
    try:
        return work()
    except FormatError as error:
        raise FormatError(f"{unit.name}: {error.message}", error.hint) from error
