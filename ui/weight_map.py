"""One layer's weights and their errors as heatmaps: zoom by a box or by numbers, one weight told by a click."""

from __future__ import annotations

import re

import streamlit as st

from quant_core import plots
from quant_core.plots import Rectangle
from quant_core.schema import ModelInfo, Setup, Spot, Unit, Window, WindowRequest
from ui import setup, state, theme
from ui.format_names import format_name, short_names
from ui.jobs import request_result, workspace

_TEXT = re.compile(r"(\d{1,9})-(\d{1,9}),(\d{1,9})-(\d{1,9})")


def _parse(text: str) -> Rectangle:
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(text)
    top, bottom, left, right = map(int, match.groups())
    return Rectangle(top, bottom + 1, left, right + 1)


def _write(area: Rectangle | None) -> str:
    return "" if area is None else f"{area.top}-{area.bottom - 1},{area.left}-{area.right - 1}"


WINDOW: state.Param[Rectangle | None] = state.Param("window", None, _parse, "the part of the layer", _write)
SPOT: state.Param[Rectangle | None] = state.Param("spot", None, _parse, "the weight", _write)
ERRORS_OF = state.text_param("errors", "the format of the errors", "", state.FORMAT_PATTERN)
MOUSE = state.choice_param("mouse", "what the mouse does", ("zoom", "tell"))


def weight_maps(info: ModelInfo, unit: Unit, formats: tuple[str, ...]) -> None:
    """The weights and their errors in one of the formats, of the whole layer or of a part of it."""
    area = WINDOW.get()
    if area is not None and not area.within(unit.rows, unit.columns):
        st.caption(
            f"The part that was open lies outside this layer; all {unit.rows:,} × {unit.columns:,} are shown."
        )
        WINDOW.set(None)
        area = None
    form = _controls(unit, area, formats)
    found = _window(info, unit, form, area or Rectangle(0, unit.rows, 0, unit.columns))
    if found is None:
        return
    left, right = st.columns(2, gap="medium")
    with left:
        _map(found, unit, errors=False)
    with right:
        _map(found, unit, errors=True)
    first, last = found.row_edges[0], found.row_edges[-1] - 1
    begin, end = found.column_edges[0], found.column_edges[-1] - 1
    st.caption(
        f"Outputs {first:,} to {last:,}, inputs {begin:,} to {end:,}; weights and errors in the weight's own unit. "
        f"The largest weight here: {_told(found.largest)} The largest error: {_told(found.worst)}"
    )
    _by_numbers(unit, found)
    _tell(info, unit, form)


def _window(info: ModelInfo, unit: Unit, form: str, area: Rectangle, cells: int = 128) -> Window | None:
    return request_result(
        WindowRequest(
            info.ref, info.fingerprint, unit.name, form, (area.top, area.bottom), (area.left, area.right), cells,
            Setup(transforms=setup.current(info).transforms), workspace().inspect_request(info.ref).roots,
        )
    )  # fmt: skip


def _controls(unit: Unit, area: Rectangle | None, formats: tuple[str, ...]) -> str:
    """What the mouse does, ways out, and the format whose errors are shown."""
    titles = {"zoom": "zooms into a box", "tell": "tells a weight"}
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        st.segmented_control(
            "The mouse", required=True, format_func=titles.__getitem__, **MOUSE.choice(list(titles))
        )
        if len(formats) > 1:
            names = short_names(formats)
            st.segmented_control(
                "Errors of", required=True, format_func=names.__getitem__, **ERRORS_OF.choice(list(formats))
            )
        wider = area.wider(unit.rows, unit.columns) if area else None
        whole = wider is None or wider == Rectangle(0, unit.rows, 0, unit.columns)
        st.button(
            "Zoom out", icon=":material/zoom_out:", key="map:out", disabled=area is None,
            on_click=WINDOW.set, args=(None if whole else wider,), help="Twice as long and wide.",
        )  # fmt: skip
        st.button("Whole layer", icon=":material/zoom_out_map:", key="map:whole", disabled=area is None,
                  on_click=WINDOW.set, args=(None,))  # fmt: skip
    return ERRORS_OF.get() if len(formats) > 1 else formats[0]


