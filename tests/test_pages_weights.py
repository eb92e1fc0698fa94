"""The weights page on a seeded store: no engine runs, and nothing a link can say breaks it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from quant_core.schema import (
    InputsRequest,
    LayerRequest,
    ModelInfo,
    SensitivityRequest,
    Unit,
    WindowRequest,
    replace,
)
from tests import made_results
from tests.served_pages import job, keep, open_page, texts
from ui.jobs import workspace
from ui.weight_view import BINS

FIRST = "model.layers.0.self_attn.q_proj.weight"


def page(**query: str) -> AppTest:
    return open_page("weights", **query)


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def table(app: AppTest) -> dict[str, list[object]]:
    """The formats' figures, a list a column."""
    frame = app.dataframe[0].value
    return {str(name): list(frame[name]) for name in frame}


def chart(app: AppTest, place: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(app.get("plotly_chart")[place].proto.spec)
    return found


def test_shows_the_first_layer_with_its_figures(info: ModelInfo) -> None:
    app = page()
    assert app.title[0].value == "Weights"
    assert app.subheader[0].value == f"`{FIRST}`"
    assert metrics(app) == {
        "Weights": "65.5 k",
        "Kurtosis": "+0.80",
        "Outliers": "0.030 %",
        "Standard deviation": "0.04",
        "Largest weight": "0.158",
    }
    assert all(metric.help for metric in app.metric)
    assert table(app) == {
        "Format": ["INT4 g64 asym"], "Bits a weight": [4.3125], "SQNR (dB)": [19.4],
        "Error (% of |W|²)": [pytest.approx(1.148, abs=1e-3)], "RMS error": ["0.00429"], "Largest error": ["0.006"],
        "Outside its grid (%)": [0.0],
    }  # fmt: skip
    assert any("1,024 blocks of 64 weights" in caption.value for caption in app.caption)
    assert any("predicted KL in INT4 g64 asym, rank" in text.value for text in app.markdown)


def test_a_link_opens_its_layer_and_format(info: ModelInfo) -> None:
    unit = info.units[9].name
    app = page(unit=unit, format="int4/channel/sym", counts="log", after="hidden")
    assert app.subheader[0].value == f"`{unit}`"
    assert app.selectbox(key="format:scale").value == "channel"
    assert app.segmented_control(key="widget:counts").value == "log"
    figure = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert figure["layout"]["yaxis"]["type"] == "log"
    assert "int4/channel/sym" not in [trace.get("name") for trace in figure["data"]]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"unit": "no.such.layer"}, "There is no layer named “no.such.layer”"),
        ({"format": "int99/g64/asym"}, "Showing int4/g64/asym instead"),
        ({"format": "<b>"}, "makes no sense here"),
        ({"counts": "cubic"}, "makes no sense here"),
    ],
)
def test_nonsense_in_a_link_is_answered_with_a_sentence(
    info: ModelInfo, query: dict[str, str], sentence: str
) -> None:
    app = page(**query)
    assert any(sentence in warning.value for warning in app.warning)
    assert app.subheader[0].value == f"`{FIRST}`"


def test_filters_narrow_the_layers_and_take_the_choice_along(info: ModelInfo) -> None:
    app = page()
    app.selectbox(key="layer:block").select("3").run()
    assert len(app.selectbox(key="layer:pick").options) == 7
    assert app.subheader[0].value == "`model.layers.3.self_attn.q_proj.weight`"
    app.selectbox(key="layer:role").select("up_proj").run()
    assert app.subheader[0].value == "`model.layers.3.mlp.up_proj.weight`"
    app.selectbox(key="layer:role").select("embed_tokens").run()
    assert app.selectbox(key="layer:block").value == "all", "filters that exclude every layer give way"
    assert not app.exception


def test_steps_go_round(info: ModelInfo) -> None:
    app = page(unit=info.units[0].name)
    app.button(key="layer:step:Previous").click().run()
    assert app.subheader[0].value == f"`{info.units[-1].name}`"
    app.button(key="layer:step:Next").click().run()
    assert app.subheader[0].value == f"`{info.units[0].name}`"


def test_the_original_is_exact_and_padding_is_said(home: Path, info: ModelInfo) -> None:
    view = made_results.layer_view(FIRST, "int4/g128/asym")
    made = replace(view, formats=(replace(view.formats[0], padded=3072, sqnr_db=None, kept=0.01),))
    keep(home, LayerRequest(info.ref, info.fingerprint, (FIRST,), ("int4/g128/asym",), BINS), made)
    app = page(format="int4/g128/asym")
    assert table(app)["SQNR (dB)"] == [None], "shown as exact"
    assert table(app)["Kept in 16 bits (%)"] == [1.0]
    assert any("3,072 zeros fill the last group" in caption.value for caption in app.caption)


# --- several formats, and a block


THREE = ("int4/g64/asym", "int2/g64/asym", "nf4/g64")


