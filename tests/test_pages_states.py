"""The five states of every page, as a table: empty, loading, partial, failed, finished.

Each cell makes what the store holds, opens the page as a reload would, and says what must stand there; a state that
cannot occur is named with the reason. What holds of every page in a state is checked for all cells.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from streamlit.testing.v1 import AppTest

from quant_core.schema import (
    Event,
    Exported,
    ExportedFile,
    ExportRequest,
    Job,
    LayerRequest,
    LossEvent,
    ModelInfo,
    ModelRef,
    Request,
    Result,
    ScoresEvent,
    SensitivityRequest,
    TokenEvent,
    Training,
    TrainRequest,
    replace,
)
from quant_core.store import Store
from quant_core.store.kinds import load_request
from quant_core.workspace import Workspace, browser_roots
from tests import made_results
from tests.served_pages import MEASURED, WRITTEN, job, keep, open_page, seed, texts
from ui.entry import PAGES
from ui.weight_view import BINS

NOTHING: Mapping[str, str] = {}
STATES = ("empty", "loading", "partial", "failed", "finished")
ELSEWHERE = {"checkpoint", "learn"}
"""Pages whose own files go through their states: one needs a quantized checkpoint, the other's lessons do the work."""
WHY, REMEDY = "The text is too short.", "Paste more."


class Cell(NamedTuple):
    """How a page comes into a state, and what must and must not be readable there."""

    make: Callable[[Path], AppTest]
    shown: tuple[str, ...]
    absent: tuple[str, ...] = ()


# --- making what the store holds


def made(home: Path, tables: bool = True, views: int = 2) -> ModelInfo:
    """The made model, opened, with scores if asked."""
    return seed(home, tables, blocks=2, views=views)


def page(stem: str, tables: bool = True, query: Mapping[str, str] = NOTHING) -> Callable[[Path], AppTest]:
    """The page on the made model."""

    def make(home: Path) -> AppTest:
        made(home, tables)
        return open_page(stem, **query)

    return make


def asked(home: Path, app: AppTest, label: str) -> tuple[Job, Request]:
    """Press the button; the job that it starts, which no worker takes, and what it asks."""
    store = Store(home)
    store.place.assign(os.getpid(), ready=True)
    next(button for button in app.button if button.label.startswith(label)).click().run()
    (found,) = [each for each in store.jobs.recent(9) if each.state == "queued"]
    request = load_request(found.kind, store.jobs.ticket(found.id).request)
    store.close()
    return found, request


def pressed(
    stem: str, label: str, state: str, *events: Event, tables: bool = True, query: Mapping[str, str] = NOTHING
) -> Callable[[Path], AppTest]:
    """The page after its button was pressed, the work came so far, and the page was loaded again."""

    def make(home: Path) -> AppTest:
        app = page(stem, tables, query)(home)
        found, _ = asked(home, app, label)
        store = Store(home)
        store.jobs.take(found.id)
        store.jobs.begin(found.id)
        for place, event in enumerate(events):
            store.jobs.emit(found.id, place, event)
        if state == "failed":
            store.jobs.fail(found.id, WHY, REMEDY)
        else:
            store.jobs.report(found.id, 0.42, "half is done")
        store.close()
        return open_page(stem, **query)

    return make


def answered(
    stem: str, label: str, answer: Callable[[Path, Request], Result], query: Mapping[str, str] = NOTHING
) -> Callable[[Path], AppTest]:
    """The page after its button was pressed and the work was done."""

    def make(home: Path) -> AppTest:
        app = page(stem, query=query)(home)
        found, request = asked(home, app, label)
        store = Store(home)
        store.jobs.take(found.id)
        store.jobs.begin(found.id)
        store.finish(found, request, answer(home, request))
        store.close()
        return open_page(stem, **query)

    return make


def opening(stem: str, state: str) -> Callable[[Path], AppTest]:
    """The page with another model on its way or out of reach."""

    def make(home: Path) -> AppTest:
        made(home)
        workspace = Workspace(home, roots=browser_roots())
        told = ("Loading the model", "") if state == "running" else (WHY, REMEDY)
        job(home, workspace.inspect_request(ModelRef("lab/large")), state, *told)
        workspace.close()
        return open_page(stem, model="lab/large")

    return make


def _opened_from_start(state: str) -> Callable[[Path], AppTest]:
    def make(home: Path) -> AppTest:
        workspace = Workspace(home, roots=browser_roots())
        told = ("Loading the model", "") if state == "running" else (WHY, REMEDY)
        job(home, workspace.inspect_request(ModelRef("bundled")), state, *told)
        workspace.close()
        app = open_page("start")
        return app.button(key="picker:open-bundled").click().run()

    return make


