"""The model as a diagram that unfolds block by block, with a number over every part."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from quant_core import plots
from quant_core.contrast import main_score
from quant_core.errors import QuantError
from quant_core.schema import ORIGINAL, ModelInfo
from quant_core.workspace import DEFAULT_FORMATS
from ui import layers, score_view, scores, state, theme, words
from ui import recipe_draft as drafts
from ui.entry import link
from ui.format_names import default_format, format_name, short_names
from ui.jobs import guarded, workspace
from ui.widgets import empty_state

OVERLAYS = {"parameters": "Parameters", "bytes": "Size", "sensitivity": "Sensitivity", "bits": "Chosen bits"}
HELP = (
    "**Parameters**: values of each part. **Size**: megabytes (10⁶ bytes) in the checkpoint, in one format for all "
    "layers, or under the recipe. **Sensitivity**: what each layer in a format adds to the model's KL divergence, as "
    "scored; parts have the sum. **Chosen bits**: stored bits a weight under the recipe; parts have the average."
)
OVERLAY = state.choice_param("overlay", "the number on the diagram", tuple(OVERLAYS))
OPEN = state.text_param("open", "the open block", pattern=r"all|\d{0,5}")
EXPERTS = state.integer_param("experts", "the first expert shown", -1, -1, 100_000)
PRECISION = state.text_param("precision", "the precision", ORIGINAL, r"[\w/.@:=+-]{1,160}")

RECIPE = "recipe"
"""The precision that is the recipe's."""
_WAY_OUT = {"sensitivity": ("sensitivity", "Find its sensitive layers"), "bits": ("recipe", "Make a recipe")}
"""Where a number is made that is not there yet."""
_TURN = "architecture:turn"


@st.fragment
def architecture(info: ModelInfo) -> None:
    """The diagram, its switches, and what was clicked last."""
    places = st.container(horizontal=True, gap="medium", vertical_alignment="bottom")
    with places:
        st.segmented_control(
            "Number",
            required=True,
            wrap=True,
            format_func=OVERLAYS.__getitem__,
            help=HELP,
            **OVERLAY.choice(list(OVERLAYS)),
        )
        measure, source = _measure(info)
    if measure is None:
        empty_state(source, *_WAY_OUT[OVERLAY.get()])
        return
    with places:
        opened, ranges = _block_picker(info)
    data = plots.diagram(info, measure, opened, EXPERTS.get())
    key = f"architecture:{st.session_state.setdefault(_TURN, 0)}"
    alt = f"{measure.title} of {info.title}, {measure.detail}: {_told(data)}"
    figure = plots.draw_diagram(data, theme.palette(), state.UNIT.get())
    with st.container(key="cells-architecture"):
        theme.chart(
            figure, key, alt,
            on_select=lambda: _clicked(key, ranges), selection_mode="points",
        )  # fmt: skip
    st.caption(source)
    _chosen(info, opened)
    with st.expander("The same as a table", icon=":material/table:"):
        table = plots.figure_table(figure)
        st.dataframe(
            pd.DataFrame(table.rows, columns=list(table.columns)), hide_index=True, height=300,
            alt=f"{measure.title} of every part",
        )  # fmt: skip


def recipe_at_hand(info: ModelInfo) -> dict[str, str] | None:
    """Unit to full format name of the recipe that the URL names, else of the one under work; None without one.

    Raises:
        QuantError: The URL names a recipe that is not stored, or one of another model.
    """
    if state.RECIPE.get():
        recipe = workspace().recipe(state.RECIPE.get())
        if recipe.fingerprint != info.fingerprint:
            raise QuantError(
                "The recipe in the link belongs to another model.", "Open that model, or make a recipe."
            )
        return recipe.assignment()
    draft = drafts.current(info)
    return dict(draft.assignment) if draft is not None else None


def _measure(info: ModelInfo) -> tuple[plots.Measure | None, str]:
    """The number that is chosen and where it comes from; None and the reason where it is not there yet."""
    overlay = OVERLAY.get()
    if overlay == "parameters":
        return plots.parameter_measure(info), "Counted in the checkpoint's configuration and files."
    if overlay == "bytes":
        return _sizes(info)
    if overlay == "sensitivity":
        return _sensitivity(info)
    recipe = guarded(lambda: recipe_at_hand(info))
    if recipe is None:
        return None, "No recipe of this model is at hand, so no bits are chosen yet."
    bits = workspace().assigned_bits(info, recipe)
    return plots.bit_measure(info, bits, "under the recipe"), (
        "Everything stored for a layer (codes, scales, zero points) divided by its weights, under the recipe at hand; "
        "computed, not measured. Layers that the recipe leaves keep the checkpoint's bits."
    )


