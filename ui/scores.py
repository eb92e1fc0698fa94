"""The score table that the sensitivity and recipe pages stand on: what to ask for, and what is there already."""

from __future__ import annotations

from collections.abc import Sequence

from quant_core.contrast import main_score
from quant_core.errors import QuantError
from quant_core.schema import (
    CALIBRATION,
    ORIGINAL,
    ModelInfo,
    RescoreRequest,
    ScoreTable,
    SensitivityRequest,
    Setup,
    TextSource,
    digest,
)
from quant_core.workspace import DEFAULT_FORMATS
from ui import setup, state
from ui.format_names import NEAREST, columns
from ui.jobs import workspace

FORMATS = state.list_param("formats", "the formats", DEFAULT_FORMATS)
ROUNDING = state.list_param("rounding", "the ways to round", (NEAREST,))
TOKENS = state.integer_param("tokens", "the number of tokens", 8192, 256, 262_144)
SWEEP = state.text_param("sweep", "the sweep", pattern=r"[0-9a-f]{0,24}")
"""Which stored sweep the user picked; empty for the one that the settings ask for."""
ADDED = state.list_param("more", "the added formats")
"""Full names of formats that are scored from the state of the sweep, beside its own."""


def request(
    info: ModelInfo, formats: tuple[str, ...] = (), text: TextSource = CALIBRATION
) -> SensitivityRequest:
    """The sweep for the user's settings (formats, group size, rounding, tokens); ``formats`` are full names."""
    return SensitivityRequest(
        info.ref,
        info.fingerprint,
        formats or format_names(),
        text,
        TOKENS.get(),
        setup=Setup(transforms=setup.current(info).transforms),
        roots=workspace().inspect_request(info.ref).roots,
    )


def format_names() -> tuple[str, ...]:
    """Full names of the chosen formats, rounded in every chosen way; what names no format is passed over."""
    chosen = FORMATS.get() or FORMATS.default
    return columns(chosen, state.GROUP.get(), ROUNDING.get()).names


def table_id(table: ScoreTable) -> str:
    """A short name of a sweep for the URL: what was asked, not the numbers."""
    kinds = [name for name in ("fisher", "measured", "output", "weight") if table.scores(name)]
    asked: list[object] = [
        kinds,
        [name for name in table.formats if name not in table.rescored],
        len(table.units),
        table.tokens,
        table.text_hash,
        table.seed,
        table.precision,
    ]
    return digest([*asked, *table.transforms])[:8]


def table_key(table: ScoreTable) -> str:
    """What tells tables apart for things that are computed from one and then kept."""
    key = f"{table.fingerprint} {table.text_hash} {table.tokens} {table.seed} {table.formats} {len(table.units)}"
    return f"{key} {table.rescored} {main_score(table)} {len(table.fisher)} {table.labels}"


def table(info: ModelInfo) -> ScoreTable | None:
    """The sweep of ``sweep``, with the columns that were added to it."""
    found = sweep(info)
    return None if found is None else with_added(info, found)


def rescore(info: ModelInfo, sweep: ScoreTable, names: Sequence[str], unit: str = "") -> RescoreRequest:
    """What scores more formats from the state of a sweep: for all its units, or one."""
    roots = workspace().inspect_request(info.ref).roots
    units = (unit,) if unit else ()
    return RescoreRequest(info.ref, info.fingerprint, sweep.state, tuple(names), units, roots)


def added(sweep: ScoreTable) -> list[str]:
    """Formats that the user added and the sweep lacks; names that are none are passed over."""
    return [name for name in dict.fromkeys(ADDED.get()) if name not in sweep.formats and _is_format(name)]


def _is_format(name: str) -> bool:
    try:
        spec = workspace().parse_format(name)
    except QuantError:
        return False
    return spec.name == name != ORIGINAL


def with_added(info: ModelInfo, sweep: ScoreTable) -> ScoreTable:
    """A sweep with those of the added columns that are there already."""
    if not sweep.state:
        return sweep
    found = [workspace().result(rescore(info, sweep, [name])) for name in added(sweep)]
    return workspace().with_columns(sweep, [each for each in found if each is not None])


def sweep(info: ModelInfo) -> ScoreTable | None:
    """The scores that the user picked, else those for the settings, else the newest of this model, else None.

    Errors of the weights alone, which another page asked for, are no sweep unless they are picked.
    Scores hold for the model that was scored: other transforms than the chosen ones make them another model's.
    """
    transforms = setup.current(info).transforms
    known = [found for found in workspace().tables(info.fingerprint) if found.transforms == transforms]
    if SWEEP.get():
        for found in known:
            if table_id(found) == SWEEP.get():
                return found
    return workspace().result(request(info)) or next((found for found in known if found.tokens), None)
