"""Where labels stand beside their points so that they cover neither each other, nor points, nor a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 330.0, 300.0
"""Pixels of the plot that labels are placed for: a narrow one; in a wider one they only stand farther apart."""
_CHARACTER, _LINE, _GAP, _POINT, _STROKE = 7.0, 14.0, 5.0, 4.5, 1.5
"""Pixels of a letter's width, a label's height, its distance from its point, and the radius of points and of lines."""


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
    others: Sequence[tuple[float, float]] = (),
    line: Sequence[tuple[float, float]] = (),
) -> list[str]:
    """A place for each label, one after the other, where it covers least of what is there already.

    Args:
        points: Of the labels, as shares 0..1 of the plot's width and height.
        texts: The labels; an empty one takes no room.
        others: Further points that labels should not cover.
        line: Samples of a line that labels should not cross.
    """
    marks = [_around(point, _POINT) for point in (*points, *others)]
    drawn = [_around(point, _STROKE) for point in line]
    labels: list[Box] = []
    found = []
    for point, text in zip(points, texts, strict=True):
        boxes = {name: _box(point, text, way) for name, way in _PLACES.items()}
        best = min(boxes, key=lambda name: _cost(boxes[name], labels, marks, drawn))
        found.append(best)
        if text:
            labels.append(boxes[best])
    return found


def _around(point: tuple[float, float], radius: float) -> Box:
    x, y = point[0] * WIDTH, point[1] * HEIGHT
    return Box(x - radius, y - radius, x + radius, y + radius)


def _box(point: tuple[float, float], text: str, way: tuple[int, int]) -> Box:
    """The rectangle of a label that lies ``way`` from its point."""
    width, (across, up) = _CHARACTER * len(text), way
    left = point[0] * WIDTH + {1: _GAP, 0: -width / 2, -1: -_GAP - width}[across]
    low = point[1] * HEIGHT + {1: _GAP, 0: -_LINE / 2, -1: -_GAP - _LINE}[up]
    return Box(left, low, left + width, low + _LINE)


def _cost(box: Box, labels: Sequence[Box], marks: Sequence[Box], line: Sequence[Box]) -> int:
    """How bad a place is: out of the plot is worst, since it is cut off, then a label, a point, and the line."""
    outside = box.left < 0 or box.right > WIDTH or box.low < 0 or box.high > HEIGHT
    covered = 20 * sum(map(box.meets, labels)) + 10 * sum(map(box.meets, marks))
    return 1000 * outside + covered + 4 * any(map(box.meets, line))
