"""Where labels stand beside their points so that they cover neither each other, nor points, nor a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 330.0, 300.0
"""Pixels of the plot that labels are placed for: a narrow one; in a wider one they only stand farther apart."""
_CHARACTER, _LINE, _GAP, _POINT = 7.0, 14.0, 5.0, 6.0
"""Pixels of a letter's width, a label's height, its distance from its point, and a point's radius."""


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    low: float
    right: float
    high: float

    def meets(self, other: Box) -> bool:
        """Whether the two share some area."""
        across = self.left < other.right and other.left < self.right
        return across and self.low < other.high and other.low < self.high


_PLACES = {
    "top right": (1, 1), "bottom left": (-1, -1), "top left": (-1, 1), "bottom right": (1, -1),
    "top center": (0, 1), "bottom center": (0, -1), "middle right": (1, 0), "middle left": (-1, 0),
}  # fmt: skip
"""Plotly's names with the way they lie from the point, the most pleasing first."""


def label_places(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    obstacles: Sequence[tuple[float, float]] = (),
) -> list[str]:
    """A place for each label, one after the other, where it covers least of what is there already.

    Args:
        points: Of the labels, as shares 0..1 of the plot's width and height.
        texts: The labels; an empty one takes no room.
        obstacles: Further points, and samples of lines, that labels should not cover.
    """
    taken = [_around(point) for point in (*points, *obstacles)]
    found = []
    for point, text in zip(points, texts, strict=True):
        boxes = {name: _box(point, text, way) for name, way in _PLACES.items()}
        best = min(boxes, key=lambda name: _covers(boxes[name], taken))
        found.append(best)
        if text:
            taken.append(boxes[best])
    return found


def _around(point: tuple[float, float]) -> Box:
    x, y = point[0] * WIDTH, point[1] * HEIGHT
    return Box(x - _POINT, y - _POINT, x + _POINT, y + _POINT)


def _box(point: tuple[float, float], text: str, way: tuple[int, int]) -> Box:
    """The rectangle of a label that lies ``way`` from its point."""
    width, (across, up) = _CHARACTER * len(text), way
    left = point[0] * WIDTH + {1: _GAP, 0: -width / 2, -1: -_GAP - width}[across]
    low = point[1] * HEIGHT + {1: _GAP, 0: -_LINE / 2, -1: -_GAP - _LINE}[up]
    return Box(left, low, left + width, low + _LINE)


def _covers(box: Box, taken: Sequence[Box]) -> int:
    """How many things a label covers; the plot's edge counts as many, since what lies beyond is cut off."""
    outside = box.left < 0 or box.right > WIDTH or box.low < 0 or box.high > HEIGHT
    return sum(box.meets(other) for other in taken) + (1000 if outside else 0)
