"""The start page: ways to a model, one button to a proved recipe, and what was done before; its states one by one."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from quant_core.allocation.contenders import contenders
from quant_core.errors import ModelError
from quant_core.folders import listing
from quant_core.hub_files import blob, part
from quant_core.schema import (
    DownloadRequest,
    HubFile,
    HubModel,
    LookRequest,
    ModelInfo,
    ModelRef,
    Proof,
    ProveRequest,
    Recommendation,
    RecommendRequest,
    ScoreTable,
    Setup,
    replace,
)
from quant_core.targets.hardware import machines
from quant_core.workspace import Workspace, browser_roots
from tests.served_pages import job, keep, open_page, texts
from tests.test_pages_model import other
from tests.test_pages_recipe import draft
from ui import jobs, recommend
from ui import proof as proof_panel

WEIGHTS = HubFile("model.safetensors", 2_000_000, "a" * 64)
FOUND = HubModel("lab/tiny", "c" * 40, (HubFile("config.json", 600, "b" * 40), WEIGHTS), {"BF16": 1_000_000},
                 "apache-2.0", False)  # fmt: skip


def labels(app: AppTest) -> list[str]:
    return [button.label for button in app.button]


def press(app: AppTest, label: str) -> AppTest:
    return next(button for button in app.button if button.label == label).click().run()


# --- ways to a model


def test_a_fresh_home_starts_here_with_the_three_ways(home: Path) -> None:
    app = open_page("start")
    assert app.title[0].value == "Start"
    for way in ("The bundled model", "A folder", "The Hugging Face hub"):
        assert way in texts(app)
    assert "Open a model above" in app.info[0].value
    assert "Nothing yet" in texts(app)
    assert "Recommend a recipe" not in labels(app)


def test_a_link_that_names_a_model_leads_to_the_model(info: ModelInfo) -> None:
    app = AppTest.from_file(Path(__file__).parents[1] / "app.py", default_timeout=30)
    app.query_params["model"] = "bundled"
    assert app.run().title[0].value == "Model"


def test_a_model_is_opened_from_its_card(home: Path, info: ModelInfo) -> None:
    other(home, info, "lab/tiny")
    app = open_page("start", model="lab/tiny")
    assert "**tiny** is open" in texts(app)
    app.button(key="picker:open-bundled").click().run()
    assert "**A made model** is open" in texts(app)
    assert app.session_state["url:model"] == "bundled"


def test_a_model_that_cannot_be_opened_says_why_and_keeps_what_is_open(home: Path, info: ModelInfo) -> None:
    folder = home / "models" / "odd"
    folder.mkdir(parents=True)
    workspace = Workspace(home, roots=browser_roots())
    job(home, workspace.inspect_request(ModelRef(str(folder))), "failed", "odd is odd.", "Choose another.")
    app = open_page("start")
    app.session_state["picker:wanted"] = ModelRef(str(folder))
    app.run()
    assert app.error[0].value == "odd is odd.\n\nChoose another."
    assert "Retry" in labels(app)
    assert "**A made model** is open" in texts(app), "the open model stays open"
    app.button(key="picker:forget").click().run()
    assert not app.error


def model_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (path / "model.safetensors").write_bytes(b"x" * 5000)
    return path


def test_folders_are_walked_through_to_a_model(
    home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path_factory.mktemp("roots") / "models"
    model_folder(root / "stories" / "small")
    monkeypatch.setenv("QUANTLENS_MODEL_ROOTS", str(root))
    app = open_page("start")
    for name in (str(root), "stories"):
        press(app, name)
    press(app, "small · LlamaForCausalLM · 5.00 kB")
    assert "**small** · LlamaForCausalLM · 5.00 kB" in texts(app)
    assert app.text_input(key="picker:folder").value == str(root / "stories" / "small")
    assert not app.button(key="picker:open-folder").disabled
    press(app, "Up")
    assert "picker:open-folder" not in [button.key for button in app.button]
    press(press(app, "Up"), "All folders")
    assert str(root) in labels(app)


@pytest.mark.parametrize("path", ["no/such/folder", "/proc"])
def test_a_path_that_may_not_be_read_is_one_sentence(home: Path, path: str) -> None:
    app = open_page("start")
    app.text_input(key="picker:folder").input(path).run()
    assert path in app.error[0].value
    press(app, "All folders")
    assert not app.error


def test_links_out_of_the_roots_are_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", model_folder(tmp_path / "outside")
    inside = model_folder(root / "inside")
    (root / "plain").mkdir()
    (root / ".hidden").mkdir()
    (root / "out").symlink_to(outside)
    (root / "in").symlink_to(inside)
    borrowed = root / "borrowed"
    borrowed.mkdir()
    for file in outside.iterdir():
        (borrowed / file.name).symlink_to(file)
    found = listing(root, [root])
    assert [(each.name, bool(each.kind), each.bytes) for each in found.inside] == [
        ("in", True, 5000), ("inside", True, 5000), ("borrowed", False, 0), ("plain", False, 0),
    ]  # fmt: skip
    assert found.above is None
    assert listing(inside, [root]).above == root.resolve()
    with pytest.raises(ModelError, match="outside the folders"):
        listing(root / "out", [root])
    with pytest.raises(ModelError, match="outside the folders"):
        listing(root / "..", [root])
    assert len(listing(root, []).inside) == 5, "the command line may read any"


# --- the hub


@pytest.fixture
def looked(home: Path, monkeypatch: pytest.MonkeyPatch) -> LookRequest:
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
    request = LookRequest("lab/tiny", "", date.today().isoformat())
    keep(home, request, FOUND)
    return request


def test_a_hub_model_is_described_before_it_is_downloaded(home: Path, looked: LookRequest) -> None:
    app = open_page("start")
    app.text_input[1].input("lab/tiny")
    press(app, "Look")
    shown = texts(app)
    assert "2.00 MB in 2 files" in shown
    assert "1 M in bfloat16" in shown
    assert "Licence: apache-2.0" in shown
    assert "free on the disk" in shown
    assert "Download and open" in labels(app)
    assert app.session_state["url:hub"] == "lab/tiny"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gated": True}, "HF_TOKEN must be set"),
        ({"licence": ""}, "Licence: not stated"),
        ({"parameters": {}}, "Parameters: not told"),
        ({"files": (replace(WEIGHTS, bytes=10**18),)}, "The disk lacks"),
        ({"problem": "It is already quantized."}, "It is already quantized."),
    ],
)
def test_what_speaks_against_a_hub_model_is_said(
    home: Path, looked: LookRequest, changes: dict[str, object], said: str
) -> None:
    keep(home, looked, replace(FOUND, **changes))
    app = open_page("start", hub="lab/tiny")
    assert said in texts(app)
    assert ("Download and open" in labels(app)) == ("problem" not in changes)


def test_a_download_tells_how_it_is_going_and_goes_on(home: Path, looked: LookRequest) -> None:
    """Cancelled with three quarters here, it says so; with all of it here, it opens."""
    request = DownloadRequest("lab/tiny", "", FOUND.commit, FOUND.files)
    running = job(home, request, "running", "1.5 of 2.0 MB")
    app = open_page("start", hub="lab/tiny")
    assert f"cancel:here:{running.id}" in [button.key for button in app.button]
    job(home, replace(request, revision="x"), "cancelled")
    half = part("lab/tiny", WEIGHTS)
    half.parent.mkdir(parents=True)
    half.write_bytes(b"x" * 1_500_000)
    assert "1.50 MB are here already: the download goes on with 501 kB" in texts(app.run())
    for file in FOUND.files:
        blob("lab/tiny", file).write_bytes(b"x" * file.bytes)
    app.run()
    assert "picker:open-downloaded" in [button.key for button in app.button]
    assert app.session_state["picker:wanted"] == ModelRef("lab/tiny"), "it opens where one looked on"


def test_a_hub_out_of_reach_is_one_sentence(home: Path, looked: LookRequest) -> None:
    request = replace(looked, source="lab/away")
    job(home, request, "failed", "The hub cannot be reached.", "Check the network.")
    app = open_page("start", hub="lab/away")
    assert app.error[0].value == "The hub cannot be reached.\n\nCheck the network."
    assert "Retry" in labels(app)


def test_what_is_no_hub_id_is_told_at_once(home: Path) -> None:
    app = open_page("start")
    app.text_input[1].input("https://example.org/x")
    press(app, "Look")
    assert "A hub id reads organisation/name." in app.error[0].value


# --- recommend


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[RecommendRequest]:
    """What the page would ask for."""
    found: list[RecommendRequest] = []
    whole = recommend._plan

    def keeping(request: RecommendRequest) -> str:
        found.append(request)
        return whole(request)

    monkeypatch.setattr(recommend, "_plan", keeping)
    return found


def answer(info: ModelInfo, table: ScoreTable, request: RecommendRequest, best: int = 2) -> Recommendation:
    found = contenders(info, table, request.budget, terms=request.terms)
    recipes = [found[key] for key in sorted(found)]
    rows = [[0.10 + 0.01 * place, 0.12 + 0.01 * place] for place in range(len(recipes))]
    rows[best] = [0.05, 0.07]
    proof = Proof(info.fingerprint, tuple(map(tuple, rows)), 4080, "e" * 24, "bundled evaluation text", 9.0)
    return Recommendation(
        info.fingerprint,
        tuple(one.solution for one in recipes),
        tuple(one.form for one in recipes),
        proof,
    )


def test_a_size_is_proposed_and_can_be_changed(info: ModelInfo, asked: list[RecommendRequest]) -> None:
    app = open_page("start")
    assert "Recommend a recipe" in labels(app)
    proposed = app.number_input(key="recommend:mb").value
    assert proposed is not None
    assert 0 < proposed * 1e6 < info.original_bits / 8
    assert not asked[-1].embeddings, "the layers have room for 4 bits"
    app.number_input(key="recommend:mb").set_value(4.5).run()
    app.selectbox(key="widget:effort").set_value("quick").run()
    request = asked[-1]
    assert (request.budget.kind, request.budget.value) == ("bytes", 4.5e6)
    assert (request.tokens, request.held_out_tokens) == (1024, 1024)
    assert request.embeddings, "4.5 MB leave less than 4 bits for every layer"
    assert "scored on 1,024 tokens of bundled calibration text" in texts(app)
    again = open_page("start", mb="4.5", effort="quick")
    assert not again.exception
    assert asked[-1] == request, "a reload asks for the same"


def test_a_size_that_cannot_be_met_or_needs_nothing_is_said_first(info: ModelInfo) -> None:
    app = open_page("start", mb="0.5")
    assert "Ask for more." in app.warning[0].value
    assert "Recommend a recipe" not in labels(app)
    app.number_input(key="recommend:mb").set_value(900.0).run()
    assert "nothing has to be quantized" in app.success[0].value


def test_a_memory_holds_cache_and_activations_too(
    workspace: Workspace, info: ModelInfo, asked: list[RecommendRequest]
) -> None:
    app = open_page("start", **{"for": "machine", "free": "0.012", "context": "512"})
    request = asked[-1]
    assert request.terms.limits.memory == 12e6
    assert request.terms.use.context == 512
    room = workspace.weights_in_memory(info, request.terms)
    assert room - 1e3 < request.budget.value <= room < 12e6
    app.slider(key="recommend:context").set_value(1024).run()
    assert asked[-1].budget.value < request.budget.value
    name = next(iter(machines()))
    app.segmented_control(key="widget:for").set_value("hardware").run()
    app.selectbox(key="widget:machine").set_value(name).run()
    assert "nothing has to be quantized" in app.success[0].value, "every machine holds so small a model"


def test_progress_survives_a_reload_and_a_stop_can_be_gone_on_from(
    home: Path, info: ModelInfo, asked: list[RecommendRequest]
) -> None:
    open_page("start", mb="4.5")
    running = job(home, asked[-1], "running", "block 3 of 8")
    app = open_page("start", mb="4.5")
    assert f"cancel:here:{running.id}" in [button.key for button in app.button]
    other_home = open_page("start", mb="5")
    assert "Recommend a recipe" in labels(other_home), "another size is another recommendation"
    job(home, asked[-1], "cancelled")
    app = open_page("start", mb="5")
    assert "cancelled before it finished" in texts(app)
    assert "Start again" in labels(app)


def test_a_failure_is_told_in_place(home: Path, info: ModelInfo, asked: list[RecommendRequest]) -> None:
    open_page("start", mb="4.5")
    job(home, asked[-1], "failed", "The worker process ended.", "Start it again.")
    app = open_page("start", mb="4.5")
    assert app.error[0].value == "The worker process ended.\n\nStart it again."


def test_it_lands_on_the_proved_recipe(
    home: Path, workspace: Workspace, info: ModelInfo, table: ScoreTable, asked: list[RecommendRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The measured best is the recipe under work, and the page finds scores and proof without measuring again."""
    app = open_page("start", mb="9", effort="quick")
    request = asked[-1]
    job(home, request, "running")
    app.run()
    found = answer(info, table, request)
    keep(home, request, found)
    keep(home, request.sweep, table)
    recipes = [one.assignment for one in found.recipes]
    proof = workspace.prove_request(info, recipes, Setup(), request.held_out, request.held_out_tokens)
    keep(home, proof, found.proof)
    proved: list[ProveRequest] = []
    whole = proof_panel._request

    def keeping(*each: Any) -> ProveRequest:
        proved.append(whole(*each))
        return proved[-1]

    monkeypatch.setattr(proof_panel, "_request", keeping)
    app.run()
    assert app.title[0].value == "Start", "not in the run in which the job ended"
    assert "It opens by itself in a moment." in texts(app)
    press(app, "Open the proved recipe")
    assert app.title[0].value == "Recipe"
    assert dict(draft(app).assignment) == dict(found.recipes[2].assignment)
    assert draft(app).budget == request.budget
    assert proved[-1] == proof
    assert "Measured best: " in texts(app)


