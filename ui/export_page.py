"""The export page: the recipe as a file, what is in it, and the commands that do the same without a browser."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Literal

import pandas as pd
import streamlit as st

from quant_core.contrast import main_score
from quant_core.errors import QuantError
from quant_core.schema import ModelInfo, Recipe, ScoreTable, Terms, Use
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


def file_name(info: ModelInfo, recipe: Recipe) -> str:
    """``demo-model-4.50-bits``: what the file is called, safe on every system."""
    title = re.sub(r"[^A-Za-z0-9.-]+", "-", info.title).strip("-.") or "model"
    return f"{title.lower()}-{recipe.average_bits:.2f}-bits"


def commands(info: ModelInfo, recipe: Recipe) -> None:
    """The command lines that reproduce recipe, measurement and text; copyable."""
    st.subheader("The same without a browser", anchor=False)
    file = f"{file_name(info, recipe)}.json"
    table = scores.table(info)
    if table is not None and recipe.budget is not None and _is_solved(info, table, recipe):
        st.code(recipe_command(info, table, recipe, file), language=None, wrap_lines=True)
        if not table.text_label.startswith("bundled"):
            st.caption(f"The scores are from {table.text_label}: add `--text FILE` with that text.")
    else:
        st.caption(
            "No budget alone leads to this recipe, as formats were chosen by hand: start from its file."
        )
    st.code(evaluate_command(info, file), language=None, wrap_lines=True)
    st.code(generate_command(info, file), language=None, wrap_lines=True)


def _is_solved(info: ModelInfo, table: ScoreTable, recipe: Recipe) -> bool:
    """Whether the recipe is what the solver answers to its budget and pins."""
    if recipe.budget is None:
        return False
    try:
        score = main_score(table)
        solution = workspace().solve(info, table, recipe.budget, recipe.pins, score, terms=recipe.terms)
    except QuantError:
        return False
    return all(
        recipe.units[unit].format == name
        for unit, name in solution.assignment.items()
        if unit in recipe.units
    )


def _line(verb: str, info: ModelInfo, options: Sequence[tuple[str, str]]) -> str:
    """One command; an option whose value is empty is a switch."""
    ref = info.ref
    where = [
        ("--revision", ref.revision),
        ("--dtype", ref.dtype.replace("auto", "")),
        ("--device", ref.device.replace("auto", "")),
    ]
    parts = [item for item in where if item[1]] + list(options)
    shown = [f"{name} {shlex.quote(value)}" if value else name for name, value in parts]
    return " ".join(["python -m quant_core", verb, shlex.quote(ref.source), *shown])


def recipe_command(info: ModelInfo, table: ScoreTable, recipe: Recipe, file: str) -> str:
    """The command that makes this recipe from its budget; what is the default is left out."""
    options = [*_limit_options(recipe), *_term_options(recipe.terms)]
    if table.formats != tuple(workspace().parse_format(family).name for family in scores.FORMATS.default):
        options.append(("--formats", ",".join(table.formats)))
    if table.tokens != scores.TOKENS.default:
        options.append(("--tokens", str(table.tokens)))
    if main_score(table) != "fisher":
        options.append(("--score", main_score(table)))
    if table.precision:
        options.append(("--precision", f"{table.precision:g}"))
    if table.seed:
        options.append(("--seed", str(table.seed)))
    scored = set(table.units)
    if any(not unit.decided for unit in info.units if unit.name in scored):
        options.append(("--include", "embeddings"))
    options += [("--transform", text) for text in recipe.setup.transforms]
    options += [
        (name, text)
        for name, text in (("--activations", recipe.setup.activations), ("--kv-cache", recipe.setup.kv_cache))
        if text
    ]
    options += [("--pin", f"{unit}={name}") for unit, name in recipe.pins.items()]
    return _line("recipe", info, [*options, ("--out", file)])


def _limit_options(recipe: Recipe) -> list[tuple[str, str]]:
    """The budget and all other limits; of two of a kind the tighter one."""
    limits, budget = recipe.terms.limits, recipe.budget
    bits = [limits.bits] if limits.bits else []
    size = [limits.bytes] if limits.bytes else []
    if budget is not None:
        (bits if budget.kind == "bits" else size).append(budget.value)
    found = {
        "--bits": min(bits, default=0.0),
        "--megabytes": min(size, default=0.0) / 1e6,
        "--memory": limits.memory / 1e6,
        "--active": limits.active / 1e6,
        "--milliseconds": limits.milliseconds,
    }
    return [(name, f"{value:.10g}") for name, value in found.items() if value]


def _term_options(terms: Terms) -> list[tuple[str, str]]:
    """Target, rules, and how the model is to run, as far as they are not the defaults."""
    found = [("--target", terms.target)] if terms.target != "any" else []
    for rule in terms.rules:
        found += [("--never-below", f"{rule.pattern}={rule.least_bits:g}")] if rule.least_bits else []
        found += [("--only", f"{rule.pattern}={','.join(rule.families)}")] if rule.families else []
    use, usual = terms.use, Use()
    found += [("--context", str(use.context))] if use.context != usual.context else []
    found += [("--batch", str(use.batch))] if use.batch != usual.batch else []
    found += [("--hardware", use.hardware)] if use.hardware else []
    return found


def evaluate_command(info: ModelInfo, file: str) -> str:
    """The command that measures the recipe's file."""
    return _line("evaluate", info, [("--recipe", file)])


def generate_command(info: ModelInfo, file: str) -> str:
    """The command that writes from the compare page's prompt."""
    options = [
        ("--recipe", file),
        ("--prompt", PROMPT.get()),
        ("--seed", str(SEED.get())),
        ("--tokens", str(LENGTH.get())),
        ("--temperature", f"{TEMPERATURE.get():g}"),
    ]
    if info.chat:
        options.append(("--chat" if CHAT.get() == "yes" else "--no-chat", ""))
    return _line("generate", info, options)