def test_a_link_lays_three_formats_over_the_weights(home: Path, info: ModelInfo) -> None:
    view = made_results.layer_view(FIRST, *THREE)
    keep(home, LayerRequest(info.ref, info.fingerprint, (FIRST,), THREE, BINS), view)
    app = page(also="int2,nf4/g64")
    assert app.multiselect(key="also:formats").value == ["int2/g64/asym", "nf4/g64"]
    assert table(app)["Format"] == ["INT4 g64 asym", "INT2 g64 asym", "NF4 g64"]
    names = [trace.get("name") for trace in chart(app, 0)["data"]]
    assert names == ["original", "INT4", "grid of INT4", "INT2", "grid of INT2", "NF4", "grid of NF4"]
    assert [trace["name"] for trace in chart(app, 1)["data"]] == ["INT4", "INT2", "NF4"]
    app.multiselect(key="also:formats").set_value([]).run()
    assert app.session_state["url:also"] == ()
    assert table(app)["Format"] == ["INT4 g64 asym"]


def test_formats_to_compare_with_that_are_none_are_named(info: ModelInfo) -> None:
    app = page(also="int99,int4/g64/asym")
    assert any("No format is called int99" in warning.value for warning in app.warning)
    assert table(app)["Format"] == ["INT4 g64 asym"], "a format is not compared with itself"


def test_a_whole_block(home: Path, info: ModelInfo) -> None:
    names = tuple(unit.name for unit in info.units if unit.block == 0)
    view = replace(made_results.layer_view(), units=names, parameters=500_000)
    keep(home, LayerRequest(info.ref, info.fingerprint, names, ("int4/g64/asym",), BINS), view)
    app = page(unit=FIRST, scope="block")
    assert app.subheader[0].value == "Block 0, 7 layers"
    assert metrics(app)["Weights"] == "500 k"
    app.segmented_control(key="widget:scope").set_value("layer").run()
    assert app.subheader[0].value == f"`{FIRST}`"
    assert not page(unit=info.units[0].name, scope="block").exception, "what lies in no block is shown alone"


# --- loading and failed


def test_a_view_that_is_worked_out_shows_its_progress(home: Path, info: ModelInfo) -> None:
    asked = LayerRequest(info.ref, info.fingerprint, (FIRST,), ("int4/g128/asym",), BINS, roots=roots(info))
    running = job(home, asked, "running", "Loading the model")
    app = page(format="int4/g128/asym")
    assert app.button(key=f"cancel:here:{running.id}").label == "Cancel"
    assert not app.metric


def test_a_view_that_failed_says_why_and_can_be_tried_again(home: Path, info: ModelInfo) -> None:
    asked = LayerRequest(info.ref, info.fingerprint, (FIRST,), ("int4/g128/asym",), BINS, roots=roots(info))
    failed = job(home, asked, "failed", "It broke.", "Mend it.")
    app = page(format="int4/g128/asym")
    assert "It broke." in texts(app)
    assert app.button(key=f"retry:{failed.id}").label == "Retry"


def roots(info: ModelInfo) -> tuple[str, ...]:
    return workspace().inspect_request(info.ref).roots


# --- closer looks


def test_channels_name_the_one_that_reaches_furthest(info: ModelInfo) -> None:
    app = page(unit=FIRST)
    sentence = "Output 3 of 256 reaches furthest: 0.6, 6.0 times as far as the median output, an outlier."
    assert sentence in texts(app)
    assert "256 outputs are drawn in 16 bins." in texts(app)
    app.segmented_control(key="widget:along").set_value("inputs").run()
    assert "Input 7 of 256 reaches furthest" in texts(app)
    assert app.session_state["url:along"] == "inputs"


def test_activations_are_read_on_request_and_stand_beside_the_weights(home: Path, info: ModelInfo) -> None:
    app = page(unit=FIRST, part="activations")
    assert "up to 8,192 tokens of the bundled calibration text" in texts(app)
    assert any(button.label == "Read what enters the layer" for button in app.button)
    keep(
        home,
        InputsRequest(info.ref, info.fingerprint, FIRST),
        made_results.layer_inputs(unit_of(info, FIRST)),
    )
    app.run()
    assert "Activations: Input 5 of 256 reaches furthest: 8, 8.0 times as far as the median input" in texts(
        app
    )
    assert "On 8,192 tokens of bundled calibration text" in texts(app)
    assert "yaxis2" in chart(app, 2)["layout"]


def test_a_layer_that_multiplies_nothing_says_so(home: Path, info: ModelInfo) -> None:
    asked = InputsRequest(info.ref, info.fingerprint, FIRST, roots=roots(info))
    job(
        home, asked, "failed", f"{FIRST} multiplies no input, so there is nothing to show.", "Choose another."
    )
    assert "multiplies no input" in texts(page(unit=FIRST, part="activations"))


def maps(home: Path, info: ModelInfo, *areas: tuple[int, int, int, int], cells: int = 128) -> None:
    unit = unit_of(info, FIRST)
    for area in areas or ((0, unit.rows, 0, unit.columns),):
        top, bottom, left, right = area
        asked = WindowRequest(
            info.ref, info.fingerprint, FIRST, "int4/g64/asym", (top, bottom), (left, right), cells
        )
        keep(home, asked, made_results.window(unit, area=area, cells=cells))


