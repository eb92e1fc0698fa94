"""Two runs of one kind side by side: which settings differ, and which figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import streamlit as st

from quant_core.contrast import contrast, main_score
from quant_core.schema import (
    Check,
    EvaluateRequest,
    Evaluation,
    GenerateRequest,
    Generation,
    Proof,
    Result,
    Run,
    ScoreTable,
    ServedText,
    Side,
    Training,
)
from ui import runs_words, words
from ui.compare_text import from_result, show
from ui.format_names import format_name
from ui.jobs import workspace
from ui.runs_words import plain

_MOVES = 8
"""Layers that moved most that are listed."""


class Row(NamedTuple):
    """A setting or a figure of two runs, in words."""

    name: str
    first: str
    second: str


def side_by_side(first: Run, second: Run) -> None:
    """What differs in what was asked, made with and found."""
    st.subheader("Side by side", anchor=False)
    st.caption(f"First: run {first.key[:8]}. Second: run {second.key[:8]}.")
    rows = differing(first, second)
    if rows:
        st.markdown("**Settings that differ**")
        _table(rows)
    else:
        st.caption("As far as it was recorded, both were asked the same and made with the same.")
    if figured := figures(first, second):
        st.markdown("**Figures**")
        _table(figured)
    if isinstance(first.result, ScoreTable) and isinstance(second.result, ScoreTable):
        _sweeps(first.result, second.result)
    for name, run in (("First", first), ("Second", second)):
        if isinstance(run.result, Generation):
            st.markdown(f"**{name}**")
            written(run, run.result)


def written(run: Run, result: Generation) -> None:
    """The texts of a generation."""
    prompt = run.request.prompt if isinstance(run.request, GenerateRequest) else ""
    titles: dict[Side, str] = {"original": "Original"}
    if result.recipe:
        titles["recipe"] = "Recipe"
    if result.other:
        titles["other"] = "Another"
    show(prompt, from_result(result), titles, writing=False)


def differing(first: Run, second: Run) -> list[Row]:
    """Settings, versions and hardware in which two runs differ; with the layers that two recipes treat differently."""
    left, right = (
        {**runs_words.asked(run.request), **runs_words.made_with(run.origin)} for run in (first, second)
    )
    left["Model"], right["Model"] = first.fingerprint, second.fingerprint
    rows = _differing(left, right)
    if (count := _layers(first, second)) is not None and count:
        rows.append(Row("Layers with another format", f"{count:,}", f"{count:,}"))
    return rows


def _differing(left: Mapping[str, str], right: Mapping[str, str]) -> list[Row]:
    names = dict.fromkeys([*left, *right])
    rows = [
        Row(name, left.get(name, runs_words.UNRECORDED), right.get(name, runs_words.UNRECORDED))
        for name in names
    ]
    return [row for row in rows if row.first != row.second]


def _layers(first: Run, second: Run) -> int | None:
    """How many layers two recipes give another format; None where either is of no single recipe."""
    left, right = (_assignment(run) for run in (first, second))
    if left is None or right is None:
        return None
    return sum(left.get(unit) != right.get(unit) for unit in {*left, *right})


def _assignment(run: Run) -> Mapping[str, str] | None:
    found: Mapping[str, str] | None = getattr(run.request, "assignment", None)
    return found


def figures(first: Run, second: Run) -> list[Row]:
    """The figures of two answers of one kind, each with its unit."""
    left, right = _figures(first), _figures(second)
    return [Row(name, value, right.get(name, "–")) for name, value in left.items()]


def _figures(run: Run) -> dict[str, str]:
    result = run.result
    match result:
        case ScoreTable():
            values = result.scores(main_score(result)) or ((0.0,),)
            found = {
                "Layers": f"{len(result.units):,}",
                "Formats": f"{len(result.formats)}",
                "Largest KL of a layer": words.nats(max(map(max, values))),
                "Median KL of a layer": words.nats(float(np.median(np.array(values)))),
            }
        case Evaluation():
            found = {
                "KL, mean": _spread(result.kl_mean, result.kl_stderr, "nats/token"),
                "KL, 99th percentile": words.nats(result.kl_p99),
                "Perplexity": _spread(result.perplexity, result.perplexity_stderr, "tokens"),
                "Perplexity of the original": _spread(
                    result.perplexity_original, result.perplexity_original_stderr, "tokens"
                ),
                "Same likeliest token": words.share(result.top1_agreement),
                "All weights": _size(run),
            }
        case Proof():
            means = [sum(row) / len(row) for row in result.kl if row]
            found = {
                "Recipes": f"{len(means)}",
                "Least KL": words.nats(min(means)),
                "Largest KL": words.nats(max(means)),
            }
        case Generation():
            alike = result.divergence if result.divergence >= 0 else len(result.original)
            found = {
                "Written": f"{len(result.original):,} tokens",
                "Same from the start": f"{alike:,} tokens",
            }
        case Check() | ServedText():
            found = runs_words.from_server(run)
        case Training():
            found = {
                "KL before": words.nats(result.kl_before),
                "KL after": words.nats(result.kl_after),
                "Steps": f"{result.steps:,}",
                "Tokens read": words.count(result.tokens),
            }
        case _:
            return {}
    return {
        **found,
        "Took": words.duration(result.seconds),
        **_text(result),
    }


def _text(result: Result) -> dict[str, str]:
    """What was read, by its name, with its hash, which is the same for the same text; nothing for a generation."""
    label, hashed = getattr(result, "text_label", ""), getattr(result, "text_hash", "")
    return {"Text": f"{label}, hash {words.fingerprint(hashed)}"} if hashed else {}


def _spread(value: float, stderr: float, unit: str) -> str:
    return f"{words.significant(value, 4)} ± {words.significant(stderr, 2)} {unit}"


def _size(run: Run) -> str:
    """Size of all weights under the recipe that was measured; where the model is not known, that."""
    info = workspace().known_model(run.fingerprint)
    if info is None or not isinstance(run.request, EvaluateRequest):
        return "the model is not known here"
    info = workspace().rewritten(info, run.request.setup.transforms)
    return words.size(workspace().assigned_bytes(info, run.request.assignment))


def _sweeps(first: ScoreTable, second: ScoreTable) -> None:
    found = contrast(first, second, _MOVES)
    if not found.agreements:
        st.caption("The two sweeps have no format in common, so that their scores cannot be compared.")
        return
    st.markdown("**Do they agree on which layers matter?**")
    st.dataframe(
        pd.DataFrame(
            [
                (
                    format_name(each.format),
                    "–" if each.rank is None else f"{each.rank:.3f}",
                    f"{each.ratio:.3g} ×",
                )
                for each in found.agreements
            ],
            columns=["Format", "Rank correlation", "Second / first (median)"],
        ),
        hide_index=True,
        alt="Agreement of the two sweeps, format by format",
    )
    st.caption(
        f"Spearman's rank correlation of the KL scores of {found.units:,} layers, from −1 to 1 (the same order)."
    )
    if not found.moves:
        st.caption("Every layer has the same place in both.")
        return
    st.markdown("**Layers that moved most**")
    st.dataframe(
        pd.DataFrame(
            [
                (move.unit, format_name(move.format), f"{move.places[0]} → {move.places[1]}",
                 f"{words.significant(move.scores[0])} → {words.significant(move.scores[1])}")
                for move in found.moves
            ],
            columns=["Layer", "Format", "Place", "KL (nats/token)"],
        ),
        hide_index=True,
        alt="Layers whose place differs most between the two sweeps",
    )  # fmt: skip
    st.caption(
        "Places count from 1, the most sensitive layer, each in the format in which its place differs most."
    )


def _table(rows: list[Row]) -> None:
    frame = pd.DataFrame(
        [(f"**{row.name}**", plain(row.first), plain(row.second)) for row in rows],
        columns=["What", "First", "Second"],
    )
    st.table(frame.set_index("What"), border="horizontal")