def _map(found: Window, unit: Unit, *, errors: bool) -> None:
    what = "errors" if errors else "weights"
    boxes = MOUSE.get() == "zoom"
    key = f"map:{what}:{unit.name}:{found.format}:{found.row_edges[0]}:{found.row_edges[-1]}:{found.column_edges[0]}:"
    key += f"{found.column_edges[-1]}:{boxes}"

    def chosen() -> None:
        selection = st.session_state.get(key)
        if boxes:
            area = plots.boxed(selection, unit.rows, unit.columns)
            if area is not None:
                WINDOW.set(area)
        elif (cell := plots.clicked_cell(selection, found)) is not None:
            SPOT.set(cell)

    spot = found.worst if errors else found.largest
    alt = f"Heatmap of the {what} of {unit.name}" + (f" in {format_name(found.format)}" if errors else "")
    with st.container(key=f"map-{what}"):
        theme.chart(
            plots.draw_weight_map(plots.weight_map(found, errors), theme.palette(), boxes), key,
            f"{alt}; the largest is at output {spot.row}, input {spot.column}.",
            on_select=chosen, selection_mode="box" if boxes else "points",
        )  # fmt: skip


def _told(spot: Spot) -> str:
    return (
        f"output {spot.row:,}, input {spot.column:,}, {plots.number(spot.weight)} becomes "
        f"{plots.number(spot.quantized)}, error {plots.number(spot.error)}."
    )


def _by_numbers(unit: Unit, found: Window) -> None:
    """The keyboard's way: the part to show, and a weight to tell, by their places."""
    with st.expander("By numbers", icon=":material/keyboard:", key="map-numbers"):
        shown = (
            found.row_edges[0],
            found.row_edges[-1] - 1,
            found.column_edges[0],
            found.column_edges[-1] - 1,
        )
        ends = ("First output", "Last output", "First input", "Last input")
        lengths = (unit.rows, unit.rows, unit.columns, unit.columns)
        keys = [f"map:end:{place}" for place in range(4)]
        with st.form("map:part", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
            for key, label, value, length in zip(keys, ends, shown, lengths, strict=True):
                st.session_state[key] = value
                st.number_input(label, 0, length - 1, key=key, width=130)
            st.form_submit_button("Show this part", on_click=_show, args=(keys,))
        places = ["map:row", "map:column"]
        with st.form("map:weight", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
            for key, label, length in zip(
                places, ("Output", "Input"), (unit.rows, unit.columns), strict=True
            ):
                st.number_input(label, 0, length - 1, key=key, width=130)
            st.form_submit_button("Tell this weight", on_click=_ask, args=(places,))


def _show(keys: list[str]) -> None:
    top, bottom, left, right = (int(st.session_state[key]) for key in keys)
    WINDOW.set(Rectangle(min(top, bottom), max(top, bottom) + 1, min(left, right), max(left, right) + 1))


def _ask(keys: list[str]) -> None:
    row, column = (int(st.session_state[key]) for key in keys)
    SPOT.set(Rectangle(row, row + 1, column, column + 1))


def _tell(info: ModelInfo, unit: Unit, form: str) -> None:
    """The weight that was asked for; of a cell of several, the largest and the one with the largest error."""
    area = SPOT.get()
    if area is None or not area.within(unit.rows, unit.columns):
        return
    found = _window(info, unit, form, area, 1)
    if found is None:
        return
    if area.single:
        said = f"**{_told(found.largest)[0].upper()}{_told(found.largest)[1:]}**"
    else:
        said = (
            f"Of outputs {area.top:,} to {area.bottom - 1:,} and inputs {area.left:,} to {area.right - 1:,} the "
            f"largest is **{_told(found.largest)}** The largest error: {_told(found.worst)}"
        )
    with st.container(border=True, key="map-spot"):
        st.markdown(f"{said} In {format_name(form)}, {unit.name}.")
