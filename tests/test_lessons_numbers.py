"""The lessons on numbers and on the range: their arithmetic against references, and their pages."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_core import plots
from quant_core.errors import FormatError, QuantError
from quant_core.evaluation.clip_sweep import clip_sweep, sweep
from quant_core.formats import find, to_blocks
from quant_core.models.loading import LoadedModel
from quant_core.number_types import FLOATS, FloatType
from quant_core.schema import ClipRequest, ClipSweep, LayerRequest, ModelInfo, ModelRef, replace
from tests import made_results
from tests.served_pages import job, keep, open_page, seed, texts
from tests.test_plots import LIGHT
from tests.tiny import FakeContext
from ui.jobs import workspace
from ui.lesson_numbers import as_float, as_integer

FORM = "int4/tensor/asym"


def swept(values: list[list[float]], *shares: float, form: str = FORM) -> ClipSweep:
    asked = ClipRequest(ModelRef("bundled"), "", "w", form, shares)
    return sweep(FakeContext(), asked, find(form), torch.tensor(values))


# --- rounding against clipping


def test_both_errors_by_hand() -> None:
    """Steps of 1 from -8 to 7, which hold all weights but one exactly; steps of 1/2 from -4 to 3.5 cut off two."""
    found = swept([[-8.0, 7.0], [0.25, 1.0]], 1.0, 0.5)
    assert found.scales == (1.0, 0.5)
    assert found.zero_points == (0.0, 0.0)
    assert found.grids[0] == tuple(range(-8, 8))
    assert (found.grids[1][0], found.grids[1][-1]) == (-4.0, 3.5)
    assert found.rounding == (0.25**2 / 4, 0.25**2 / 4)
    assert found.clipping == (0.0, (4.0**2 + 3.5**2) / 4)
    assert found.outside == (0.0, 0.5)
    assert found.best == 0
    assert found.mean_square == (64 + 49 + 0.25**2 + 1) / 4


def test_giving_up_a_lonely_extreme_can_pay() -> None:
    """A thousand weights of 0.5 that steps of 1 cannot hold, and one of 15 that clipping to 7.5 costs 56."""
    found = swept([[0.5] * 1000 + [15.0]], 1.0, 0.5)
    assert found.rounding == (250 / 1001, 0.0)
    assert found.clipping == (0.0, 7.5**2 / 1001)
    assert found.best == 1


@pytest.mark.parametrize("form", [FORM, "int4/tensor/sym", "fp8_e4m3/tensor"])
def test_a_layer_is_split_as_the_format_rounds_it(llama: LoadedModel, form: str) -> None:
    unit = next(unit for unit in llama.info.units if unit.decided)
    found = clip_sweep(FakeContext(llama), ClipRequest(llama.info.ref, "", unit.name, form, (0.3, 0.8, 1.0)))
    weights = to_blocks(llama.graph.slots[unit.name].matrix(), find(form))
    for place, share in enumerate(found.shares):
        grid = find(form).fit(weights, shrink=torch.tensor([[share]]))
        values = find(form).levels(grid).double().numpy()
        exact = weights.double().numpy()[0]
        squared = (exact[:, None] - values[None]) ** 2
        beyond = (exact < values[0]) | (exact > values[-1])
        nearest = squared.min(1)
        assert found.grids[place] == tuple(values)
        assert found.outside[place] == beyond.mean()
        assert found.clipping[place] == pytest.approx(nearest[beyond].sum() / exact.size, rel=1e-5)
        assert found.rounding[place] == pytest.approx(nearest[~beyond].sum() / exact.size, rel=1e-5)
    assert sum(found.weights.counts) == unit.parameters


@settings(max_examples=40)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=40),
    st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4),
)
def test_rounding_and_clipping_add_up_to_the_whole_error(values: list[float], shares: list[float]) -> None:
    found = swept([values], *shares)
    form, blocks = find(FORM), torch.tensor([values])
    for place, share in enumerate(shares):
        rounded = form.nearest(blocks, form.fit(blocks, shrink=torch.tensor([[share]])))
        whole = float((rounded.double() - blocks.double()).square().mean())
        assert found.rounding[place] + found.clipping[place] == pytest.approx(whole, rel=1e-12, abs=0)
    sums = [a + b for a, b in zip(found.rounding, found.clipping, strict=True)]
    assert sums[found.best] == min(sums)


def test_what_has_no_single_range_is_refused(llama: LoadedModel) -> None:
    unit = next(unit for unit in llama.info.units if unit.decided)

    def ask(form: str, *shares: float) -> None:
        clip_sweep(FakeContext(llama), ClipRequest(llama.info.ref, "", unit.name, form, shares))

    with pytest.raises(FormatError, match="no single range"):
        ask("int4/g64/asym", 1.0)
    with pytest.raises(QuantError, match="more than 0 and at most 1"):
        ask(FORM, 0.0, 1.0)
    with pytest.raises(QuantError, match="more than 0 and at most 1"):
        ask(FORM)


@pytest.fixture
def info(home: Path) -> ModelInfo:
    """A made model, with none of its results."""
    return seed(home, tables=False, views=0)


def ranges(info: ModelInfo) -> ClipRequest:
    unit = [unit for unit in info.units if "down_proj" in unit.role]
    name = unit[len(unit) // 2].name
    return ClipRequest(info.ref, info.fingerprint, name, roots=workspace().inspect_request(info.ref).roots)


def keep_ranges(home: Path, info: ModelInfo) -> ClipSweep:
    """A heavy-tailed layer's sweep, in the home folder."""
    asked = ranges(info)
    values = torch.linspace(-3, 3, 4096) ** 3
    found = sweep(FakeContext(), asked, find(asked.format), values[None])
    keep(home, asked, found)
    return found


