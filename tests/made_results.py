"""A hand-made model and its results: small, round numbers, no engine needed."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Literal

from quant_core.schema import (
    ChannelRanges,
    Channels,
    ChoiceScores,
    FormatView,
    Guess,
    Histogram,
    KlTails,
    LayerInputs,
    LayerView,
    Matrix,
    ModelInfo,
    ModelRef,
    PromptTexts,
    Question,
    RuntimeSpeed,
    RuntimeSpeeds,
    ScoreTable,
    Speed,
    Speeds,
    Spot,
    Training,
    TrainRequest,
    Unit,
    UnitStatistics,
    WeightStatistics,
    Window,
    WorstToken,
    replace,
)

ROLES = {
    "q_proj": 256,
    "k_proj": 64,
    "v_proj": 64,
    "o_proj": 256,
    "gate_proj": 512,
    "up_proj": 512,
    "down_proj": 512,
}
FORMATS = ("int2/g64/asym", "int3/g64/asym", "int4/g64/asym", "int8/g64/asym", "nf4/g64", "fp8_e4m3/channel")
BITS = (2.28125, 3.296875, 4.3125, 8.375, 4.25, 8.0625)
STATE = "5" * 24
KL = (0.03, 0.004, 0.0008, 0.000003, 0.0006, 0.00002)
PROMPTS = ("Once", "The ship", "My dear")
WROTE = PromptTexts(((" there", " was"), (" sank", " sank"), (" sister", " goose")), 3.0)
ASKED = (
    Question("The dog began to", ("bark.", "read."), 0),
    Question("It rained, so she took her", ("umbrella.", "piano."), 0),
    Question("Two and two are", ("five.", "four."), 1),
)
SCORED = ChoiceScores(
    ((-1.0, -2.0), (-1.0, -3.0), (-2.0, -1.0)), ((-1.0, -2.0), (-4.0, -1.0), (-2.0, -1.0)), 0, 1.0
)
WORST = WorstToken("the cat sat on the", " mat", 2.5, (Guess(" mat", 0.8),), (Guess(" log", 0.6),), 0.8, 0.05)
SPREAD = KlTails(
    (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0), (10, 50, 30, 8, 2), 0.05, 0.01, 0.1, 1.2, 2.4, 2.5, 0.1, (WORST,), 100,
    "e" * 24, "bundled evaluation text", 2.0,
)  # fmt: skip
TIMED = Speeds(
    tuple(
        Speed((0.02, 0.01, 0.03), (6400, 4000, 9000), (middle, 80, 95), 500_000_000, None) for middle in (90, 85)
    ),
    128, 32, 5, "float32", "A made CPU", "cpu", 1, None, 4.0,
)  # fmt: skip


def model(blocks: int = 8, embedding: bool = True, experts: int = 0) -> ModelInfo:
    """A Llama-like model: seven roles a block, and an embedding whose storage the head shares.

    With ``experts`` each block has so many of what is not attention.
    """
    units = [unit for block in range(blocks) for role in ROLES for unit in _units(block, role, experts)]
    if embedding:
        units.insert(
            0,
            Unit("model.embed_tokens.weight", -1, "embed_tokens", "embedding", 8192, 256, 16, False,
                 tied=("lm_head.weight",)),
        )  # fmt: skip
    return ModelInfo(
        ref=ModelRef("bundled"), title="A made model", fingerprint="f" * 24, architecture="LlamaForCausalLM",
        parameters=sum(unit.parameters for unit in units) + 1000, other_bits=16_000, units=tuple(units),
        blocks=blocks, hidden_size=256, vocabulary=8192, context_length=1024, kv_values=1024, dtype="bfloat16",
        compute_dtype="float32", device="cpu", chat=False,
    )  # fmt: skip


def _units(block: int, role: str, experts: int) -> list[Unit]:
    """The units of a role in a block."""

    def unit(name: str, role: str, kind: Literal["linear", "expert"]) -> Unit:
        rows = ROLES[role.partition("[")[0]]
        return Unit(f"model.layers.{block}.{name}", block, role, kind, rows, 256, 16, True)

    if len(role) == 6:
        return [unit(f"self_attn.{role}.weight", role, "linear")]
    if not experts:
        return [unit(f"mlp.{role}.weight", role, "linear")]
    return [unit(f"mlp.experts.{role}[{place}]", f"{role}[{place}]", "expert") for place in range(experts)]


def table(info: ModelInfo, measured: bool = False, seed: int = 0) -> ScoreTable:
    """Plausible scores of every decided unit, the same for the same seed."""
    dice = random.Random(seed)
    units = [unit for unit in info.units if unit.decided]
    weights = [math.exp(dice.gauss(0, 0.9)) for _ in units]
    fisher = tuple(tuple(kl * weight for kl in KL) for weight in weights)
    noise = tuple(tuple(value * math.exp(dice.gauss(0, 0.1)) for value in row) for row in fisher)
    errors = tuple(tuple(value * 0.08 for value in row) for row in fisher)
    return ScoreTable(
        fingerprint=info.fingerprint,
        units=tuple(unit.name for unit in units),
        formats=FORMATS,
        storage_bits=tuple(tuple(int(unit.parameters * bits) for bits in BITS) for unit in units),
        padded=tuple((0,) * len(FORMATS) for _ in units),
        tokens=8192,
        sequences=32,
        text_hash="0" * 24,
        text_label="bundled calibration text",
        seed=0,
        seconds=3.5,
        weight=tuple(tuple(0.05 * math.exp(dice.gauss(0, 0.2)) for _ in KL) for _ in units),
        output=tuple(tuple(0.04 * math.exp(dice.gauss(0, 0.4)) for _ in KL) for _ in units),
        fisher=fisher if not measured else (),
        fisher_stderr=errors if not measured else (),
        measured=noise if measured else (),
        measured_stderr=errors if measured else (),
        state="" if measured else STATE,
    )


def rescored(info: ModelInfo, forms: tuple[str, ...], units: tuple[str, ...] = ()) -> ScoreTable:
    """Scores of more formats from the state of ``table``: a little better than INT3, for all units or some."""
    sweep = table(info)
    rows = [sweep.units.index(unit) for unit in units or sweep.units]

    def cells(matrix: Matrix, factor: float) -> Matrix:
        return tuple(
            tuple(matrix[row][1] * factor / (place + 1) for place in range(len(forms))) for row in rows
        )

    return replace(
        sweep, units=tuple(sweep.units[row] for row in rows), formats=forms, rescored=forms, seconds=0.3,
        storage_bits=tuple((int(sweep.storage_bits[row][1] * 1.05),) * len(forms) for row in rows),
        padded=tuple((0,) * len(forms) for _ in rows), weight=cells(sweep.weight, 0.9),
        output=cells(sweep.output, 0.9), fisher=cells(sweep.fisher, 0.9), fisher_stderr=cells(sweep.fisher, 0.1),
    )  # fmt: skip


def layer_view(unit: str = "model.layers.0.self_attn.q_proj.weight", *forms: str) -> LayerView:
    """A normal distribution between -0.16 and 0.16 on a 16-value grid, of int4/g64/asym unless others are named."""
    bins = 120
    edges = tuple(-0.16 + 0.32 * index / bins for index in range(bins + 1))
    shape = [math.exp(-(((low + 0.32 / bins / 2) / 0.04) ** 2) / 2) for low in edges[:-1]]
    weights = tuple(int(2000 * value) for value in shape)
    dice = random.Random(1)
    formats = tuple(
        FormatView(
            format=form,
            dequantized=Histogram(edges, tuple(int(count * dice.uniform(0.4, 1.6)) for count in weights)),
            errors=Histogram(tuple(-0.006 + 0.0001 * i for i in range(121)), tuple(500 + i % 7 for i in range(120))),
            grid=tuple(-0.1 + 0.2 * step / 15 for step in range(16)), clip_low=-0.1, clip_high=0.1,
            block_values=64, blocks=1024, outside=0.0, sqnr_db=19.4, mean_square=1.84e-5, largest_error=0.006,
            bits_per_weight=4.3125, padded=0,
        )
        for form in forms or ("int4/g64/asym",)
    )  # fmt: skip
    return LayerView(
        units=(unit,), parameters=65_536, weights=Histogram(edges, weights), kurtosis=0.8, outlier_share=0.0003,
        minimum=-0.158, maximum=0.15, standard_deviation=0.04, formats=formats,
    )  # fmt: skip


BINS = 16
"""Bins of channels."""


def channel_ranges(unit: Unit) -> ChannelRanges:
    """Every channel reaches from -0.1 to 0.1, but output 3 and input 7 to 0.6."""

    def channels(count: int, furthest: int) -> Channels:
        edges = tuple(count * place // BINS for place in range(BINS + 1))
        reach = tuple(0.6 if low <= furthest < high else 0.1 for low, high in pairwise(edges))
        flat = (0.05,) * BINS
        return Channels(edges, (-0.1,) * BINS, tuple(-each for each in flat), flat, reach, furthest, 0.6, 0.1)

    return ChannelRanges(unit.name, channels(unit.rows, 3), channels(unit.columns, 7))


def layer_inputs(unit: Unit) -> LayerInputs:
    """Activations up to 1, but 8 in input 5."""
    edges = tuple(unit.columns * place // BINS for place in range(BINS + 1))
    largest = tuple(8.0 if low <= 5 < high else 1.0 for low, high in pairwise(edges))
    return LayerInputs(
        unit.name, Histogram((-1.0, 0.0, 8.0), (5000, 4000)), edges, largest, (0.2,) * BINS, 5, 8.0, 1.0, 8192,
        "0" * 24, "bundled calibration text", 2.0,
    )  # fmt: skip


def window(
    unit: Unit, form: str = "int4/g64/asym", area: tuple[int, int, int, int] | None = None, cells: int = 128
) -> Window:
    """Weights that rise with their place, each a tenth too large after rounding."""
    top, bottom, left, right = area or (0, unit.rows, 0, unit.columns)

    def edges(first: int, end: int) -> tuple[int, ...]:
        number = min(cells, end - first)
        return tuple(first + (end - first) * place // number for place in range(number + 1))

    rows, columns = edges(top, bottom), edges(left, right)
    weights = tuple(tuple(0.001 * (row + column) - 0.2 for column in columns[1:]) for row in rows[1:])
    errors = tuple(tuple(value / 10 for value in row) for row in weights)
    last = weights[-1][-1]
    spot = Spot(bottom - 1, right - 1, last, last * 1.1)
    return Window(unit.name, form, rows, columns, weights, errors, spot, spot)


def weight_statistics(info: ModelInfo) -> WeightStatistics:
    """Units whose tails grow and whose largest weight shrinks with their place; the last one was not read."""
    units = tuple(
        UnitStatistics(
            unit=unit, minimum=-1.0 / (place + 1), maximum=0.5 / (place + 1), mean=0.0, standard_deviation=0.02,
            kurtosis=0.1 * place, outlier_share=0.001 * (place % 7), zero_share=0.0, row_spread=1.5,
            column_spread=2.0, counts=(1, 5, 9, 5, 1), not_finite=3 if place == 4 else 0,
        )
        for place, unit in enumerate(info.units[:-1])
    )  # fmt: skip
    return WeightStatistics(info.title, units, (info.units[-1].name,), 37_000_000, 2.0)


def training(request: TrainRequest, key: str = "a" * 24) -> Training:
    """A training that halved its KL."""
    return Training(
        request.fingerprint, key, request.assignment, request.mode, ((10, 0.4), (20, 0.3), (30, 0.25)), 30, 15_360,
        12.0, 0.08, 0.04, 2048, 50_000, "b" * 24, "written by the model, seed 0", ("One layer is odd.",),
    )  # fmt: skip


def runtime_speeds(runtime: str = "llama.cpp") -> RuntimeSpeeds:
    """A recipe that reads as fast as the original, to within its rounds, and writes twice as fast."""
    original = RuntimeSpeed((1000, 900, 1100), (100, 90, 110), 40_000_000, 20_000_000, 100_000_000)
    recipe = RuntimeSpeed((1050, 1000, 1200), (200, 180, 220), 10_000_000, 20_000_000, 50_000_000)
    return RuntimeSpeeds(
        runtime, f"{runtime} 1.0", recipe, original, 128, 32, 5, "bfloat16", "A made CPU", "cpu", 1, 9.0
    )