def test_one_that_is_done_is_told_and_opens_by_a_press(
    home: Path, info: ModelInfo, table: ScoreTable, asked: list[RecommendRequest]
) -> None:
    app = open_page("start", mb="9")
    keep(home, asked[-1], answer(info, table, asked[-1]))
    keep(home, asked[-1].sweep, table)
    app.run()
    assert "measured KL 0.0600 ± " in texts(app)
    assert app.title[0].value == "Start"
    assert "It opens by itself" not in texts(app), "nobody waited for it"
    press(app, "Open the proved recipe")
    assert app.title[0].value == "Recipe"


# --- recent models


def test_recent_models_say_what_is_finished(home: Path, info: ModelInfo) -> None:
    other(home, info, "lab/tiny")
    app = open_page("recipe", budget="4.5bits")
    app.button(key="save").click().run()
    app = open_page("start")
    shown = texts(app)
    assert "Finished: 2 sweeps of scores, 1 recipe" in shown
    assert "Nothing has been worked out yet" in shown
    links = [link.proto.label for link in app.get("page_link")]
    assert "Scores" in links
    assert any(label.startswith("Recipe of ") for label in links)


@pytest.mark.parametrize(("asked_from", "runs"), [("here", 1), ("elsewhere", 0)])
def test_a_fragment_of_a_page_that_was_left_does_not_lead_back(
    monkeypatch: pytest.MonkeyPatch, asked_from: str, runs: int
) -> None:
    """A switch of pages at the moment a job ended was undone by the old page's own rerun."""
    reruns: list[str] = []
    monkeypatch.setattr(st, "session_state", {})
    monkeypatch.setattr(st, "rerun", lambda: reruns.append("page"))
    monkeypatch.setattr(jobs, "_page_hash", lambda: "here")
    jobs.start_page()
    monkeypatch.setattr(jobs, "_page_hash", lambda: asked_from)
    jobs.run_page_again()
    assert len(reruns) == runs
