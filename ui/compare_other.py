"""The third variant of a comparison: a uniform format, llama.cpp's mix, or a saved recipe."""

from __future__ import annotations

from typing import NamedTuple

import streamlit as st

from quant_core.errors import QuantError
from quant_core.schema import Calibration, CheckpointRef, ModelInfo, QuantizedCheckpoint, Setup, replace
from ui import scores, state, words
from ui.entry import link
from ui.format_names import families, format_name
from ui.jobs import guarded, workspace

OTHER = state.text_param("other", "the other variant", pattern=r"[\w/.@:=+-]{0,160}")
"""``int4/g64/asym`` for all layers, ``mix:q4_k_m``, ``recipe:`` and an id, ``import:`` and the run that read a
quantized checkpoint, or empty for none."""
MIX = "q4_k_m"
_CHECKPOINTS = 6
"""That are offered."""
LABEL = "Compare with"
"""The label of the choice; hints name it."""
FEW = "int2/g64/asym"
"""What shows best what few bits do."""


class Other(NamedTuple):
    """What writes beside the original and the recipe."""

    assignment: dict[str, str]
    setup: Setup
    checkpoint: CheckpointRef | None = None
    """A quantized checkpoint that writes instead."""


def picker(info: ModelInfo) -> None:
    """The choice of the third variant."""
    saved = {
        f"recipe:{one.id}": f"Saved recipe at {words.bits(one.average_bits)}, {words.nats(one.predicted_kl)} · {one.id}"
        for one in workspace().newest_recipes(info.fingerprint)
        if one.id != state.RECIPE.get()
    }
    checkpoints = workspace().checkpoints(info.fingerprint)[:_CHECKPOINTS]
    saved |= {f"import:{line.key}": f"Checkpoint {line.model}" for line in checkpoints}
    table = scores.table(info)
    uniform = table.formats if table is not None else scores.format_names()
    options = ["", *([f"mix:{MIX}"] if _mix(info) else []), *uniform, *saved]
    if OTHER.get() not in options and chosen(info) is not None:
        options.append(OTHER.get())
    st.selectbox(
        LABEL, **OTHER.choice(options), format_func=lambda name: saved.get(name) or _title(name), width=336,
        help="What else writes, beside the original and the recipe. A format is given to every linear layer of the "
        "blocks, and so is llama.cpp's mix, with nothing else done to the model; a saved recipe brings its rewrites "
        "and its rounding of activations and KV cache. Methods learn from the bundled text.",
    )  # fmt: skip


def chosen(info: ModelInfo) -> Other | None:
    """The third variant; None if there is none, or after a sentence that says why it cannot be had."""
    return guarded(lambda: _resolved(info, OTHER.get())) if OTHER.get() else None


def without_recipe(sentence: str = "") -> None:
    """What stands in a recipe's place as long as there is none: a format at work in one press, or the way to one."""
    with st.container(border=True):
        st.markdown(
            sentence
            or "There is no recipe yet. To read what few bits do, let every layer take 2 bits, or choose what else "
            f"writes beside the original under **{LABEL}**."
        )
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button("Take 2 bits for every layer", key="compare:few", on_click=OTHER.set, args=(FEW,))
            link("recipe", "Make a recipe")


def meaning() -> str:
    """What the format of all layers stores, in a sentence; empty where it is no such format."""
    family = families().get(OTHER.get().partition("/")[0])
    return f"{family.title}: {family.help[:1].lower()}{family.help[1:]}" if family else ""


def title() -> str:
    """What to call it above its text."""
    return _title(OTHER.get())


def _title(name: str) -> str:
    kind, _, rest = name.partition(":")
    if kind == "mix":
        return rest.upper()
    if kind == "recipe":
        return f"Saved recipe {rest}"
    if kind == "import":
        return f"Checkpoint {_checkpoint(rest)}"
    return f"All layers in {format_name(name)}" if name else "Nothing else"


def _resolved(info: ModelInfo, name: str) -> Other:
    kind, _, rest = name.partition(":")
    if kind == "recipe":
        recipe = workspace().recipe(rest)
        if recipe.fingerprint != info.fingerprint:
            raise QuantError("The other recipe belongs to another model.", "Choose one of this model.")
        return Other(recipe.assignment(), replace(recipe.setup, calibration=Calibration()))
    if kind == "import":
        return Other({}, Setup(), workspace().checkpoint(rest, info)[1])
    decided = [unit.name for unit in info.units if unit.decided]
    if kind == "mix":
        whole = workspace().gguf_mix(info, rest)
        return Other({unit: whole[unit] for unit in decided}, Setup())
    form = workspace().parse_format(name).name
    return Other(dict.fromkeys(decided, form), Setup())


def _checkpoint(key: str) -> str:
    """What a checkpoint that was read is called; the beginning of its key where its run is gone."""
    try:
        found = workspace().stored_run(key).result
    except QuantError:
        return key[:8]
    return found.title if isinstance(found, QuantizedCheckpoint) else key[:8]


def _mix(info: ModelInfo) -> bool:
    """Whether llama.cpp has rules for this architecture."""
    try:
        workspace().gguf_mix(info, MIX)
    except QuantError:
        return False
    return True
