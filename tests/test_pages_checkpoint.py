"""The Checkpoint page: the way to somebody's quantized checkpoint, its states, and the ways on from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quant_core import plots
from quant_core.schema import (
    GenerateRequest,
    HeldWeight,
    ImportRequest,
    ModelInfo,
    QuantizedCheckpoint,
    Unmatched,
    replace,
)
from quant_core.workspace import Workspace, browser_roots
from tests.served_pages import job, keep, open_page, seed, texts
from ui.checkpoint_page import frame


@pytest.fixture
def info(home: Path, monkeypatch: pytest.MonkeyPatch) -> ModelInfo:
    monkeypatch.setenv("QUANTLENS_MODEL_ROOTS", str(home / "models"))
    return seed(home)


@pytest.fixture
def folder(home: Path) -> Path:
    """A folder that says it is a GPTQ checkpoint, beside a GGUF file and an original."""
    models = home / "models"
    for name, settings in (("tiny-gptq", {"quant_method": "gptq"}), ("tiny", None)):
        (models / name).mkdir(parents=True)
        config = {"architectures": ["LlamaForCausalLM"]} | (
            {"quantization_config": settings} if settings else {}
        )
        (models / name / "config.json").write_text(json.dumps(config))
        (models / name / "model.safetensors").write_bytes(b"x" * 5000)
    (models / "tiny.q4.gguf").write_bytes(b"x" * 7000)
    return models / "tiny-gptq"


def asked(home: Path, folder: Path, info: ModelInfo | None) -> ImportRequest:
    return Workspace(home, roots=browser_roots()).import_request(str(folder), info)


def weight(name: str, error: float | None, rescaled: bool = False) -> HeldWeight:
    holds, form = "int4, groups of 128, symmetric", "int4/g128/sym"
    return HeldWeight(name, "", holds, form, True, 320, 320, 420_000, error, rescaled)


def found(info: ModelInfo | None) -> QuantizedCheckpoint:
    errors = (0.1, 0.3) if info else (None, None)
    weights = (
        weight("model.layers.0.self_attn.q_proj.weight", errors[0]),
        weight("model.layers.1.mlp.down_proj.weight", errors[1], rescaled=bool(info)),
        HeldWeight("model.embed_tokens.weight", "", "bfloat16", "", False, 320, 320, 16 * 320 * 320, None),
    )
    return QuantizedCheckpoint(
        title="tiny-gptq", method="GPTQ", content="c" * 24, fingerprint=info.fingerprint if info else "",
        original=info.title if info else "", weights=weights, other_bits=1000, bytes=5000,
        error=0.2 if info else None,
        unmatched=(Unmatched("model.extra.weight", "Demo has no weight of this name and shape."),),
        seconds=2.0, notes=("A note on it.",),
    )  # fmt: skip


def test_empty_it_says_what_it_is_for_and_where_to_look(info: ModelInfo, folder: Path) -> None:
    app = open_page("checkpoint")
    assert "You downloaded a model that somebody quantized" in texts(app)
    app.button(key=f"checkpoint:{folder.parent.resolve()}").click().run()
    labels = [button.label for button in app.button]
    assert "tiny-gptq · gptq · 5.00 kB" in labels
    assert "tiny.q4.gguf · GGUF · 7.00 kB" in labels
    assert "Read it" not in labels
    app.button(key=f"checkpoint:{folder.resolve()}").click().run()
    assert app.session_state["url:checkpoint"] == str(folder.resolve())
    assert "Read it" in [button.label for button in app.button]
    assert f"compare every weight with {info.title}" in texts(app)


def test_an_original_is_told_apart_and_start_leads_here(info: ModelInfo, folder: Path) -> None:
    app = open_page("checkpoint", checkpoint=str(folder.parent / "tiny"))
    assert "is not quantized" in texts(app)
    app = open_page("start")
    app.text_input(key="picker:folder").input(str(folder)).run()
    links = [link.proto.label for link in app.get("page_link")]
    assert {"See what it holds", "Look into a quantized checkpoint"} <= set(links)
    assert "Open the folder" not in [button.label for button in app.button]


@pytest.mark.parametrize(
    ("path", "said"), [("no/such/place", "There is no folder"), ("/proc", "lies outside the folders")]
)
def test_failed_a_place_that_may_not_be_read_is_one_sentence(info: ModelInfo, path: str, said: str) -> None:
    app = open_page("checkpoint", checkpoint=path)
    assert said in app.error[0].value
    assert "All folders" in [button.label for button in app.button]


@pytest.mark.parametrize(
    ("state", "said"), [("running", "model.layers.3"), ("failed", "It was not made from it.")]
)
def test_loading_and_failed_are_told_in_place(
    home: Path, info: ModelInfo, folder: Path, state: str, said: str
) -> None:
    job(home, asked(home, folder, info), state, said)
    app = open_page("checkpoint", checkpoint=str(folder))
    bars = [bar.proto.text for bar in app.get("progress")]
    assert any(said in text for text in [*bars, texts(app)])
    labels = {button.label for button in app.button}
    assert ("Cancel" if state == "running" else "Retry") in labels
    assert not app.get("plotly_chart")


def test_finished_it_shows_errors_the_table_and_the_ways_on(
    home: Path, info: ModelInfo, folder: Path
) -> None:
    keep(home, asked(home, folder, info), found(info))
    app = open_page("checkpoint", checkpoint=str(folder))
    figures = {metric.label: metric for metric in app.metric}
    assert figures["Quantized"].value == "2 weights"
    assert figures["Error against the original"].value == "20.0 %"
    assert figures["Error against the original"].delta == "SQNR 14.0 dB"
    assert len(app.get("plotly_chart")) == 1
    assert "off by 30 % of its size; the nearest is off by 10 %" in texts(app).replace("\\", "")
    assert "A note on it." in texts(app)
    assert any("1 weight was not compared" in each.label for each in app.expander)
    assert "Generate beside the original" in [link.proto.label for link in app.get("page_link")]
    table = frame(found(info))
    assert list(table["Error"])[:2] == [0.1, 0.3]
    assert table["Holds"][1] == "int4, groups of 128, symmetric, rescaled"
    assert table["Bits"][0] == pytest.approx(420_000 / 320**2)


def test_partial_without_an_original_it_says_what_it_holds(home: Path, info: ModelInfo, folder: Path) -> None:
    keep(home, asked(home, folder, None), found(None))
    app = open_page("checkpoint", checkpoint=str(folder), beside="none")
    assert "Error against the original" not in {metric.label for metric in app.metric}
    assert not app.get("plotly_chart")
    assert "Generate beside the original" not in [link.proto.label for link in app.get("page_link")]
    assert "Error" not in frame(found(None))


def test_it_writes_beside_the_original_in_compare(home: Path, info: ModelInfo, folder: Path) -> None:
    request = asked(home, folder, info)
    keep(home, request, found(info))
    workspace = Workspace(home, roots=browser_roots())
    app = open_page("compare", other=f"import:{workspace.key_of(request)}")
    assert "Checkpoint tiny-gptq" in texts(app)
    app.button(key="compare:write").click().run()
    written = app.session_state["compare:request"]
    assert isinstance(written, GenerateRequest)
    assert written.other_checkpoint is not None
    assert (written.other_checkpoint.path, written.other_checkpoint.content) == (str(folder), "c" * 24)
    assert "Checkpoint tiny-gptq" in app.selectbox(key="widget:other").options
    for made in workspace.jobs():
        workspace.cancel(made.id)


def test_a_link_to_a_checkpoint_that_is_gone_or_of_another_model_says_so(
    home: Path, info: ModelInfo, folder: Path
) -> None:
    request = asked(home, folder, info)
    workspace = Workspace(home, roots=browser_roots())
    keep(home, request, found(info))
    key = workspace.key_of(request)
    other = replace(info, fingerprint="0" * 24)
    with pytest.raises(Exception, match="was not read beside"):
        workspace.checkpoint(key, other)
    moved = folder.rename(folder.with_name("moved"))
    with pytest.raises(Exception, match="is not on this machine any more"):
        workspace.checkpoint(key, info)
    again = asked(home, moved, info)
    assert workspace.key_of(again) == key
    assert workspace.result(again) is None, "it is read again where it lies now"


def test_it_is_among_the_runs_in_words_and_is_handed_on_without_its_place(
    home: Path, info: ModelInfo, folder: Path, tmp_path: Path
) -> None:
    request = asked(home, folder, info)
    keep(home, request, found(info))
    workspace = Workspace(home, roots=browser_roots())
    key = workspace.key_of(request)
    app = open_page("runs", run=key)
    assert "error against the original 0.200 of the weights' size" in texts(app).replace("\\", "")
    assert "Open what it holds" in [link.proto.label for link in app.get("page_link")]
    keep(home, asked(home, folder, None), found(None))
    app = open_page("runs", **{"run": key, "with": workspace.key_of(asked(home, folder, None))})
    assert not app.exception
    with (tmp_path / "runs.zip").open("wb") as file:
        workspace.export_runs([key], file)
    assert str(folder).encode() not in (tmp_path / "runs.zip").read_bytes()
    elsewhere = Workspace(tmp_path / "elsewhere")
    with (tmp_path / "runs.zip").open("rb") as file:
        assert elsewhere.import_runs(file).keys == (key,)
    with pytest.raises(Exception, match="is not on this machine any more"):
        elsewhere.checkpoint(key, info)
    elsewhere.close()


def test_errors_are_gathered_by_role_and_block_and_names_of_strangers_hold_no_tags() -> None:
    weights = (
        weight("model.layers.0.mlp.experts.0.w1.weight", 0.3),
        weight("model.layers.0.mlp.experts.1.w1.weight", 0.4),
        weight("blk.1.ffn_up_exps.weight[2]", 0.1),
        weight("<a href='x'>lm_head</a>.weight", 0.2),
    )
    whole = QuantizedCheckpoint("x", "GPTQ", "", "", "", weights, 0, 1, 0.3, (), 1.0)
    data = plots.checkpoint_errors(whole)
    assert data.roles == ("w1", "ffn_up_exps")
    assert data.blocks == (0, 1)
    assert data.values[0][0] == pytest.approx(0.125**0.5)
    assert data.values[0][1] is None
    assert data.outside == (("ahrefxlm_heada", 0.2),)
    assert (data.error, data.best) == (0.4, 0.1)
    empty = plots.checkpoint_errors(found(None))
    assert not empty.worst
