"""The job that opens a model and says what it is."""

from __future__ import annotations

from quant_core.jobs.context import Context
from quant_core.schema import InspectRequest, ModelInfo


def inspect(context: Context, request: InspectRequest) -> ModelInfo:
    """Load the model, if it is not warm already, and list what can be quantized."""
    return context.loaded(request.model, request.roots).info
