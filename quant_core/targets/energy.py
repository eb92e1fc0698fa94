"""What a written token takes in energy on a processor: an estimate from bytes moved and arithmetic done.

Horowitz 2014, "Computing's energy problem (and what we can do about it)", ISSCC, figure 1.1.9 (45 nm, 0.9 V): 64 bits
from DRAM take 1.3 to 2.6 nJ; a multiplication and an addition take 1.1 + 0.4 pJ in 16-bit floating point. Newer chips
take less of both. What is left out (caches, idle cores, the power supply) makes a whole machine take more: it serves
to compare recipes, whose bytes differ, not to predict a meter.
"""

from __future__ import annotations

DRAM = (1.3e-9 / 8, 2.6e-9 / 8)
"""Joules a byte, least and most."""
MULTIPLY_ADD = 1.5e-12
"""Joules, in 16 bits."""


def token_joules(moved: float, multiplied: float) -> tuple[float, float]:
    """Least and most joules a token, from the bytes that are read for it and the weights it is multiplied with."""
    low, high = (moved * each + multiplied * MULTIPLY_ADD for each in DRAM)
    return low, high
