"""Numbers as people read them: short, and never without their unit."""

from __future__ import annotations

import math

from quant_core import quantities

size = quantities.size


def count(value: float) -> str:
    """``15_234_000`` as ``15.2 M``; no unit follows, so name it (``15.2 M parameters``)."""
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scale = 1e3 if letter == "k" else limit
            return f"{value / scale:.3g} {letter}"
    return f"{value:,.0f}"


def nats(value: float | None) -> str:
    """A KL divergence to three significant digits, with its unit."""
    return "–" if value is None else f"{significant(value)} nats/token"


def significant(value: float, digits: int = 3) -> str:
    """A number to some significant digits, without an exponent where it stays readable."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -5 or exponent > 7:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(digits - 1 - exponent, 0)}f}"


def bits(value: float) -> str:
    """Bits a weight, two decimals."""
    return f"{value:.2f} bits"


def share(value: float) -> str:
    """A share in 0..1 as a percentage."""
    return f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``0.4 s``, ``12 s``, ``3 min``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def fingerprint(text: str) -> str:
    """A content hash, shortened to what people compare."""
    return text[:8]
