"""The page that shows what a run found, as a link that finds it again on a fresh server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import streamlit as st

from quant_core.allocation.proof import ranking
from quant_core.errors import QuantError
from quant_core.schema import (
    Check,
    CheckRequest,
    ChoiceScores,
    ChoicesRequest,
    EvaluateRequest,
    Evaluation,
    GenerateRequest,
    ImportRequest,
    KlTails,
    ModelInfo,
    ModelRef,
    PromptsRequest,
    PromptTexts,
    Proof,
    ProveRequest,
    Run,
    RuntimeSpeedRequest,
    RuntimeSpeeds,
    ScoreTable,
    SensitivityRequest,
    ServedRequest,
    ServedText,
    Setup,
    SpeedRequest,
    Speeds,
    TailsRequest,
    Training,
    TrainRequest,
)
from ui import scores
from ui.jobs import workspace

_RECIPES = "runs:recipes"


class Place(NamedTuple):
    """A page, what to call the way there, and the values that its address carries."""

    stem: str
    label: str
    values: dict[str, str]


def place(run: Run) -> Place | None:
    """Where a run can be seen in full; None where no other page shows it."""
    where = _model(run)
    if isinstance(run.request, ImportRequest) and Path(run.request.checkpoint).is_absolute():
        beside = {"beside": "none"} if run.request.model is None else {**(where or {}), "beside": "model"}
        return Place("checkpoint", "Open what it holds", {**beside, "checkpoint": run.request.checkpoint})
    if where is None:
        return None
    match run.request, run.result:
        case SensitivityRequest(), ScoreTable():
            return Place("sensitivity", "Open its map", {**where, **_sweep(run.request, run.result)})
        case EvaluateRequest(), Evaluation():
            found = _recipe(run, run.request.assignment, run.result, run.request.setup)
            return (
                Place("compare", "Open the recipe it measured", {**where, **found, "tab": "text"})
                if found
                else None
            )
        case ProveRequest(), Proof():
            best = run.request.assignments[ranking(run.result.kl)[0].recipe]
            found = _recipe(run, best, None, run.request.setup)
            return Place("compare", "Open the measured best", {**where, **found}) if found else None
        case GenerateRequest(), _ if run.request.other_checkpoint is not None:
            return None
        case GenerateRequest(), _ if run.request.assignment is not None:
            found = _recipe(run, run.request.assignment, None, run.request.setup)
            return (
                Place("compare", "Open the texts", {**where, **found, **_prompt(run.request)})
                if found
                else None
            )
        case PromptsRequest(), PromptTexts():
            return Place("compare", "Open the blind vote", {**where, "tab": "vote", "vote": run.key})
        case ChoicesRequest(), ChoiceScores():
            return Place("compare", "Open the answers", {**where, "tab": "choices", "scored": run.key})
        case TailsRequest(), KlTails():
            found = _recipe(run, run.request.assignment, None, run.request.setup)
            return Place("compare", "Open the spread", {**where, **found, "tab": "text"}) if found else None
        case SpeedRequest(), Speeds() if len(run.request.variants) == 2:
            second = run.request.variants[1]
            found = _recipe(run, second.assignment, None, second.setup)
            here = {**where, **found, "tab": "speed", "take": str(run.request.take), "other": ""}
            return Place("compare", "Open the speeds", here) if found else None
        case RuntimeSpeedRequest(), RuntimeSpeeds():
            found = _recipe(run, run.request.assignment, None, run.request.setup)
            asked = {"tab": "speed", "engine": run.request.runtime, "timing": str(run.request.take)}
            return Place("compare", "Open its table", {**where, **found, **asked}) if found else None
        case CheckRequest(), Check():
            found = _recipe(run, run.request.assignment, None, run.request.setup)
            return Place(
                "compare", "Open its history", {**where, **found, **_served(run), "checked": run.key}
            )
        case ServedRequest(), ServedText():
            found = _recipe(run, run.request.assignment or {}, None, run.request.setup)
            return Place("compare", "Open the texts", {**where, **found, **_served(run), "wrote": run.key})
        case TrainRequest(), Training():
            return Place("train", "Open its curve", {**where, "training": run.result.key})
    return None


def _model(run: Run) -> dict[str, str] | None:
    """The address of the run's model: as it was opened here, or where anybody finds it; None if it is not at hand."""
    here = [info.ref for info in workspace().recent() if info.fingerprint == run.fingerprint]
    ref = here[0] if here else getattr(run.request, "model", None)
    if not isinstance(ref, ModelRef) or not (here or ref.source == "bundled" or "/" in ref.source.strip("/")):
        return None
    nothing = dict.fromkeys(("unit", "recipe", "sweep", "training", "more", *_setup(Setup())), "")
    named = {"model": ref.source, "revision": ref.revision, "dtype": ref.dtype, "device": ref.device}
    return {**nothing, **named}


def _setup(setup: Setup) -> dict[str, str]:
    return {
        "transforms": ",".join(setup.transforms),
        "activations": setup.activations,
        "kv": setup.kv_cache,
        "trained": setup.trained,
    }


def _sweep(request: SensitivityRequest, table: ScoreTable) -> dict[str, str]:
    measured = request.score == "measured"
    return {
        "sweep": scores.table_id(table),
        "score": "measured" if measured else "fisher",
        "method": "measured" if measured else "fisher",
        "formats": ",".join(request.formats),
        "tokens": str(request.tokens),
        "embeddings": "yes" if request.embeddings else "no",
        "transforms": ",".join(request.setup.transforms),
    }


def _served(run: Run) -> dict[str, str]:
    """The address of the section, without the key's variable."""
    if not isinstance(run.request, CheckRequest | ServedRequest):
        return {}
    return {"tab": "served", "endpoint": run.request.endpoint.address, "served": run.request.endpoint.model}


def _prompt(request: GenerateRequest) -> dict[str, str]:
    return {
        "prompt": request.prompt,
        "seed": str(request.seed),
        "length": str(request.tokens),
        "temperature": f"{request.temperature:g}",
        "chat": "yes" if request.chat else "no",
        "tab": "texts",
    }


def _recipe(
    run: Run, assignment: Mapping[str, str], measured: Evaluation | None, setup: Setup
) -> dict[str, str]:
    """The address of what was measured as a saved recipe; empty where the model is not known."""
    info = workspace().known_model(run.fingerprint)
    if info is None:
        return {}
    kept: dict[str, str] = st.session_state.setdefault(_RECIPES, {})
    if run.key not in kept:
        kept[run.key] = _saved(info, assignment, measured, setup)
    return {"recipe": kept[run.key], **_setup(setup)} if kept[run.key] else {}


def _saved(info: ModelInfo, assignment: Mapping[str, str], measured: Evaluation | None, setup: Setup) -> str:
    rewritten = workspace().rewritten(info, setup.transforms)
    try:
        return workspace().save_recipe(workspace().measured_recipe(rewritten, assignment, measured, setup))
    except QuantError:  # a format that this version does not have, or a weight that the model does not have
        return ""