def test_the_range_is_guessed_drawn_and_found(home: Path, info: ModelInfo) -> None:
    found = keep_ranges(home, info)
    app = open_page("lesson_range")
    assert not app.select_slider, "first a guess"
    app.button(key="guess:range:1").click().run()
    assert not app.exception
    assert app.select_slider[0].value == 100
    assert len(app.get("plotly_chart")) == 2
    app.button(key="range:best").click().run()
    assert app.select_slider[0].value == round(100 * found.shares[found.best])
    assert app.button(key="range:best").disabled
    said = texts(app)
    assert f"The error was least at **{100 * found.shares[found.best]:.0f} % of the range**" in said
    assert "[[" not in said


def test_a_link_keeps_the_range_and_the_guess(home: Path, info: ModelInfo) -> None:
    keep_ranges(home, info)
    app = open_page("lesson_range", guess="range.0", covered="40")
    assert not app.exception
    assert app.select_slider[0].value == 40
    assert "Not as you guessed." in texts(app)
    assert open_page("lesson_range", guess="range.0", covered="41").select_slider[0].value == 100


def test_a_range_that_is_worked_out_shows_its_progress(home: Path, info: ModelInfo) -> None:
    running = job(home, ranges(info), "running", "40% of the range")
    app = open_page("lesson_range", guess="range.0")
    assert app.button(key=f"cancel:here:{running.id}").label == "Cancel"
    assert not app.select_slider


# --- bits

TORCH = {
    "BF16": (torch.bfloat16, torch.int16),
    "FP16": (torch.float16, torch.int16),
    "FP8 E4M3": (torch.float8_e4m3fn, torch.uint8),
    "FP8 E5M2": (torch.float8_e5m2, torch.uint8),
    "FP32": (torch.float32, torch.int32),
}