def _few_scores(home: Path) -> AppTest:
    info = made(home, tables=False)
    whole = made_results.table(info)
    part = replace(
        whole, **{name: getattr(whole, name)[:10] for name in
                  ("units", "storage_bits", "padded", "fisher", "fisher_stderr", "weight", "output")},
    )  # fmt: skip
    keep(home, SensitivityRequest(info.ref, info.fingerprint, whole.formats), part)
    return open_page("model", overlay="sensitivity")


def _look(state: str) -> Callable[[Path], AppTest]:
    """The weights page whose view is on its way or failed."""

    def make(home: Path) -> AppTest:
        info = made(home, views=0)
        unit = next(unit for unit in info.units if unit.decided).name
        request = LayerRequest(info.ref, info.fingerprint, (unit,), ("int4/g64/asym",), BINS)
        job(home, request, state, *((WHY, REMEDY) if state == "failed" else ("half is done",)))
        return open_page("weights", unit=unit)

    return make


def _one_run(state: str, before: bool) -> Callable[[Path], AppTest]:
    def make(home: Path) -> AppTest:
        info = made(home, tables=before)
        request = SensitivityRequest(info.ref, info.fingerprint, ("int4/g64/asym",))
        job(home, request, state, *((WHY, REMEDY) if state == "failed" else ("half is done",)))
        return open_page("runs")

    return make


def _exported(home: Path, request: Request) -> Exported:
    assert isinstance(request, ExportRequest)
    folder = Path(request.folder)
    folder.mkdir(parents=True)
    files = (ExportedFile("model.safetensors", 9_000_000, "b" * 64),)
    return Exported("gptq", str(folder), files, 14, 14, 0.0, 3.0)


def _trained(_: Path, request: Request) -> Training:
    assert isinstance(request, TrainRequest)
    return made_results.training(request, "a" * 24)


def _so_far() -> ScoresEvent:
    return ScoresEvent(replace(made_results.table(made_results.model(2)), tokens=2048, sequences=8))


FITS = {"target": "gptq", "runtime": "gptq"}
TABLE: dict[tuple[str, str], Cell | str] = {
    ("start", "empty"): Cell(lambda _: open_page("start"), ("Open a model above", "Open the bundled model")),
    ("start", "loading"): Cell(_opened_from_start("running"), ("Loading the model", "42 %")),
    ("start", "partial"): Cell(
        pressed("start", "Recommend a recipe", "running"), ("half is done", "A made model** is open", "Scores")
    ),
    ("start", "failed"): Cell(_opened_from_start("failed"), ("Never mind",)),
    ("start", "finished"): Cell(page("start"), ("A made model** is open", "Recommend a recipe")),
    ("model", "empty"): Cell(page("model", False, {"overlay": "sensitivity"}), ("Find its sensitive layers",)),
    ("model", "loading"): Cell(opening("model", "running"), ("Loading the model", "Open another model")),
    ("model", "partial"): Cell(_few_scores, ("4 layers have no score in this sweep and stay grey",)),
    ("model", "failed"): Cell(opening("model", "failed"), ("Open the bundled model",)),
    ("model", "finished"): Cell(page("model"), ("Parameters", "14 layers", "Make a recipe")),
    ("weights", "empty"): "every model has layers, and the one that is open is looked at by itself",
    ("weights", "loading"): Cell(_look("running"), ("half is done",), ("SQNR",)),
    ("weights", "partial"): Cell(
        pressed("weights", "Read the weights", "running", query={"part": "worst", "worst": "kurtosis"}),
        ("half is done", "Standard deviation"),
    ),
    ("weights", "failed"): Cell(_look("failed"), ()),
    ("weights", "finished"): Cell(page("weights"), ("See what each layer costs",)),
    ("sensitivity", "empty"): Cell(page("sensitivity", False), ("Score the layers", "14 layers in 7 formats")),
    ("sensitivity", "loading"): Cell(
        pressed("sensitivity", "Score the layers", "running", tables=False), ("half is done",)
    ),
    ("sensitivity", "partial"): Cell(
        pressed("sensitivity", "Score the layers", "running", _so_far(), tables=False),
        ("So far, from 2,048 of about 8,192 tokens",),
    ),
    ("sensitivity", "failed"): Cell(pressed("sensitivity", "Score the layers", "failed", tables=False), ()),
    ("sensitivity", "finished"): Cell(page("sensitivity"), ("Turn these scores into a recipe",)),
    ("recipe", "empty"): Cell(page("recipe", False), ("Score the layers",), ("Predicted KL",)),
    ("recipe", "loading"): Cell(
        pressed("recipe", "Score the layers", "running", tables=False), ("half is done",), ("Predicted KL",)
    ),
    ("recipe", "partial"): Cell(
        pressed("recipe", "Measure it", "running"), ("half is done", "Predicted KL"), ("Measure it",)
    ),
    ("recipe", "failed"): Cell(pressed("recipe", "Measure it", "failed"), ("Predicted KL",)),
    ("recipe", "finished"): Cell(
        answered("recipe", "Measure it", lambda *_: MEASURED), ("Predicted KL", "Measured KL")
    ),
    ("train", "empty"): Cell(page("train", False), ("There is no recipe yet", "Start")),
    ("train", "loading"): Cell(pressed("train", "Start", "running"), ("half is done",)),
    ("train", "partial"): Cell(
        pressed("train", "Start", "running", *(LossEvent(step, 1 / step, 512 * step, 1.0) for step in (1, 2, 3))),
        ("half is done",),
    ),
    ("train", "failed"): Cell(pressed("train", "Start", "failed"), ()),
    ("train", "finished"): Cell(answered("train", "Start", _trained), ("KL after", "Measure it in the recipe")),
    ("compare", "empty"): Cell(page("compare", False), ("There is no recipe yet", "Write")),
    ("compare", "loading"): Cell(pressed("compare", "Write", "running"), ("half is done",)),
    ("compare", "partial"): Cell(
        pressed("compare", "Write", "running", TokenEvent("original", 0, " goose"), TokenEvent("recipe", 0, " gone")),
        ("half is done", "goose", "gone"),
    ),
    ("compare", "failed"): Cell(pressed("compare", "Write", "failed"), ()),
    ("compare", "finished"): Cell(answered("compare", "Write", lambda *_: WRITTEN), ("house", "home")),
    ("export", "empty"): Cell(page("export", False), ("There is no recipe yet", "Make a recipe")),
    ("export", "loading"): Cell(pressed("export", "Write for", "running", query=FITS), ("half is done",)),
    ("export", "partial"): Cell(page("export", query=FITS), ("Write for GPTQ", "JSON"), ("On disk",)),
    ("export", "failed"): Cell(pressed("export", "Write for", "failed", query=FITS), ("JSON",)),
    ("export", "finished"): Cell(answered("export", "Write for", _exported, query=FITS), ("On disk", "Read back")),
    ("runs", "empty"): Cell(page("runs", False), ("Nothing has been scored", "Score the layers")),
    ("runs", "loading"): Cell(_one_run("running", before=False), ("half is done", "It joins the list when it is done")),
    ("runs", "partial"): Cell(_one_run("running", before=True), ("half is done", "Choose a run")),
    ("runs", "failed"): Cell(_one_run("failed", before=True), ("1 failed lately",)),
    ("runs", "finished"): Cell(page("runs"), ("Choose a run", "Export all 2 shown")),
}  # fmt: skip
"""What each page shows in each state, or why it has none."""


