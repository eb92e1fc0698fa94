"""The colours a plot is given, and the arithmetic that keeps text readable on them.

Plots choose no colour themselves: a :class:`Palette` comes in with every drawing, so that light, dark and any
theme of the user's own look right. Contrast is the WCAG 2.2 ratio
(https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEX = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Palette:
    """Colours as ``#rrggbb``.

    ``categorical`` holds exactly 10, ``sequential`` runs from few to many, ``diverging`` from below over
    neutral to above; ``background`` is what the (transparent) figure lies on.
    """

    categorical: tuple[str, ...]
    sequential: tuple[str, ...]
    diverging: tuple[str, ...]
    text: str
    grid: str
    background: str
    accent: str

    def __post_init__(self) -> None:
        if len(self.categorical) != 10:
            raise ValueError(f"categorical holds {len(self.categorical)} colours, not 10")
        if len(self.sequential) < 2 or len(self.diverging) < 3:
            raise ValueError("sequential needs 2 colours or more, diverging 3 or more")
        single = (self.text, self.grid, self.background, self.accent)
        for colour in (*self.categorical, *self.sequential, *self.diverging, *single):
            if not _HEX.fullmatch(colour):
                raise ValueError(f"{colour!r} is no colour of the form #rrggbb")

    @property
    def muted(self) -> str:
        """Text that steps back: captions, tick labels."""
        return blend(self.text, self.background, 0.25)

    def ramp(self, count: int) -> tuple[str, ...]:
        """``count`` colours spread evenly over ``sequential``, its two ends included."""
        if count == 1:
            return (at(self.sequential, 0.5),)
        return tuple(at(self.sequential, index / (count - 1)) for index in range(count))


def channels(colour: str) -> tuple[int, int, int]:
    """Red, green and blue (0..255) of ``#rrggbb``."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def blend(first: str, second: str, share: float) -> str:
    """The colour ``share`` (0..1) of the way from ``first`` to ``second``, straight through RGB."""
    mixed = [round(a + (b - a) * share) for a, b in zip(channels(first), channels(second), strict=True)]
    return "#" + "".join(f"{value:02x}" for value in mixed)


def at(scale: tuple[str, ...], position: float) -> str:
    """The colour at ``position`` (0..1) of a scale of evenly spaced colours."""
    place = min(max(position, 0.0), 1.0) * (len(scale) - 1)
    index = min(int(place), len(scale) - 2)
    return blend(scale[index], scale[index + 1], place - index)


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb``: 0 for black, 1 for white."""
    shares = [value / 255 for value in channels(colour)]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, 1 (the same) to 21 (black on white); text wants 4.5, graphics 3."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def readable_on(colour: str) -> str:
    """Black or white, whichever reads better on ``colour``."""
    return max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, colour))
