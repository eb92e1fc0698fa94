"""The Export page's files: which runtimes hold the recipe, what is in the way, writing, and what was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from quant_core.schema import Exported, ExportedFile, ExportRequest, ModelInfo, Recipe
from quant_core.targets import EXPORTS, TARGETS, suggested
from quant_core.workspace import Workspace, browser_roots
from tests import made_results
from tests.exported import mixed
from tests.served_pages import job, keep, open_page, seed, texts


def stored(home: Path, info: ModelInfo, *forms: str) -> tuple[str, Recipe]:
    """A recipe in the store that the URL can name, and itself."""
    workspace = Workspace(home)
    recipe = mixed(info, forms)
    name = workspace.save_recipe(recipe)
    workspace.close()
    return name, recipe


def request(home: Path, info: ModelInfo, recipe: Recipe, name: str) -> ExportRequest:
    workspace = Workspace(home, roots=browser_roots())
    made = workspace.export_request(info, recipe, "compressed-tensors", str(workspace.exports / name))
    workspace.close()
    return made


def test_what_is_in_the_way_leads_to_a_recipe_that_fits(home: Path) -> None:
    info = seed(home)
    name, _ = stored(home, info, "nf4")
    app = open_page("export", recipe=name, runtime="compressed-tensors")
    shown = texts(app)
    assert "compressed-tensors cannot hold this recipe" in shown
    assert "does not hold nf4" in shown
    assert not any(button.label.startswith("Write for") for button in app.button)
    links = {each.proto.label: each.proto for each in app.get("page_link")}
    link = links["Solve for compressed-tensors: the best recipe that it holds"]
    assert "target=compressed-tensors" in link.query_string


def test_a_recipe_that_fits_can_be_written(home: Path) -> None:
    info = seed(home)
    name, recipe = stored(home, info, "int4/g64/sym", "int8/channel/sym")
    app = open_page("export", recipe=name, runtime="compressed-tensors", folder="mine")
    assert any(button.label == "Write for compressed-tensors" for button in app.button)
    (home / "exports" / "mine").mkdir(parents=True)
    app.run()
    assert "holds another export already" in texts(app)
    assert not any(button.label.startswith("Write for") for button in app.button)
    done = Exported(
        "compressed-tensors", str(home / "exports" / "mine"),
        (ExportedFile("config.json", 500_000, "a" * 64), ExportedFile("model.safetensors", 9_000_000, "b" * 64)),
        56, 56, 0.0, 3.0, ("One note.",),
    )  # fmt: skip
    keep(home, request(home, info, recipe, "mine"), done)
    app.run()
    figures = {metric.label: metric for metric in app.metric}
    assert figures["On disk"].value == "9.50 MB"
    assert figures["Read back"].value == "56 weights"
    assert figures["Read back"].delta == "every value as simulated"
    assert "One note." in texts(app)
    assert any(f"vllm serve {home}/exports/mine" in code.value for code in app.code)


def test_an_answer_whose_folder_is_gone_is_asked_again(home: Path) -> None:
    info = seed(home)
    name, recipe = stored(home, info, "int4/g64/sym")
    asked = request(home, info, recipe, "gone")
    keep(home, asked, Exported("compressed-tensors", asked.folder, (), 56, 56, 0.0, 3.0))
    app = open_page("export", recipe=name, runtime="compressed-tensors", folder="gone")
    assert any(button.label == "Write for compressed-tensors" for button in app.button)


@pytest.mark.parametrize(
    ("state", "said"),
    [("running", "Writing model.layers.3"), ("failed", "The disk ran full"), ("cancelled", "cancelled")],
)
def test_writing_is_followed_and_failures_are_told(home: Path, state: str, said: str) -> None:
    info = seed(home)
    name, recipe = stored(home, info, "int4/g64/sym")
    job(home, request(home, info, recipe, "mine"), state, said)
    app = open_page("export", recipe=name, runtime="compressed-tensors", folder="mine")
    bars = [bar.proto.text for bar in app.get("progress")]
    assert any(said in text for text in [*bars, texts(app)])


def test_a_name_that_is_no_name_is_refused(home: Path) -> None:
    info = seed(home)
    name, _ = stored(home, info, "int4/g64/sym")
    app = open_page("export", recipe=name, runtime="compressed-tensors")
    app.text_input(key="export:folder").input("../mine").run()
    assert not app.exception
    assert "Use letters, digits" in texts(app)


def test_suggested_formats_are_held_and_cover_every_family_that_fits(home: Path) -> None:
    info = made_results.model(2)
    workspace = Workspace(home)
    families = {family.name: family for family in workspace.catalog.families}
    units = [unit for unit in info.units if unit.decided]
    for name in EXPORTS:
        found = suggested(TARGETS[name], units, families)
        assert found
        assert len(found) == len(set(found))
    assert suggested(TARGETS["gptq"], units, families) == tuple(
        f"int{bits}/g64/asym" for bits in (2, 3, 4, 8)
    )


def test_settings_for_other_tools_can_be_taken_or_say_what_is_in_the_way(home: Path) -> None:
    info = seed(home)
    name, _ = stored(home, info, "int4/g64/sym")
    app = open_page("export", recipe=name, tool="modelopt")
    assert any("modelopt.yaml" in each.proto.label for each in app.get("download_button"))
    app = open_page("export", recipe=name, tool="hqq")
    assert "HQQ holds int4 as float, not sym" in texts(app)