def readable(app: AppTest) -> str:
    """All that can be read on a page but for charts and tables."""
    labels = [button.label for button in app.button]
    labels += [
        each.proto.label for kind in ("page_link", "download_button", "expander") for each in app.get(kind)
    ]
    labels += [part for metric in app.metric for part in (metric.label, metric.value)]
    labels += [bar.proto.text for bar in app.get("progress")]
    return "\n".join([texts(app), *labels, *(each.proto.body for each in app.get("html"))])


@pytest.mark.parametrize(("stem", "state"), TABLE)
def test_a_page_in_a_state(home: Path, stem: str, state: str) -> None:
    cell = TABLE[stem, state]
    if isinstance(cell, str):
        pytest.skip(cell)
    app = cell.make(home)
    assert not app.exception
    shown = readable(app)
    labels = [button.label for button in app.button]
    ways = [each.proto.label for each in app.get("page_link")]
    for part in cell.shown:
        assert part in shown
    for part in cell.absent:
        assert part not in shown
    if state == "failed":
        assert f"{WHY}\n\n{REMEDY}" in [
            error.value for error in app.error
        ] or f"{WHY} {REMEDY}" in shown.replace("\\", "")
        assert "Retry" in labels
    else:
        assert not app.error
    if state == "loading":
        assert {"Cancel", "Stop"} & set(labels) or stem == "runs", "there it stands at the foot alone"
    if state == "empty":
        assert ways or any(not button.disabled for button in app.button), "a way on"


def test_the_table_has_every_page_in_every_state() -> None:
    assert set(TABLE) == {
        (spec.stem, state) for spec in PAGES for state in STATES if spec.stem not in ELSEWHERE
    }
    assert all(isinstance(cell, Cell) or len(cell) > 20 for cell in TABLE.values()), "a reason"


def test_failed_a_recipe_that_is_not_there_leads_export_to_another(info: ModelInfo) -> None:
    app = open_page("export", recipe="0123456789ab")
    assert "no saved recipe" in "".join(error.value for error in app.error) + texts(app)
    assert app.get("page_link"), "the way to another recipe"
    assert not app.get("download_button")
