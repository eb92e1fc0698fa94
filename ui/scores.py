"""The score table that the sensitivity and recipe pages stand on: what to ask for, and what is there already."""

from __future__ import annotations

from quant_core.errors import QuantError
from quant_core.schema import CALIBRATION, ModelInfo, ScoreTable, SensitivityRequest, TextSource, digest
from quant_core.workspace import DEFAULT_FORMATS
from ui import state
from ui.jobs import workspace

FORMATS = state.list_param("formats", "the formats", DEFAULT_FORMATS)
TOKENS = state.integer_param("tokens", "the number of tokens", 8192, 256, 262_144)
SWEEP = state.text_param("sweep", "the sweep", pattern=r"[0-9a-f]{0,24}")
"""Which stored sweep the user picked; empty for the one that the settings ask for."""


def request(
    info: ModelInfo, formats: tuple[str, ...] = (), text: TextSource = CALIBRATION
) -> SensitivityRequest:
    """The sweep for the user's settings (formats by family, group size, tokens); ``formats`` are full names."""
    names = formats or format_names()
    return SensitivityRequest(
        info.ref,
        info.fingerprint,
        names,
        text,
        TOKENS.get(),
        roots=workspace().inspect_request(info.ref).roots,
    )


def format_names() -> tuple[str, ...]:
    """Full names of the chosen families at the chosen group size; unknown families are passed over."""
    names = []
    for family in FORMATS.get() or FORMATS.default:
        try:
            names.append(workspace().parse_format(family, state.GROUP.get()).name)
        except QuantError:
            continue
    return tuple(names)


def table_id(table: ScoreTable) -> str:
    """A short name of a sweep for the URL: what was asked, not the numbers."""
    kinds = [name for name in ("fisher", "measured", "output", "weight") if table.scores(name)]
    asked = [kinds, list(table.formats), len(table.units), table.tokens, table.text_hash, table.seed]
    return digest(asked)[:8]


def table(info: ModelInfo) -> ScoreTable | None:
    """The scores that the user picked, else those for the settings, else the newest of this model, else None."""
    if SWEEP.get():
        for found in workspace().tables(info.fingerprint):
            if table_id(found) == SWEEP.get():
                return found
    stored = workspace().result(request(info))
    if stored is not None:
        return stored
    return next(iter(workspace().tables(info.fingerprint)), None)
