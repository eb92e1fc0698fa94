"""What a recipe takes while the model runs: memory, bytes read for a token, and time for a token by the roofline model.

Williams, Waterman and Patterson 2009, "Roofline" (CACM 52(4)): a weight's product takes the longer of moving its
bytes and of its arithmetic. Each weight is one such product, so that the time of a token is a sum over weights, and
so are the other figures: every one of them is linear in the choice of formats, which is what lets them be budgets.

*Moved* for one step, which writes a token for each of ``batch`` sequences: all weights once, whatever the batch is;
of an embedding ``batch`` rows; of an expert the share ``1 - (1 - k/E)^batch`` of steps in which at least one of the
tokens is routed to it (k of E experts a token, all alike likely); the keys and values of all sequences. A format
that has no kernel on the machine is dequantized first: its weights are read, written in 16 bits, and read again.

*Arithmetic*: two operations a weight and token, at the machine's 16-bit rate. Attention's own is left out, and so
is whatever a runtime does between products: a prediction to compare recipes by, and a lower bound.

*Memory*: all weights, the KV cache, and activations: in a pass of T tokens two copies of the residual stream and
two of the widest layer's values, at 2 bytes each, and the logits of the tokens that are written at 4. Prompts pass
in pieces of at most 2,048 tokens, as runtimes have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant_core.allocation.terms import family_of
from quant_core.schema import ModelInfo, Unit, Use
from quant_core.targets.hardware import Hardware

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

PIECE = 2048
"""Tokens of prompts that pass through the model at once."""


@dataclass(frozen=True)
class Usage:
    """What a recipe takes while the model runs; bytes, and milliseconds a step."""

    weights: float
    cache: float
    activations: float
    active: float
    """Bytes of weights read in a step."""
    milliseconds: float | None
    """Predicted; None without a machine."""

    @property
    def memory(self) -> float:
        """Bytes in use."""
        return self.weights + self.cache + self.activations


def cache_bytes(info: ModelInfo, use: Use) -> float:
    """Bytes of keys and values of all sequences."""
    return info.kv_values * use.context * use.batch * use.cache_bits / 8


def activation_bytes(info: ModelInfo, use: Use) -> float:
    """Bytes of what lives between layers at the widest moment of a pass, logits included."""
    tokens = max(use.batch, min(use.context * use.batch, PIECE))
    inside = [unit for unit in info.units if unit.block >= 0]
    widest = max((max(unit.rows, unit.columns) for unit in inside), default=info.hidden_size)
    return 2.0 * tokens * (2 * info.hidden_size + 2 * widest) + 4.0 * use.batch * info.vocabulary


def shares(info: ModelInfo, units: Sequence[Unit], batch: int) -> FloatArray:
    """(units,) the share of each weight that is read in a step, in 0..1."""
    experts = 1.0
    if info.experts_per_token:
        first = next(unit for unit in info.units if unit.kind == "expert")
        role = first.role.partition("[")[0]
        count = sum(unit.block == first.block and unit.role.partition("[")[0] == role for unit in info.units)
        experts = 1.0 - (1.0 - min(info.experts_per_token / count, 1.0)) ** batch
    looked_up = [unit.kind == "embedding" and not unit.tied for unit in units]
    routed = np.array([unit.kind == "expert" for unit in units])
    rows = np.array([unit.rows for unit in units], np.float64)
    found: FloatArray = np.where(looked_up, np.minimum(batch / rows, 1.0), np.where(routed, experts, 1.0))
    return found


def step_seconds(
    info: ModelInfo,
    units: Sequence[Unit],
    formats: Sequence[str],
    bits: IntArray,
    use: Use,
    machine: Hardware,
) -> FloatArray:
    """(units, formats) seconds that each weight's product takes in a step.

    Args:
        info: The model.
        units: Its weights.
        formats: Full format names.
        bits: (units, formats) stored bits.
        use: Batch.
        machine: Where it runs.
    """
    read = shares(info, units, use.batch)[:, None]
    weights = np.array([unit.parameters for unit in units], np.float64)[:, None]
    again = np.array([0.0 if machine.has_kernel(family_of(name)) else 4.0 for name in formats])
    moved = read * (bits / 8 + weights * again) / (machine.bandwidth * 1e9)
    routed = np.array([unit.kind == "expert" for unit in units])[:, None]
    looked_up = np.array([unit.kind == "embedding" and not unit.tied for unit in units])[:, None]
    one = shares(info, units, 1)[:, None]
    tokens = np.where(looked_up, 0.0, use.batch * np.where(routed, one, 1.0))
    counted: FloatArray = np.maximum(moved, 2.0 * weights * tokens / (machine.teraflops * 1e12))
    return counted


def other_seconds(info: ModelInfo, use: Use, machine: Hardware) -> float:
    """Seconds a step for what no format changes: norms, biases, and the KV cache, which is read whole."""
    return (info.other_bits / 8 + cache_bytes(info, use)) / (machine.bandwidth * 1e9)
