"""Where a unit's values live, however they are stored: all that rounding needs of a model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from quant_core.schema import Unit


@dataclass(frozen=True)
class Slot:
    """Where a unit's values live: a parameter, perhaps transposed, perhaps one expert's slice of it."""

    unit: Unit
    parameter: nn.Parameter
    transposed: bool = False
    expert: int | None = None

    def matrix(self) -> Tensor:
        """The weight as (rows, columns) = (outputs, inputs), sharing storage with the model."""
        data = self.parameter.data
        if self.expert is not None:
            data = data[self.expert]
        return data.T if self.transposed else data

    def write(self, storage: Tensor, matrix: Tensor) -> None:
        """Put ``matrix`` (rows, columns) at the unit's place in ``storage``, shaped like the parameter."""
        place = storage if self.expert is None else storage[self.expert]
        place.copy_(matrix.T if self.transposed else matrix)
