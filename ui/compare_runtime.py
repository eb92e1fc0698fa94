"""Speed where a recipe is deployed: its exported file and the original's, run in a runtime of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import streamlit as st

from quant_core import plots
from quant_core.runtimes import RUNTIMES, Found
from quant_core.schema import ModelInfo, Problem, Recipe, RuntimeSpeed, RuntimeSpeedRequest, RuntimeSpeeds
from quant_core.targets import TARGETS
from ui import state, theme, words
from ui.export_files import in_the_way
from ui.jobs import request_result, submit, workspace
from ui.widgets import empty_state, notes

RUNTIME = state.text_param("engine", "the runtime that runs it", pattern=r"[a-z.]{0,30}")
"""Empty: the first that can."""
TAKE = state.integer_param("timing", "the number of the run", 1, 1, 999)


def show(info: ModelInfo, recipe: Recipe | None) -> None:
    """What was measured, or what leads there: a runtime that is here, a recipe that it holds, a button."""
    st.subheader("In a runtime on this machine", anchor=False)
    if recipe is None:
        empty_state("There is no recipe yet to run.", "recipe", "Make a recipe")
        return
    here = {name: runtime.found() for name, runtime in RUNTIMES.items()}
    found = {name: workspace().problems(info, recipe, runtime.target) for name, runtime in RUNTIMES.items()}
    if RUNTIME.get() not in RUNTIMES:
        ready = [name for name in RUNTIMES if here[name].version and not found[name]]
        RUNTIME.set(next(iter(ready), "llama.cpp"))
    st.segmented_control(
        "Runtime", **RUNTIME.choice(list(RUNTIMES)), required=True,
        format_func=lambda name: f":material/{_icon(here[name], found[name])}: {RUNTIMES[name].title}",
        help="What runs the exported file. A tick: it is installed and holds the recipe as it is.",
    )  # fmt: skip
    name = RUNTIME.get()
    runtime = RUNTIMES[name]
    if not here[name].version:
        st.warning(f"{here[name].why} Install it, then open this page again:", icon=":material/download:")
        st.code(here[name].remedy, language=None, wrap_lines=True)
    elif found[name]:
        in_the_way(info, TARGETS[runtime.target].title, runtime.target, found[name])
    else:
        _measured(info, recipe, name, here)


def _icon(here: Found, problems: tuple[Problem, ...]) -> str:
    if not here.version:
        return "download"
    return "block" if problems else "check"


def _measured(info: ModelInfo, recipe: Recipe, name: str, here: Mapping[str, Found]) -> None:
    request = workspace().runtime_speed_request(info, recipe, name, TAKE.get())
    found = request_result(
        request, start=f"Run it in {RUNTIMES[name].title}", why=_why(request, recipe, here[name].version)
    )
    if found is None:
        return
    st.markdown(verdict(found))
    st.table(speed_frame(found, recipe).set_index("Variant"), border="horizontal")
    if found.original is not None:
        bars = plots.draw_runtime_bars(plots.runtime_bars(found), theme.palette())
        theme.chart(bars, "runtime-speed", f"{verdict(found)} The table above has the numbers.")
    st.caption(how(found))
    st.button(
        "Run again", icon=":material/refresh:", key="runtime:again", on_click=_again, args=(info, recipe, name)
    )  # fmt: skip
    notes(found.notes, "runtime")


def _again(info: ModelInfo, recipe: Recipe, name: str) -> None:
    TAKE.set(min(TAKE.get() + 1, 999))
    submit(workspace().runtime_speed_request(info, recipe, name, TAKE.get()))


def _why(request: RuntimeSpeedRequest, recipe: Recipe, version: str) -> str:
    """What the button does, files included."""
    lacking = [
        (what, size)
        for what, export, size in (
            ("the recipe's file", request.export, recipe.total_bytes),
            ("the original's", request.original, recipe.original_bytes),
        )
        if export is not None and not Path(export.folder).is_dir()
    ]
    text = (
        f"The recipe's file and the original's each run in a process of their own ({version}): they read "
        f"{request.prompt} tokens and write {request.tokens}, in turns, {request.repeats} times after a warm-up."
    )
    if not lacking:
        return text
    files = " and ".join(f"{what} (about {words.size(size)})" for what, size in lacking)
    return f"{text} First {files} {'are' if len(lacking) > 1 else 'is'} written to `{workspace().exports}`, and kept."


def verdict(found: RuntimeSpeeds) -> str:
    """How the recipe's file does beside the original's, in a sentence."""
    recipe, original = found.recipe, found.original
    if original is None:
        return f"In {found.runtime} the recipe writes {words.significant(recipe.decode[0])} tokens/s."
    memory, size = recipe.resident / original.resident, recipe.size / original.size
    return (
        f"In {found.runtime} the recipe reads the prompt {_times(recipe.prompt, original.prompt)} and writes "
        f"{_times(recipe.decode, original.decode)}, in {words.share(memory)} of the original's memory and "
        f"{words.share(size)} of its size."
    )


def _times(ours: tuple[float, float, float], theirs: tuple[float, float, float]) -> str:
    """``1.42 times as fast``; where all rounds of one do not beat all of the other, that is said."""
    apart = ours[1] > theirs[2] or theirs[1] > ours[2]
    text = f"{words.significant(ours[0] / theirs[0])} times as fast"
    return text if apart else f"{text} (rounds overlap)"


def speed_frame(found: RuntimeSpeeds, recipe: Recipe) -> pd.DataFrame:
    """Medians with the least and the most in brackets."""
    sides = [("Original", found.original), (f"Recipe at {words.bits(recipe.average_bits)}", found.recipe)]
    rows = [(name, *_row(one)) for name, one in sides if one is not None]
    columns = ["Variant", "Reading the prompt", "Writing", "Resident memory", "Weights on disk"]
    if found.recipe.gpu:
        return pd.DataFrame(rows, columns=[*columns, "GPU memory"])
    return pd.DataFrame([row[:-1] for row in rows], columns=columns)


def _row(one: RuntimeSpeed) -> tuple[str, ...]:
    return (
        _range(one.prompt), _range(one.decode), words.size(one.resident), words.size(one.size), words.size(one.gpu)
    )  # fmt: skip


def _range(values: tuple[float, float, float]) -> str:
    middle, low, high = (f"{one:,.0f}" if one >= 1000 else words.significant(one) for one in values)
    return f"{middle} tokens/s ({low} to {high})"


def how(found: RuntimeSpeeds) -> str:
    """What the figures were measured on."""
    where = found.hardware or "an unnamed processor"
    cpu = found.device == "cpu"
    threads = f", {found.threads} thread{'s' if found.threads != 1 else ''} at low priority" if cpu else ""
    gpu = " GPU memory: the most that PyTorch had allocated." if found.recipe.gpu else ""
    return (
        f"Measured in {found.version} on {where} ({found.device}{threads}): medians of {found.repeats} rounds "
        f"(least to most in brackets), {found.prompt} tokens read at once and {found.tokens} written one by one; the "
        f"original in {found.dtype}. Resident memory: the most that the process held, libraries and mapped files too; "
        f"{words.size(found.recipe.libraries)} of it before the model was loaded.{gpu}"
    )
