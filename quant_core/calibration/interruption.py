"""Long passes that end soon after their job is cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from quant_core.jobs.context import Context
from quant_core.models.loading import LoadedModel
from quant_core.models.patch import watched

LOOK_SECONDS = 0.5
"""How often a pass looks whether its job was cancelled."""


def interruptible(context: Context, loaded: LoadedModel) -> AbstractContextManager[None]:
    """Have the model's passes inside the block end by ``Cancelled`` at the next layer once the job is cancelled."""
    return watched([site.module for site in loaded.graph.sites], looking(context))


def looking(context: Context) -> Callable[[], None]:
    """What raises ``Cancelled`` once the job is cancelled; it costs nothing to call it often."""
    last = time.monotonic()

    def look() -> None:
        nonlocal last
        if time.monotonic() - last > LOOK_SECONDS:
            last = time.monotonic()
            context.check_cancelled()

    return look