def _sizes(info: ModelInfo) -> tuple[plots.Measure | None, str]:
    try:
        recipe = recipe_at_hand(info)
    except QuantError:
        recipe = None
    names = [ORIGINAL, *(default_format(family, state.GROUP.get()) for family in DEFAULT_FORMATS)]
    if PRECISION.get() not in (*names, RECIPE):
        try:
            names.append(workspace().parse_format(PRECISION.get()).name)
        except QuantError:
            PRECISION.set(ORIGINAL)
    titles = {ORIGINAL: f"checkpoint ({info.dtype})", RECIPE: "the recipe at hand"}
    options = [*names, *([RECIPE] if recipe is not None else [])]
    st.selectbox(
        "Precision", width=220, format_func=lambda name: titles.get(name) or format_name(name),
        help="What the layers of the blocks are stored in; embedding, head and norms stay as in the checkpoint.",
        **PRECISION.choice(options),
    )  # fmt: skip
    form = PRECISION.get()
    if form == RECIPE and recipe is not None:
        assignment, detail = recipe, "under the recipe"
    else:
        assignment = {unit.name: form for unit in info.units if unit.decided and form != ORIGINAL}
        detail = "in the checkpoint" if form == ORIGINAL else f"decided layers in {format_name(form)}"
    bits = workspace().assigned_bits(info, assignment)
    return plots.byte_measure(info, bits, detail), (
        "Codes, scales, zero points and padding; computed from the shapes. 1 MB = 10⁶ bytes."
    )


def _sensitivity(info: ModelInfo) -> tuple[plots.Measure | None, str]:
    table = scores.table(info)
    score = main_score(table) if table is not None else "fisher"
    if table is None or not table.scores(score):
        return None, "No layer of this model has a KL score yet: one sweep over a text gives all of them."
    form = score_view.shown_format(table)
    labels = short_names(table.formats)
    st.session_state["architecture:format"] = form
    st.selectbox(
        "Format", table.formats, key="architecture:format", width=180, format_func=labels.__getitem__,
        on_change=lambda: state.FORMAT.set(st.session_state["architecture:format"]),
        help="Each layer alone takes this format.",
    )  # fmt: skip
    measure = plots.score_measure(table, form, score)
    lacking = sum(unit.decided and unit.name not in measure.values for unit in info.units)
    partly = f" {lacking:,} layers have no score in this sweep and stay grey." if lacking else ""
    return measure, f"On {score_view.measured_on(table)}.{partly}"


def _block_picker(info: ModelInfo) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Which blocks are open, by a list that does what a click does, and the ranges of experts of one that is."""
    blocks = sorted({unit.block for unit in info.units if unit.block >= 0})
    options = ["", "all", *map(str, blocks)]
    titles = {"": "none", "all": f"all {len(blocks)}"}
    st.selectbox(
        "Open block", width=150, format_func=lambda text: titles.get(text) or f"block {text}",
        help="Pick a block here or click it in the diagram.", **OPEN.choice(options),
    )  # fmt: skip
    if OPEN.get() == "all":
        return tuple(blocks), ()
    if not OPEN.get():
        return (), ()
    block = int(OPEN.get())
    ranges = plots.expert_ranges([unit for unit in info.units if unit.block == block])
    if ranges:
        known = dict(ranges)
        st.selectbox(
            "Experts", width=150, format_func=lambda first: f"{first}–{known[first]}" if first in known else "ranges",
            help="Pick a range here or click it in the diagram.", **EXPERTS.choice([-1, *known]),
        )  # fmt: skip
    return (block,), ranges


def _clicked(key: str, ranges: tuple[tuple[int, int], ...]) -> None:
    """A cell was clicked: open or close its block, open its experts, or choose its layer."""
    name = "".join(plots.clicked(st.session_state.get(key))[:1])
    kind, _, value = name.partition(":")
    if kind == "block" and value.isdecimal():
        OPEN.set("" if OPEN.get() == value else value)
    elif kind == "experts" and value in {str(first) for first, _ in ranges}:
        EXPERTS.set(-1 if EXPERTS.get() == int(value) else int(value))
    elif kind == "layer":
        state.UNIT.set(value)
    if name:
        st.session_state[_TURN] = st.session_state.get(_TURN, 0) + 1  # a chart that keeps no old click


def _chosen(info: ModelInfo, opened: tuple[int, ...]) -> None:
    """The layer that was chosen, with the way to its weights; of one open block, any layer by a list."""
    chosen = state.UNIT.get()
    listed = [unit for unit in info.units if opened == (unit.block,) or unit.name == chosen]
    if not listed:
        return
    titles = {unit.name: layers.title(unit) for unit in listed}
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        st.session_state["architecture:unit"] = state.UNIT.get() if state.UNIT.get() in titles else None
        st.selectbox(
            "Layer", list(titles), key="architecture:unit", width=380, placeholder="Click a layer, or pick one",
            format_func=lambda name: titles.get(name, name),
            on_change=lambda: state.UNIT.set(st.session_state["architecture:unit"] or ""),
        )  # fmt: skip
        unit = next((unit for unit in listed if unit.name == state.UNIT.get()), None)
        if unit is not None:
            link("weights", f"Look at the weights of {plots.short_name(unit)}", unit=unit.name)


def _told(data: plots.Diagram) -> str:
    """How much is shown, and where most of it is, in words."""
    shown = [cell for cell in data.cells if cell.weights and cell.value is not None]
    if not shown:
        return "no part has a value."
    top = max(shown, key=lambda cell: cell.value or 0.0)
    most = f"{top.label.lstrip('▸▾ ')}, {words.significant(top.value or 0.0)} {data.measure.unit}"
    return f"{len(shown):,} parts in {len(data.rows):,} rows, the most at {most}."
