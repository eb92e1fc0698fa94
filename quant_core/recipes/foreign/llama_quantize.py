"""llama.cpp's own quantizer, told a type for each tensor (``--tensor-type``); see ``recipes.gguf_lines``."""

from __future__ import annotations

from dataclasses import replace

from quant_core.errors import FormatError
from quant_core.recipes.foreign.base import Dialect, register
from quant_core.recipes.gguf_lines import tensor_types
from quant_core.schema import ModelInfo, Problem, Recipe
from quant_core.targets import TARGETS


class LlamaQuantize(Dialect):
    """Options that go before the names of the files, one a line."""

    file = "llama-quantize.txt"
    solve_for = "gguf"
    target = replace(
        TARGETS["gguf"],
        name="llama-quantize",
        title="llama-quantize",
        help="Quantizes an f16 GGUF file for llama.cpp.",
        writes=(),
        notes=(
            "Set these options before the file names: llama-quantize OPTIONS in-f16.gguf out.gguf Q4_K_M",
        ),
    )

    def problems(self, info: ModelInfo, recipe: Recipe) -> tuple[Problem, ...]:
        """Beside the others: weights whose names llama.cpp has not."""
        found = super().problems(info, recipe)
        if not found:
            try:
                tensor_types(info, recipe.assignment())
            except FormatError as error:
                return (Problem(error.message),)
        return found

    def text(self, info: ModelInfo, recipe: Recipe) -> str:
        """One option a line."""
        return "".join(f"{line}\n" for line in tensor_types(info, recipe.assignment()))


register(LlamaQuantize())
