"""The weights page on a seeded store: no engine runs, and nothing a link can say breaks it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from quant_core.schema import LayerRequest, ModelInfo, replace
from quant_core.store import Store
from tests import made_results
from tests.served_pages import open_page
from ui.weight_view import BINS

FIRST = "model.layers.0.self_attn.q_proj.weight"


def page(**query: str) -> AppTest:
    return open_page("weights", **query)


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def test_shows_the_first_layer_with_its_figures(info: ModelInfo) -> None:
    app = page()
    assert app.title[0].value == "Weights"
    assert app.subheader[0].value == f"`{FIRST}`"
    assert metrics(app) == {
        "SQNR": "19.4 dB",
        "Bits a weight": "4.31 bits",
        "Outside its grid": "0.0 %",
        "Outliers": "0.030 %",
        "Kurtosis": "+0.80",
        "Standard deviation": "0.04",
    }
    assert all(metric.help for metric in app.metric)
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


def test_the_original_is_exact_and_padding_is_said(info: ModelInfo, tmp_path: Path) -> None:
    store = Store(tmp_path)
    view = replace(made_results.layer_view(), padded=3072, sqnr_db=None, grid=())
    store.results.put(LayerRequest(info.ref, info.fingerprint, (FIRST,), ("int4/g128/asym",), BINS), view)
    store.close()
    app = page(format="int4/g128/asym")
    assert metrics(app)["SQNR"] == "exact"
    assert any("3,072 zeros fill the last group" in caption.value for caption in app.caption)
