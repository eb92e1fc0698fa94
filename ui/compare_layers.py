"""Which layers had a text part from the original's: asked for and drawn where the two first differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from quant_core import plots
from quant_core.schema import (
    ORIGINAL,
    Attribution,
    AttributionRequest,
    GenerateRequest,
    Generation,
    ModelInfo,
    Side,
)
from ui import state, theme, words
from ui.jobs import request_result
from ui.widgets import notes

WHICH = state.choice_param("which", "whose first difference", ("recipe", "other"))


def show(info: ModelInfo, asked: GenerateRequest, result: Generation, titles: Mapping[Side, str]) -> None:
    """The layers behind the first difference of a side, or the button that finds them; nothing where none differs."""
    places: dict[Side, int] = {"recipe": result.divergence, "other": result.other_divergence}
    if asked.other_checkpoint is not None:
        del places["other"]  # nothing of it is rounded here, layer by layer
    parted = [side for side in titles if result.readings and places.get(side, -1) >= 0]
    if not parted:
        return
    st.subheader("Which layers did it?", anchor=False)
    if len(parted) > 1:
        named: dict[str, str] = {side: titles[side] for side in parted}
        st.segmented_control(
            "Whose first difference", **WHICH.choice(list(named)), required=True, format_func=named.__getitem__,
            label_visibility="collapsed",
        )  # fmt: skip
    side = next((side for side in parted if side == WHICH.get()), parted[0])
    place, title = places[side], titles[side]
    request = _request(asked, result, side, place)
    wrote = result.recipe if side == "recipe" else result.other
    where = (
        f"At token {place + 1} the original writes {_quoted(result.original, place)} and "
        f"“{title}” {_quoted(wrote, place)}."
    )
    found = request_result(
        request, start="Find the layers",
        why=f"{where} Each of its {len(request.assignment):,} quantized layers is rounded alone, all others kept, and "
        "what the model then predicts for this one place is compared with the original.",
    )  # fmt: skip
    if found is not None:
        _draw(info, found, where)


def _request(asked: GenerateRequest, result: Generation, side: Side, place: int) -> AttributionRequest:
    assignment, setup = (
        (asked.assignment, asked.setup) if side == "recipe" else (asked.other, asked.other_setup)
    )
    return AttributionRequest(
        asked.model,
        asked.fingerprint,
        (*result.prompt, *result.readings["original"].ids[:place]),
        {unit: form for unit, form in (assignment or {}).items() if form != ORIGINAL},
        setup,
        asked.roots,
    )


def _quoted(tokens: Sequence[str], place: int) -> str:
    """The token at a place as code, which needs a longer fence than the backticks in it."""
    if place >= len(tokens):
        return "nothing more"
    text = tokens[place].replace("\n", "⏎").replace(" ", "␣")
    return f"`` {text} ``" if text else "a part of a character"


def _draw(info: ModelInfo, found: Attribution, where: str) -> None:
    data = plots.layer_shares(info, found)
    total = sum(found.kl)
    st.markdown(f"{where} {_meaning(found, data)}")
    theme.chart(
        plots.draw_layer_shares(data, theme.palette()),
        "layer-shares",
        f"Bars of shares. {_meaning(found, data)}",
    )
    st.caption(
        f"Measured, not estimated: one prediction, behind {found.tokens:,} tokens (the prompt and the words that both "
        f"share), in {words.duration(found.seconds)}. A share is a layer's KL divergence rounded alone, as part of the "
        f"sum over all {len(found.units):,}."
    )
    if total > 0:
        with st.expander("All layers as a table", icon=":material/table:"):
            frame = pd.DataFrame({"Layer": found.units, "KL alone (nats)": found.kl})
            frame["Share (%)"] = 100 * frame["KL alone (nats)"] / total
            st.dataframe(frame.sort_values("Share (%)", ascending=False), hide_index=True)
    notes(found.notes, "attribution")


def _meaning(found: Attribution, data: plots.LayerShares) -> str:
    """What the bars say, in words."""
    whole = f"All of it together moves the prediction by {words.significant(found.whole)} nats (KL)"
    if not data.units:
        return f"{whole}; the rounding of weights one by one does not."
    first = [label.replace(" ", "\u00a0") for label in data.labels[:3]]
    share = words.share(sum(data.shares[: len(first)]))
    names = " and ".join(filter(None, [", ".join(first[:-1]), first[-1]]))
    total = sum(found.kl)
    if abs(found.whole - total) <= 0.1 * total:
        apart = "rounding errors add up"
    elif found.whole > total:
        apart = "rounding errors reinforce each other"
    else:
        apart = "rounding errors partly cancel each other"
    return (
        f"{whole}; its layers, each rounded alone, add up to {words.significant(total)} nats: here {apart}. "
        f"{names} make {share} of that sum."
    )
