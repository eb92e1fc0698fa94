"""The export page: the recipe as a file, what is in it, and the commands that do the same without a browser."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Literal

import pandas as pd
import streamlit as st

from quant_core.errors import QuantError
from quant_core.report import commands as lines
from quant_core.schema import GenerateRequest, ModelInfo, Recipe
from ui import scores, setup, words
from ui.compare_page import CHAT, LENGTH, PROMPT, SEED, TEMPERATURE
from ui.format_names import format_name
from ui.jobs import show_error, workspace
from ui.recipe_draft import RECIPE_ID
from ui.score_view import MANY_LAYERS
from ui.widgets import Figure, figures, notes

KINDS: tuple[Literal["json", "yaml"], ...] = ("json", "yaml")
_PREVIEW = 20_000
"""Letters that are shown of the file of a recipe of very many layers."""
file_name = lines.file_name


def summary(info: ModelInfo, recipe: Recipe) -> None:
    """The recipe in figures, predicted and measured, and how its layers share the formats."""
    items = [
        Figure("Average bits", words.bits(recipe.average_bits), "Stored bits of the decided layers, scales and "
               "zero points included, divided by their number of weights."),
        Figure("All weights", words.size(recipe.total_bytes), "Size of the whole model under this recipe; "
               "1 MB = 10⁶ bytes.", f"of {words.size(recipe.original_bytes)}"),
    ]  # fmt: skip
    if recipe.predicted_kl is not None:
        items.append(
            Figure("Predicted KL", f"{words.significant(recipe.predicted_kl)} nats", "In nats a token, from scores on "
                   f"{recipe.calibration}.", f"± {words.significant(1.96 * (recipe.predicted_stderr or 0), 2)} (95 %)")
        )  # fmt: skip
    if recipe.measured is not None:
        items.append(
            Figure("Measured KL", f"{words.significant(recipe.measured.kl_mean)} nats", "In nats a token, on "
                   f"{recipe.measured.tokens:,} tokens of {recipe.measured.text_label}.",
                   f"± {words.significant(1.96 * recipe.measured.kl_stderr, 2)} (95 %)")
        )  # fmt: skip
    figures(items)
    sizes = {unit.name: unit.parameters for unit in info.units}
    layers = Counter(entry.format for entry in recipe.units.values())
    weights = Counter[str]()
    for name, entry in recipe.units.items():
        weights[entry.format] += sizes.get(name, 0)
    frame = pd.DataFrame(
        [(format_name(name), count, weights[name]) for name, count in layers.most_common()],
        columns=["Format", "Layers", "Weights"],
    )
    st.dataframe(
        frame, hide_index=True, width="content", alt="How many layers each format has",
        column_config={"Weights": st.column_config.NumberColumn(format="localized")},
    )  # fmt: skip
    beyond = setup.summary(recipe.setup)
    if beyond:
        st.caption(f":material/layers: Beyond weights: {beyond}.")
    if recipe.measured is not None:
        notes(recipe.measured.notes, "measured")


def downloads(info: ModelInfo, recipe: Recipe) -> None:
    """The two files, checked by reading them back before they are offered."""
    few = len(recipe.units) <= MANY_LAYERS
    try:
        texts = _checked(f"{RECIPE_ID.get()} {recipe.setup} {recipe.measured}", info, recipe)
    except QuantError as error:
        show_error(error)
        return
    st.subheader("The recipe as a file", anchor=False)
    name = file_name(info, recipe)
    with st.container(horizontal=True):
        st.download_button(
            "Download JSON", texts["json"], f"{name}.json", "application/json", key="download:json", type="primary",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip
        st.download_button(
            "Download YAML", texts.get("yaml") or partial(workspace().recipe_text, recipe, "yaml"),
            f"{name}.yaml", "application/yaml", key="download:yaml",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip
    st.caption(
        "Both hold the same: the model's fingerprint, every weight's full parameter name with its format spelled out, "
        "sizes, predicted and measured figures, pins, library versions, seed and text hashes. An independent program "
        f"can apply it; {'the files were' if few else 'the JSON file was'} read back first."
    )
    preview = st.expander(
        "Look inside", icon=":material/data_object:", on_change="rerun", key="export:preview"
    )
    if preview.open:
        with preview:
            shown = texts.get("yaml") or texts["json"][:_PREVIEW] + "\n…"
            st.code(shown, language=None, height=420)


@st.cache_resource(max_entries=8, show_spinner=False)
def _checked(key: str, _info: ModelInfo, _recipe: Recipe) -> dict[str, str]:
    """The text of each kind of file, read back; of a recipe of very many layers JSON alone."""
    few = len(_recipe.units) <= MANY_LAYERS
    texts: dict[str, str] = {kind: workspace().recipe_text(_recipe, kind) for kind in KINDS[: 1 + few]}
    loaded = workspace().result(workspace().inspect_request(_info.ref))
    for text in texts.values():
        workspace().read_recipe(text, loaded or _info)
    return texts


def commands(info: ModelInfo, recipe: Recipe) -> None:
    """The command lines that reproduce recipe, measurement and text; copyable."""
    st.subheader("The same without a browser", anchor=False)
    file = f"{file_name(info, recipe)}.json"
    table = scores.table(info)
    if table is not None and recipe.budget is not None and lines.is_solved(info, table, recipe):
        st.code(
            lines.recipe_command(info, table, recipe, file, workspace().usual_formats),
            language=None,
            wrap_lines=True,
        )
        if not table.text_label.startswith("bundled"):
            st.caption(f"The scores are from {table.text_label}: add `--text FILE` with that text.")
    else:
        st.caption(
            "No budget alone leads to this recipe, as formats were chosen by hand: start from its file."
        )
    st.code(lines.evaluate_command(info, file), language=None, wrap_lines=True)
    st.code(lines.generate_command(info, file, _text(info)), language=None, wrap_lines=True)


def _text(info: ModelInfo) -> GenerateRequest:
    """What the compare page writes."""
    return GenerateRequest(
        info.ref, info.fingerprint, PROMPT.get(), None, LENGTH.get(), SEED.get(), TEMPERATURE.get(),
        chat=info.chat and CHAT.get() == "yes",
    )  # fmt: skip
