"""Choosing formats, methods and what lies beyond weights, from a catalog of things that no page has heard of."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from quant_core.schema import (
    Budget,
    Catalog,
    ChannelsRequest,
    EvaluateRequest,
    LayerRequest,
    ModelInfo,
    ScoreTable,
    SensitivityRequest,
    Setup,
    replace,
)
from quant_core.workspace import DEFAULT_FORMATS, Workspace
from tests import made_results
from tests.made_catalog import CATALOG
from tests.served_pages import MEASURED, keep, open_page, texts
from ui import format_names
from ui.format_names import columns, default_format, format_name, short_names, source_text
from ui.jobs import workspace
from ui.weight_view import BINS

FIRST = "model.layers.0.self_attn.q_proj.weight"
TURBO = "turbo3/b128/float/dq/keep0.5@wiggle:order=none"
pytestmark = pytest.mark.usefixtures("made_catalog")


def weights_page(home: Path, info: ModelInfo, name: str, *others: str, setup: Setup | None = None) -> AppTest:
    """The weights page in a format whose view is in the store, as are those of ``others``."""
    for each in (name, *others):
        view = replace(made_results.layer_view(FIRST, each), notes=("It went otherwise.",))
        keep(home, LayerRequest(info.ref, info.fingerprint, (FIRST,), (each,), BINS, setup or Setup()), view)
    return open_page("weights", unit=FIRST, format=name)


def chosen(app: AppTest) -> dict[str, object]:
    """What each field of the picker shows, by its part of the name."""
    return {
        str(box.key).removeprefix("format:"): box.value for box in app.selectbox if "format:" in str(box.key)
    }


# --- one format


def test_every_part_of_a_name_has_its_field(home: Path, info: ModelInfo) -> None:
    app = weights_page(home, info, TURBO)
    assert chosen(app) == {
        "kind": "Brand new", "family": "turbo3", "scale": "b128", "symmetry": "float", "keep": 5, "double": True,
        "method": "wiggle", "option:order": "none",
    }  # fmt: skip
    said = texts(app)
    assert "Turbo 3 b128 float dq + 0.5 % kept · Wiggle (order none)" in said
    assert "Three bits, faster. (Nobody 2031, [arXiv:3101.01234](https://arxiv.org/abs/3101.01234))" in said
    assert "Tries both neighbours." in said
    assert "Learns from the calibration text" in said
    assert "It went otherwise." in said
    assert not app.exception


def test_fields_that_a_family_lacks_are_not_shown(home: Path, info: ModelInfo) -> None:
    app = weights_page(home, info, "q9_k")
    assert set(chosen(app)) == {"kind", "family", "keep", "method"}
    assert "Not here: Wiggle (Its blocks lie in blocks.)" in texts(app)
    assert app.selectbox(key="format:method").options == ["to nearest", "Folding"]


@pytest.mark.parametrize(
    ("part", "value", "name"),
    [
        ("scale", "g256", "turbo3/g256/float/dq/keep0.5@wiggle:order=none"),
        ("symmetry", "sym", "turbo3/b128/sym/dq/keep0.5@wiggle:order=none"),
        ("keep", 0, "turbo3/b128/float/dq@wiggle:order=none"),
        ("double", False, "turbo3/b128/float/keep0.5@wiggle:order=none"),
        ("option:order", "falling", "turbo3/b128/float/dq/keep0.5@wiggle"),
        ("method", "nearest", "turbo3/b128/float/dq/keep0.5"),
        ("kind", "Integer", "int3/g128/asym/keep0.5@wiggle:order=none"),
        ("kind", "Super-blocks", "q9_k/keep0.5"),
    ],
)
def test_a_field_changes_its_part_and_what_no_longer_fits(
    home: Path, info: ModelInfo, part: str, value: object, name: str
) -> None:
    app = weights_page(home, info, TURBO, name)
    app.selectbox(key=f"format:{part}").set_value(value).run()
    assert not app.exception
    assert app.session_state["url:format"] == name


def test_the_stored_bits_of_the_choice_are_said(home: Path, info: ModelInfo) -> None:
    """int4/g64/asym: 4 bits a code, 20 for the scale and zero point of 64 of them."""
    assert f"{4 + 20 / 64:.2f} bits a weight here" in texts(weights_page(home, info, "int4/g64/asym"))


def test_weights_are_shown_after_the_rewrites(home: Path, info: ModelInfo) -> None:
    for each in info.units:
        view = made_results.layer_view(each.name)
        request = LayerRequest(
            info.ref, info.fingerprint, (each.name,), ("int4/g64/asym",), BINS, Setup(("smooth",))
        )
        keep(home, request, view)
        ranges = ChannelsRequest(
            info.ref, info.fingerprint, each.name, "int4/g64/asym", setup=Setup(("smooth",))
        )
        keep(home, ranges, made_results.channel_ranges(each))
        break
    app = open_page("weights", unit=info.units[0].name, transforms="smooth", kv="int8")
    assert "shown after Smoothing." in texts(app)
    assert app.metric


# --- several formats


def test_columns_are_formats_by_methods(home: Path, info: ModelInfo) -> None:
    made = columns(["nf4", "int4", "q9_k", "turbo3", "nonsense"], 64, ["nearest", "wiggle"])
    assert made.names == (
        "int4/g64/asym", "int4/g64/asym@wiggle", "nf4/g64", "q9_k", "turbo3/g16/sym", "turbo3/g16/sym@wiggle",
    )  # fmt: skip
    assert made.refused == {"wiggle": ("nf4", "q9_k")}
    assert made.unknown == ("nonsense",)


def test_a_family_that_takes_no_chosen_method_stays_at_nearest(home: Path, info: ModelInfo) -> None:
    assert columns(["q9_k", "int3"], 32, ["wiggle"]).names == ("int3/g32/asym@wiggle", "q9_k")


def test_a_method_in_a_typed_name_stays(home: Path, info: ModelInfo) -> None:
    assert columns(["int3/keep1@wiggle:order=none"], 64, ["nearest"]).names == ()
    made = columns(["int3/keep1.0@wiggle:order=none", "original"], 64, ["nearest"])
    assert made.names == ("int3/g64/asym/keep1.0@wiggle:order=none",)


def test_the_order_of_choosing_makes_no_other_sweep(home: Path, info: ModelInfo) -> None:
    names = ["turbo3", "int8", "nf4", "int2", "fp8_e4m3"]
    assert columns(names, 64, ["nearest"]) == columns(names[::-1], 64, ["nearest"])


def test_the_nearest_group_size_is_taken(home: Path, info: ModelInfo) -> None:
    assert default_format("turbo3", 64) == "turbo3/g16/sym"
    assert default_format("turbo3", 200) == "turbo3/g256/sym"


def test_a_sweep_of_two_methods_asks_for_both(home: Path, info: ModelInfo) -> None:
    app = open_page("sensitivity", formats="int3,q9_k", rounding="nearest,wiggle")
    assert "56 layers in 3 formats" in texts(app)
    assert "Wiggle is left out for Q9_K. Its blocks lie in blocks." in texts(app)
    names = ("int3/g64/asym", "int3/g64/asym@wiggle", "q9_k")
    table = replace(made_results.table(info), seed=0)
    keep(home, SensitivityRequest(info.ref, info.fingerprint, names), table)
    app.run()
    assert not any(button.label == "Score the layers" for button in app.button)


def test_a_kind_is_added_and_taken_away_by_one_press(home: Path, info: ModelInfo) -> None:
    app = open_page("sensitivity", formats="int3")
    app.button(key="formats:kind:Brand new").click().run()
    assert app.session_state["url:formats"] == ("int3", "turbo3")
    app.button(key="formats:kind:Brand new").click().run()
    assert app.session_state["url:formats"] == ("int3",)
    app.button(key="formats:all").click().run()
    assert set(app.session_state["url:formats"]) == set(format_names.families())
    app.pills(key="formats:rounding").set_value(["wiggle"]).run()
    assert app.session_state["url:rounding"] == ("wiggle",)
    assert not app.exception


def test_names_on_screen(home: Path, info: ModelInfo) -> None:
    assert format_name("int3/g64/asym@wiggle") == "INT3 g64 asym · Wiggle"
    assert format_name("original") == "Original"
    assert format_name("gone9/g64") == "gone9 g64"
    assert short_names(("int3/g64/asym", "int3/g64/asym@wiggle", "nf4/g64")) == {
        "int3/g64/asym": "INT3", "int3/g64/asym@wiggle": "INT3 · Wiggle", "nf4/g64": "NF4",
    }  # fmt: skip
    assert source_text("A, arXiv:2210.17323; B, arXiv:2306.00978").count("](https://arxiv.org/abs/2") == 2


# --- a recipe of several methods


@pytest.fixture
def mixed(home: Path, info: ModelInfo) -> ScoreTable:
    """A sweep of one format in two ways of rounding, in the store: the second is better for odd units."""
    names = ("int3/g64/asym", "int3/g64/asym@wiggle", "int8/g64/asym")
    made = made_results.table(info)
    table = replace(
        made, formats=names, padded=tuple((0, 0, 0) for _ in made.units),
        storage_bits=tuple((row[1], row[1], row[3]) for row in made.storage_bits),
        fisher=tuple((0.004, 0.003 + 0.002 * (place % 2), 1e-6) for place in range(len(made.units))),
        fisher_stderr=tuple((1e-4, 1e-4, 1e-8) for _ in made.units), weight=(), output=(),
        notes=("A note.", "Another note."),
    )  # fmt: skip
    keep(home, SensitivityRequest(info.ref, info.fingerprint, names), table)
    return table


LINK = {"formats": "int3,int8/g64/asym", "rounding": "nearest,wiggle", "budget": "3.3bits"}


def recipe_page(home: Path, info: ModelInfo, table: ScoreTable, **query: str) -> AppTest:
    asked = SensitivityRequest(
        info.ref,
        info.fingerprint,
        ("int3/g64/asym", "int3/g64/asym@wiggle", "int8/g64/asym", "int8/g64/asym@wiggle"),
    )
    keep(home, asked, table)
    return open_page("recipe", **{**LINK, **query})


def test_a_recipe_takes_the_better_method_a_layer(home: Path, info: ModelInfo, mixed: ScoreTable) -> None:
    app = recipe_page(home, info, mixed)
    assignment = app.session_state["draft:now"].assignment
    assert {assignment[unit] for unit in mixed.units[::2]} == {"int3/g64/asym@wiggle"}
    assert {assignment[unit] for unit in mixed.units[1::2]} == {"int3/g64/asym"}
    assert [button.label for button in app.button if str(button.key).startswith("preset:")] == [
        "INT3 · 3.30 bits", "INT8 · 8.38 bits",
    ]  # fmt: skip
    assert any(expander.label == "2 notes" for expander in app.expander)


def test_a_method_is_set_by_hand_and_pinned(home: Path, info: ModelInfo, mixed: ScoreTable) -> None:
    app = recipe_page(home, info, mixed)
    unit = mixed.units[1]
    app.multiselect(key="edit:chosen").set_value([unit]).run()
    field = app.segmented_control(key="edit:format")
    assert field.options[1].startswith("INT3 · Wiggle · ")
    field.set_value("int3/g64/asym@wiggle").run()
    assert app.session_state["draft:now"].pins == {unit: "int3/g64/asym@wiggle"}
    app.session_state["edit:tab"] = "Pins (1)"
    app.run()
    assert not app.exception
    assert app.dataframe[0].value["Format"].tolist() == ["INT3 g64 asym · Wiggle"]


# --- beyond weights


def test_what_the_catalog_lacks_is_not_offered(
    monkeypatch: pytest.MonkeyPatch, home: Path, info: ModelInfo
) -> None:
    bare = Catalog(families=CATALOG.families)
    monkeypatch.setattr(Workspace, "catalog", bare)
    app = open_page("recipe", kv="int8")
    assert not any(expander.label.startswith("Beyond weights") for expander in app.expander)
    assert not app.exception


def test_a_setup_in_the_link_goes_into_the_measurement(
    home: Path, info: ModelInfo, table: ScoreTable
) -> None:
    app = open_page("recipe", kv="int8", activations="int8/token")
    assert any(
        expander.label == "Beyond weights: activations INT8 a token · INT8 KV cache"
        for expander in app.expander
    )
    assignment = app.session_state["draft:now"].assignment
    changed = {unit: name for unit, name in assignment.items() if name != "original"}
    setup = Setup(activations="int8/token", kv_cache="int8")
    keep(home, EvaluateRequest(info.ref, info.fingerprint, changed, setup=setup), MEASURED)
    app.run()
    assert "Measured KL" in [metric.label for metric in app.metric]
    assert "nothing of what lies beyond weights: activations INT8 a token · INT8 KV cache." in texts(app)
    app.selectbox(key="setup:kv").set_value("").run()
    assert "Measured KL" not in [metric.label for metric in app.metric], (
        "it was measured with the cache rounded"
    )


def test_a_transform_that_a_model_cannot_take_is_refused_with_its_reason(home: Path, info: ModelInfo) -> None:
    app = open_page("recipe", transforms="spin")
    assert app.multiselect(key="setup:transforms").options == ["Smoothing", "Loosening"]
    assert "Narrowing. It does not know how the layers of LlamaForCausalLM feed each other." in texts(app)
    assert "Not for LlamaForCausalLM: Spinning. It has no room to turn." in texts(app)
    assert app.get("plotly_chart"), "the scores without it hold"


def test_scores_hold_for_the_rewritten_model_alone(home: Path, info: ModelInfo) -> None:
    app = open_page("recipe", transforms="smooth")
    assert "No layer of this model has been scored yet after Smoothing." in texts(app)
    table = replace(made_results.table(info), transforms=("smooth",))
    names = tuple(
        default_format(family, 64) for family in ("int2", "int3", "int4", "int5", "int6", "int8", "nf4")
    )
    keep(home, SensitivityRequest(info.ref, info.fingerprint, names, setup=Setup(("smooth",))), table)
    app.run()
    assert app.get("plotly_chart")


def test_a_recipe_brings_its_setup(home: Path, info: ModelInfo, table: ScoreTable) -> None:
    desk = Workspace(home)
    solution = desk.solve(info, table, Budget("bits", 4.0))
    setup = Setup(kv_cache="int8")
    kept = desk.save_recipe(desk.make_recipe(info, table, solution, Budget("bits", 4.0), setup=setup))
    app = open_page("recipe", recipe=kept)
    assert app.session_state["url:kv"] == "int8"
    app.selectbox(key="setup:kv").set_value("").run()
    again = app.session_state["url:recipe"]
    assert again != kept
    assert desk.recipe(again).setup == Setup()
    app.switch_page("pages/compare.py").run()
    assert not app.exception
    assert app.session_state["url:kv"] == ""


def test_a_rewrite_that_cuts_the_head_loose_is_counted(home: Path, info: ModelInfo) -> None:
    """The head's own copy of the embedding, 16 bits a value, comes on top, and the recipe and its file name it."""
    names = tuple(default_format(family, 64) for family in DEFAULT_FORMATS)
    for transforms in ((), ("loosen",)):
        request = SensitivityRequest(info.ref, info.fingerprint, names, setup=Setup(transforms))
        keep(home, request, replace(made_results.table(info), transforms=transforms))
    sizes = []
    for query in ({}, {"transforms": "loosen"}):
        app = open_page("recipe", **query)
        sizes.append(workspace().recipe(saved(app)))
        assert not app.exception
    tied, loose = sizes
    assert loose.total_bytes - tied.total_bytes == 8192 * 256 * 2
    assert set(loose.units) - set(tied.units) == {"lm_head.weight"}
    assert workspace().read_recipe(workspace().recipe_text(loose, "json"), info) == loose
    assert workspace().read_recipe(workspace().recipe_text(tied, "json"), info) == tied


def saved(app: AppTest) -> str:
    app.button(key="save").click().run()
    return str(app.session_state["url:recipe"])
