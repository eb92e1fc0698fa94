"""Quantities with their units, as text."""

from __future__ import annotations


def size(n_bytes: float) -> str:
    """Bytes as kB, MB, GB or TB (powers of 1000)."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(n_bytes) >= limit:
            value = n_bytes / limit
            return f"{value:.2f} {unit}" if value < 100 else f"{value:,.0f} {unit}"
    return f"{n_bytes:.0f} bytes"