@pytest.mark.parametrize("kind", [kind for kind in FLOATS if kind.bits <= 16], ids=lambda kind: kind.name)
def test_every_finite_code_stands_for_what_torch_says(kind: FloatType) -> None:
    """And is its own nearest code; both zeros keep their signs."""
    dtype, whole = TORCH[kind.name]
    codes = torch.arange(2**kind.bits).to(whole).view(dtype).double().tolist()
    finite = [(code, value) for code, value in enumerate(codes) if math.isfinite(value)]
    assert [kind.value(code) for code, _ in finite] == [value for _, value in finite]
    assert [kind.code(value) for _, value in finite] == [code for code, _ in finite]
    assert kind.largest == torch.finfo(dtype).max == max(value for _, value in finite)
    assert kind.smallest == min(value for _, value in finite if value > 0)
    assert kind.step == torch.finfo(dtype).eps


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_nearest_number_is_torchs(number: float) -> None:
    """Beyond the range torch may give infinity; here it is the largest."""
    for kind in FLOATS:
        dtype, _ = TORCH[kind.name]
        near = min(max(number, -kind.largest), kind.largest)
        assert kind.value(kind.code(number)) == float(torch.tensor(near, dtype=torch.float32).to(dtype))


def test_bits_by_hand() -> None:
    half = next(kind for kind in FLOATS if kind.name == "FP16")
    assert f"{half.code(-1.5):016b}" == "1011111000000000"
    assert (half.largest, half.step, half.smallest) == (65504.0, 2**-10, 2**-24)
    assert half.code(math.inf) == half.code(65504.0)
    with pytest.raises(ValueError, match="near no number"):
        half.code(math.nan)


def test_integers_are_twos_complement_on_the_layers_grid() -> None:
    """INT4 with a step of 1/2: 0.8 is nearest to 1, code 2; -9 to the end at -4, code -8."""
    view = replace(made_results.layer_view("w", "int4/tensor/sym").formats[0],
                   grid=tuple(code / 2 for code in range(-8, 8)))  # fmt: skip
    held = as_integer(view, "INT4", 0.8)
    assert (held.row.bits, held.value, held.low, held.high, held.step) == ("0010", 1.0, -4.0, 3.5, 0.5)
    assert as_integer(view, "INT4", -9.0).row.bits == "1000"
    assert as_integer(view, "INT4", -0.5).row.bits == "1111"


def test_cells_are_drawn_by_their_parts() -> None:
    row = as_float(next(kind for kind in FLOATS if kind.name == "FP8 E4M3"), 1.0).row
    figure = plots.draw_bits([row], LIGHT, "One")
    assert {trace.name: "".join(trace.text) for trace in figure.data} == {
        "sign": "0", "exponent": "0111", "mantissa": "000",
    }  # fmt: skip
    assert [list(trace.base) for trace in figure.data][2] == pytest.approx([5.05, 6.05, 7.05])
    assert plots.figure_csv(figure).splitlines()[:3] == [
        "Series,Type,Place,Bit",
        "sign,FP8 E4M3,1,0",
        "exponent,FP8 E4M3,2,0",
    ]


def test_a_number_is_shown_in_every_type(home: Path, info: ModelInfo) -> None:
    forms = tuple(f"int{bits}/tensor/sym" for bits in (8, 4, 2))
    asked = ranges(info)
    grids = [tuple(0.01 * code for code in range(-(2 ** (b - 1)), 2 ** (b - 1))) for b in (8, 4, 2)]
    view = made_results.layer_view(asked.unit, *forms)
    views = tuple(replace(one, grid=grid) for one, grid in zip(view.formats, grids, strict=True))
    layer = LayerRequest(info.ref, info.fingerprint, (asked.unit,), forms, roots=asked.roots)
    keep(home, layer, replace(view, formats=views))
    app = open_page("lesson_numbers", guess="numbers.0", number="1000")
    assert not app.exception
    frame = app.dataframe[0].value.set_index("Type")
    assert list(frame.index) == [*(kind.name for kind in FLOATS), "INT8", "INT4", "INT2"]
    assert frame.loc["FP8 E4M3", "Nearest"] == "448"
    assert frame.loc["FP8 E5M2", "Nearest"] == "1024"
    assert frame.loc["INT4", "Nearest"] == "0.07"
    app.number_input[0].set_value(-0.1).run()
    assert app.dataframe[0].value.set_index("Type").loc["FP16", "Nearest"] == "−0.09997559"
    said = texts(app)
    assert "As you guessed." in said
    assert "[[" not in said