def unit_of(info: ModelInfo, name: str) -> Unit:
    return next(unit for unit in info.units if unit.name == name)


def test_single_weights_by_link_and_by_numbers(home: Path, info: ModelInfo) -> None:
    maps(home, info, (0, 256, 0, 256), (10, 20, 30, 50), (5, 25, 20, 60))
    maps(home, info, (11, 12, 31, 32), (12, 14, 32, 34), cells=1)
    app = page(unit=FIRST, part="map", window="10-19,30-49", spot="11-11,31-31")
    assert "Outputs 10 to 19, inputs 30 to 49" in texts(app)
    assert "**Output 11, input 31, −0.156 becomes −0.172, error −0.0156.**" in texts(app)
    assert [app.number_input(key=f"map:end:{place}").value for place in range(4)] == [10, 19, 30, 49]
    app.button(key="map:out").click().run()
    assert app.session_state["url:window"] == (5, 25, 20, 60)
    app.button(key="map:whole").click().run()
    assert not app.session_state["url:window"]
    assert app.button(key="map:out").disabled
    for place, value in enumerate((19, 10, 30, 49)):
        app.number_input(key=f"map:end:{place}").set_value(value)
    next(button for button in app.button if button.label == "Show this part").click().run()
    assert app.session_state["url:window"] == (10, 20, 30, 50), "ends in either order"
    app.number_input(key="map:row").set_value(12)
    app.number_input(key="map:column").set_value(32)
    maps(home, info, (12, 13, 32, 33), cells=1)
    next(button for button in app.button if button.label == "Tell this weight").click().run()
    assert "Output 12, input 32" in texts(app)


def test_of_a_cell_of_several_weights_the_largest_is_told(home: Path, info: ModelInfo) -> None:
    maps(home, info)
    maps(home, info, (12, 14, 32, 34), cells=1)
    said = texts(page(unit=FIRST, part="map", spot="12-13,32-33"))
    assert "Of outputs 12 to 13 and inputs 32 to 33 the largest is **output 13, input 33" in said


def test_parts_that_the_layer_lacks_give_way(home: Path, info: ModelInfo) -> None:
    maps(home, info)
    app = page(unit=FIRST, part="map", window="0-999,0-5", spot="5-3,0-5")
    assert "Outputs 0 to 255, inputs 0 to 255" in texts(app)
    assert "lies outside this layer" in texts(app)


def test_a_part_that_is_no_rectangle_is_ignored_with_a_sentence(home: Path, info: ModelInfo) -> None:
    maps(home, info)
    app = page(unit=FIRST, part="map", window="everything")
    assert any("makes no sense here" in warning.value for warning in app.warning)


# --- the worst layers


def test_the_ten_worst_layers_by_their_spread(home: Path, info: ModelInfo) -> None:
    app = page(unit=FIRST, part="worst", worst="kurtosis")
    assert any(button.label == "Read the weights" for button in app.button)
    keep(home, workspace().weights_request(info.ref), made_results.weight_statistics(info))
    app.run()
    worst = [button for button in app.button if str(button.key).startswith("worst:")]
    assert [button.key for button in worst] == [f"worst:{unit.name}" for unit in info.units[-2:-12:-1]]
    assert worst[0].label == "1. block 7 · up_proj · 512 × 256 — **+5.50**"
    worst[3].click().run()
    assert app.session_state["url:unit"] == info.units[-5].name
    assert app.session_state["url:part"] == "worst"
    assert app.button(key=f"worst:{info.units[-5].name}").disabled, "it is open"


def test_the_ten_worst_layers_by_their_error_in_the_format(home: Path, info: ModelInfo) -> None:
    """The sweep has the format; of another the error is worked out on request, and is then no sweep of its own."""
    errors = dict(zip(made_results.table(info).units, made_results.table(info).weight, strict=True))
    app = page(unit=FIRST, part="worst")
    worst = [button for button in app.button if str(button.key).startswith("worst:")]
    order = sorted(errors, key=lambda name: -errors[name][2])[:10]
    assert [button.key for button in worst] == [f"worst:{name}" for name in order]
    assert f"**{-10 * math.log10(errors[order[0]][2]):.1f} dB**" in worst[0].label
    app = page(unit=FIRST, part="worst", format="int4/channel/sym")
    assert any(button.label == "Round every layer" for button in app.button)
    asked = SensitivityRequest(info.ref, info.fingerprint, ("int4/channel/sym",), score="weight")
    only = replace(
        made_results.table(info), formats=("int4/channel/sym",), tokens=0, fisher=(), fisher_stderr=(), output=(),
        weight=tuple((row[0],) for row in made_results.table(info).weight), state="",
    )  # fmt: skip
    keep(home, asked, only)
    app.run()
    assert any(str(button.key).startswith("worst:") for button in app.button)
    assert "On the weights alone" not in texts(open_page("sensitivity", tokens="512")), (
        "the sweep is shown still"
    )
