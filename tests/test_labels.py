"""Labels beside points: where they go when nothing, an edge, a neighbour or a line is in the way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quant_core.plots import labels
from quant_core.plots.labels import label_places

shares = st.tuples(st.floats(0.15, 0.85), st.floats(0.15, 0.85))


def test_with_nothing_in_the_way_a_label_stands_top_right() -> None:
    assert label_places([(0.5, 0.5)], ["int4"]) == ["top right"]


def test_a_label_stays_inside_the_plot() -> None:
    corners = [(0.99, 0.99), (0.0, 0.99), (0.99, 0.0), (0.0, 0.0)]
    found = label_places(corners, ["int4"] * 4)
    assert found == ["bottom left", "bottom right", "top left", "top right"]


def test_a_label_makes_way_for_the_next_point() -> None:
    """4 letters are 28 pixels wide: a point 20 to the right and 12 above lies within the first's favourite place."""
    other = (0.5 + 20 / labels.WIDTH, 0.5 + 12 / labels.HEIGHT)
    assert label_places([(0.5, 0.5), other], ["int4", ""])[0] == "bottom left"
    assert label_places([(0.5, 0.5)], ["int4"], [other]) == ["bottom left"]


def test_a_label_leaves_a_falling_line_through_its_point_alone() -> None:
    line = [(x / 50, 1 - x / 50) for x in range(51)]
    assert label_places([(0.5, 0.5)], ["int4@gptq"], (), line) == ["top right"]
    rising = [(x, 1 - y) for x, y in line]
    assert label_places([(0.5, 0.5)], ["int4@gptq"], (), rising)[0] in ("top left", "bottom right")


def test_a_label_rather_crosses_the_line_than_covers_another_label() -> None:
    """Five points in a heap above a falling line: no two of their labels meet."""
    heap = [(0.40, 0.60), (0.43, 0.59), (0.43, 0.54), (0.40, 0.50), (0.46, 0.52)]
    texts = ["int4", "nf4", "q4_k", "int4@gptq", "Q4_K_M"]
    line = [(x / 200, 0.9 - x / 200) for x in range(181)]
    found = label_places(heap, texts, (), line)
    boxes = [
        labels._box(point, text, labels._PLACES[place])
        for point, text, place in zip(heap, texts, found, strict=True)
    ]
    assert not any(one.meets(two) for index, one in enumerate(boxes) for two in boxes[:index])


@given(st.lists(shares, min_size=2, max_size=2))
def test_two_labels_never_cover_each_other(points: list[tuple[float, float]]) -> None:
    first, second = label_places(points, ["int4", "q4_k"])
    boxes = [
        labels._box(point, "int4", labels._PLACES[place])
        for point, place in zip(points, (first, second), strict=True)
    ]
    assert not boxes[0].meets(boxes[1])
