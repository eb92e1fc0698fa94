"""The command line: usage, failures, and the main job on a real model, in this process and as a program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from quant_core import schema
from quant_core import workspace as workspace_module
from quant_core.__main__ import main
from quant_core.cli import commands
from quant_core.cli.arguments import parser
from quant_core.cli.work import UsageError, chosen_setup
from quant_core.schema import Catalog, Setup
from quant_core.workspace import Workspace
from tests import fake_jobs, tiny
from tests.exported import mixed, opened, written
from tests.workers import end_worker, until

ROOT = Path(__file__).resolve().parents[1]
FAKES = "tests.fake_jobs:JOBS"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Call = Callable[..., Outcome]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("home")
    yield made
    end_worker(made)


@pytest.fixture
def call(home: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process, with the engine."""

    def run(*arguments: object) -> Outcome:
        try:
            code = main([*map(str, arguments), "--home", str(home)] if arguments else [])
        except SystemExit as leave:
            code = int(leave.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def fake_home(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "home"
    yield made
    (made / fake_jobs.HOLD).unlink(missing_ok=True)
    end_worker(made)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama."""
    return Path(tiny.save("llama", tmp_path_factory.mktemp("tiny")))


# --- usage


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "required"),
        ("dance", "invalid choice"),
        ("sensitivity", "MODEL"),
        ("sensitivity bundled --tokens 0", "positive whole number"),
        ("sensitivity bundled --tokens many", "positive whole number"),
        ("sensitivity bundled --formats int99", "no number format named 'int99'"),
        ("sensitivity bundled --formats int4 --group 48", "48"),
        ("sensitivity bundled --formats original", "names no format"),
        ("sensitivity bundled --score best", "invalid choice"),
        ("sensitivity bundled --precision 5", "above 0 and at most 1"),
        ("sensitivity bundled --dtype int4", "invalid choice"),
        ("recipe bundled", "--bits"),
        ("recipe bundled --bits 4 --milliseconds 9", "--milliseconds needs --hardware"),
        ("recipe bundled --bits 4 --hardware rtx-409", "Did you mean 'rtx-4090'"),
        ("recipe bundled --bits 4 --target vllm", "no target runtime named 'vllm'"),
        ("recipe bundled --bits 4 --never-below *down*=few", "not PATTERN=BITS"),
        ("recipe bundled --bits 4 --only *down*", "not PATTERN=FAMILY"),
        ("recipe bundled --bits 4 --only *down*=int99", "no number format named 'int99'"),
        ("recipe bundled --bits -1", "above 0"),
        ("recipe bundled --bits 4 --from r.yaml", "takes a recipe as it is"),
        ("recipe bundled --bits nan", "above 0"),
        ("recipe bundled --bits 4 --pin q_proj", "PATTERN=FORMAT"),
        ("recipe bundled --bits 4 --pin *q_proj*=int99", "int99"),
        ("evaluate bundled", "--recipe"),
        ("train bundled", "--recipe"),
        ("train bundled --format int99", "int99"),
        ("generate bundled", "--prompt"),
        ("generate bundled --prompt Hi --top-p 2", "at most 1"),
        ("sensitivity bundled --transform dance", "dance"),
        ("recipe bundled --bits 4 --kv-cache none --activations dance", "dance"),
        ("sensitivity bundled --formats int4@dance", "no rounding method named 'dance'"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(call: Call, arguments: str, complaint: str) -> None:
    outcome = call(*arguments.split())
    assert outcome.code == 2
    assert complaint in outcome.err
    assert outcome.out == ""


def test_help_exits_with_0(call: Call) -> None:
    outcome = call("--help")
    assert outcome.code == 0
    for name in (
        "models",
        "formats",
        "weights",
        "sensitivity",
        "recipe",
        "calibrate",
        "evaluate",
        "train",
        "generate",
        "catalog",
    ):
        assert name in outcome.out


# --- failures


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "cannot be read"), (b" \n", "is empty"), (b"\xff\xfe\xfa", "not in UTF-8")],
)
def test_a_text_that_is_none_is_told_in_a_sentence(
    call: Call, tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    for arguments in (["sensitivity", "bundled"], ["recipe", "bundled", "--bits", 4]):
        outcome = call(*arguments, "--text", file)
        assert (outcome.code, outcome.out) == (1, "")
        assert complaint in outcome.err
        assert str(file) in outcome.err


def test_a_home_that_cannot_be_used_is_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["models", "--home", str(tmp_path / "file" / "home")]) == 1
    assert "cannot be used" in capsys.readouterr().err


def test_a_missing_model_exits_with_1_and_a_hint(call: Call) -> None:
    outcome = call("sensitivity", "./no/such/folder", "--json")
    assert (outcome.code, outcome.out) == (1, "")
    assert "no/such/folder" in outcome.err
    assert "Traceback" not in outcome.err


def test_an_interrupt_cancels_the_job_and_exits_with_130(fake_home: Path) -> None:
    workspace = Workspace(fake_home, jobs=FAKES)
    (fake_home / fake_jobs.HOLD).touch()
    arguments = ["sensitivity", "bundled", "--formats", "int4", "--home", str(fake_home), "--jobs", FAKES]
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    program = subprocess.Popen(
        [sys.executable, "-m", "quant_core", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    signal.signal(signal.SIGINT, kept)
    try:
        until(
            lambda: any(job.kind == "sensitivity" and job.progress >= 0.25 for job in workspace.jobs()),
            "the sweep",
        )
        os.kill(program.pid, signal.SIGINT)
        out, err = program.communicate(timeout=60)
    finally:
        program.kill()
        program.wait()
    assert program.returncode == 130
    assert out == b""
    assert b"Interrupted" in err
    assert b"Traceback" not in err
    until(lambda: workspace.jobs()[0].state == "cancelled", "the end of the job")
    workspace.close()


# --- the catalog


def test_the_catalog_is_current(call: Call) -> None:
    outcome = call("catalog", "--check")
    assert outcome.code == 0, f"{outcome.err}Run: python -m quant_core catalog"


def test_the_catalog_is_written_and_checked(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "catalog.json"
    monkeypatch.setattr(workspace_module, "CATALOG", file)
    monkeypatch.setattr(commands, "CATALOG", file)
    assert call("catalog", "--check").code == 1
    assert not file.exists()
    assert call("catalog", "--json").json["changed"] is True
    assert call("catalog", "--json").json["changed"] is False
    file.write_text(file.read_text().replace("INT4", "INT5"))
    outcome = call("catalog", "--check")
    assert outcome.code == 1
    assert "python -m quant_core catalog" in outcome.err


def test_formats_and_methods_are_listed_with_their_sources(call: Call, made_catalog: Catalog) -> None:
    out = call("formats").out
    assert (
        "Number formats: Brand new\n  turbo3\n      Turbo 3. Three bits, faster.\n      Nobody 2031, arXiv:3101"
        in out
    )
    assert "[/g16|g256|b128][/asym|sym|float][/dq]" in out
    assert "order=falling|none: Which columns first." in out
    assert "Not for LlamaForCausalLM." in out
    assert schema.load(Catalog, call("formats", "--json").json) == made_catalog


def test_what_lies_beyond_weights_is_taken_from_the_command_line(
    made_catalog: Catalog, fake_home: Path
) -> None:
    def chosen(before: Setup, *typed: str) -> Setup:
        options = parser().parse_args(["evaluate", "bundled", "--recipe", "r.json", *typed])
        return chosen_setup(workspace, options, before)

    workspace = Workspace(fake_home)
    made = chosen(Setup(), "--transform", "smooth", "--transform", "spin", "--kv-cache", "int8")
    assert made == Setup(("smooth", "spin"), "", "int8")
    assert chosen(made, "--kv-cache", "none", "--activations", "int8/token") == Setup(
        ("smooth", "spin"), "int8/token"
    )
    assert chosen(made, "--transform", "none") == Setup((), "", "int8")
    with pytest.raises(UsageError, match="no option 'speed'"):
        chosen(made, "--transform", "smooth:speed=2")
    workspace.close()


# --- what is said beside the answer


def test_padding_is_said(call: Call, model: Path, tmp_path: Path) -> None:
    """Rows of 96 inputs are one and a half groups of 64; in every other weight of the tiny model groups divide."""
    options = [model, "--formats", "int4", "--score", "weight", "--text", _prose(tmp_path)]
    said = call("sensitivity", *options).out
    assert "int4/g64/asym: rows of 2 weights are no whole number of groups; 4,096 padded values" in said
    assert call("sensitivity", *options, "--json").json["padded"] == {"int4/g64/asym": 4096}


def test_measuring_on_the_calibration_text_is_noted(call: Call, model: Path, tmp_path: Path) -> None:
    text, file = _prose(tmp_path), tmp_path / "recipe.json"
    call("recipe", model, "--bits", 5, "--tokens", 256, "--text", text, "--out", file, "--formats", "int4")
    assert "calibrated on" in call("evaluate", model, "--recipe", file, "--tokens", 256, "--text", text).err
    other = tmp_path / "other.txt"
    other.write_text(tiny.PROSE.upper() * 12)
    assert "calibrated on" not in call("evaluate", model, "--recipe", file, "--text", other).err


def test_a_training_streams_its_loss_and_its_weights_are_taken_by_key(
    call: Call, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "recipe.json"
    call("recipe", model, "--bits", 3, "--formats", "int2,original", "--tokens", 256, "--out", file)
    learn = ("train", model, "--recipe", file, "--steps", 20, "--seconds", 0, "--rate", 0.02)
    said = call(*learn, "--tokens", 512, "--sequence", 32, "--lora", 4, "--step-rate", 0)
    assert "loss" in said.err
    assert "nats a token" in said.out
    training = call(*learn, "--tokens", 512, "--sequence", 32, "--json").json
    assert (training["steps"], training["mode"]) == (20, "full")
    assert training["kl_after"] < training["kl_before"]
    measure = ("evaluate", model, "--recipe", file, "--tokens", 256, "--json")
    rounded, trained = (call(*measure, "--trained", key).json for key in ("none", training["key"]))
    assert trained["kl_mean"] != rounded["kl_mean"]
    missing = call(*measure, "--trained", "0" * 24)
    assert missing.code == 1
    assert "not stored here" in missing.err


def test_text_the_model_writes_itself_and_a_missing_chat_template(call: Call, model: Path) -> None:
    scores = call(
        "sensitivity", model, "--formats", "int4", "--tokens", 256, "--text", "self:3", "--json"
    ).json
    assert "written by the model, seed 3" in scores["text"]
    refused = call("generate", model, "--prompt", "The cat", "--chat")
    assert refused.code == 1
    assert "has no chat template" in refused.err


def test_a_place_that_cannot_be_written_is_refused_before_the_work(call: Call, tmp_path: Path) -> None:
    for place in ("/", tmp_path / "no" / "such" / "recipe.json"):
        outcome = call("recipe", "nothing-there", "--bits", 4, "--out", place)
        assert outcome.code == 1
        assert "cannot be written" in outcome.err


def test_settings_of_another_tool_become_a_recipe(call: Call, model: Path, tmp_path: Path) -> None:
    settings, file = tmp_path / "gptq.json", tmp_path / "recipe.json"
    settings.write_text(
        '{"bits": 8, "group_size": 32, "dynamic": {"+:.*q_proj": {"bits": 4}, "-:.*gone": {}}}'
    )
    found = call("recipe", model, "--from", settings, "--out", file, "--json").json
    assert found["tool"] == "GPTQModel"
    assert found["notes"] == ["No layer of this model matches -:.*gone."]
    formats = {name: entry["format"] for name, entry in found["units"].items()}
    assert formats["model.layers.1.self_attn.q_proj.weight"] == "int4/g32/sym@gptq"
    assert formats["model.layers.1.mlp.up_proj.weight"] == "int8/g32/sym@gptq"
    assert json.loads(file.read_text())["units"] == found["units"]
    assert "weights quantized" in call("recipe", model, "--from", settings).out


def test_a_megabytes_budget_below_the_embedding_says_what_helps(call: Call) -> None:
    outcome = call("recipe", "bundled", "--megabytes", 9, "--tokens", 512)
    assert outcome.code == 1
    assert "the smallest takes" in outcome.err
    assert "--include embeddings" in outcome.err


def _prose(folder: Path) -> Path:
    file = folder / "prose.txt"
    file.write_text(tiny.PROSE * 12)
    return file


# --- the main job


def test_from_a_model_to_a_recipe_to_its_measure_and_its_text(call: Call, tmp_path: Path) -> None:
    options = ["--formats", "int2,int3,int4,int8,nf4", "--tokens", 512]
    scores = call("sensitivity", "bundled", *options, "--json").json
    assert scores["tokens"] == 512
    assert {row["format"] for row in scores["rows"]} == {
        "int2/g64/asym", "int3/g64/asym", "int4/g64/asym", "int8/g64/asym", "nf4/g64",
    }  # fmt: skip
    assert set(scores["rows"][0]) == {"unit", "block", "role", "format", "score", "stderr"}
    assert all(row["score"] >= 0 and row["stderr"] >= 0 for row in scores["rows"])

    file = tmp_path / "recipe.json"
    made = call("recipe", "bundled", *options, "--bits", 4.5, "--out", file, "--json").json
    assert 4.4 < made["average_bits"] <= 4.5
    assert made["fingerprint"] == scores["fingerprint"]
    assert made["bytes"] < made["original_bytes"] / 2
    assert made["floor"]["average_bits"] < 2.6
    assert {row["unit"] for row in scores["rows"]} <= set(made["units"])
    entry = next(entry for entry in made["units"].values() if entry["format"] != "original")
    assert set(entry) == {"format", "parameters", "bits"}
    assert json.loads(file.read_text())["units"].keys() == made["units"].keys()

    measured = call("evaluate", "bundled", "--recipe", file, "--tokens", 512, "--json").json
    assert 0 < measured["kl_median"] < measured["kl_mean"] < measured["kl_p99"]
    assert measured["perplexity"] > 1
    assert measured["perplexity_original"] > 1
    assert 0.5 < measured["top1_agreement"] <= 1
    assert 400 < measured["tokens"] <= 512
    assert measured["predicted_kl"] == made["predicted_kl"]

    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"query": "The cat sat on the", "choices": ["mat.", "of."], "gold": 0}\nno\n')
    asked = call("evaluate", "bundled", "--recipe", file, "--choices", questions, "--json").json
    assert (asked["questions"], asked["left_out"]) == (1, "Left out: line 2 (no JSON).")
    assert asked["acc"]["original"] in (0.0, 1.0)
    assert asked["acc_norm"]["p"] == 1.0
    assert "acc_norm" in call("evaluate", "bundled", "--recipe", file, "--choices", questions).out

    writes = ["generate", "bundled", "--recipe", file, "--prompt", "Once upon a time", "--tokens", 12]
    texts = call(*writes, "--seed", 3, "--json").json
    assert texts == call(*writes, "--seed", 3, "--json").json
    assert texts["seed"] == 3
    assert texts["original"]
    assert texts["recipe"]
    assert isinstance(texts["divergence"], int)
    both = call(*writes, "--seed", 3, "--other", file, "--json").json
    assert (both["other"], both["other_divergence"]) == (both["recipe"], both["divergence"])
    assert both["recipe"] == texts["recipe"]


def test_the_answers_can_be_read_without_json(call: Call, tmp_path: Path) -> None:
    options = ["--formats", "int4,int8", "--tokens", 128]
    file = tmp_path / "recipe.yaml"
    out = call("sensitivity", "bundled", *options, "--score", "weight").out
    assert "model.layers.0.self_attn.q_proj.weight" in out
    out = call("recipe", "bundled", *options, "--bits", 6, "--out", file).out
    assert "MB in all" in out
    assert file.read_text().startswith(("#", "version", "calibration", "average", "format", "model"))
    out = call(
        "evaluate", "bundled", "--recipe", file, "--tokens", 128, "--out", tmp_path / "measured.json"
    ).out
    assert "perplexity, original" in out
    assert json.loads((tmp_path / "measured.json").read_text())["measured"]["tokens"] > 0
    out = call("generate", "bundled", "--prompt", "Once", "--tokens", 4).out
    assert out.startswith("Original\nOnce")
    assert "bundled" in call("models").out


def test_a_quantized_checkpoint_is_told_beside_its_original(call: Call, tmp_path: Path) -> None:
    loaded = opened("llama", tmp_path)
    written(loaded, mixed(loaded.info, ("int4/g32/sym",)), "gptq", tmp_path / "out")
    found = call("import", tmp_path / "out", "--against", tmp_path / "model", "--json").json
    assert (found["title"], found["method"], found["unmatched"]) == ("out", "GPTQ", [])
    assert 0.05 < found["error"] < 0.2
    told = call("import", tmp_path / "out").out
    assert "14 of 15 weights quantized, 5." in told
    assert "int4, groups of 32, symmetric" in told
    other = opened("gpt2", tmp_path / "other").info.ref.source
    refused = call("import", tmp_path / "out", "--against", other)
    assert refused.code == 1
    assert "None of the 15 weights of out has a name and a shape that model has." in refused.err
    assert "There is no folder and no file" in call("import", tmp_path / "none").err


def test_a_budget_in_megabytes_counts_the_whole_file(call: Call) -> None:
    made = call(
        "recipe", "bundled", "--formats", "int4,int8", "--tokens", 128, "--megabytes", 18, "--json"
    ).json
    assert 17e6 < made["bytes"] <= 18e6
    outcome = call("recipe", "bundled", "--formats", "int4,int8", "--tokens", 128, "--megabytes", 1)
    assert (outcome.code, outcome.out) == (1, "")
    assert "No recipe fits" in outcome.err


def test_pins_embeddings_and_own_text(call: Call, model: Path, tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text("The cat sat on the mat and looked at the rain. " * 40, encoding="utf-8")
    options = ["--formats", "int3,int4", "--group", 32, "--tokens", 256, "--text", text]
    pins = ["--pin", "*.q_proj.*=int8", "--pin", "model.layers.1.mlp.*=original"]
    made = call("recipe", model, *options, *pins, "--include", "embeddings", "--bits", 14, "--json").json
    for name, entry in made["units"].items():
        if ".q_proj." in name:
            assert entry["format"] == "int8/g32/asym"
        elif name.startswith("model.layers.1.mlp."):
            assert entry["format"] == "original"
        else:
            assert entry["format"] in {"int3/g32/asym", "int4/g32/asym", "original"}
    scored = call("sensitivity", model, *options, "--include", "embeddings", "--json").json
    assert any(row["block"] == -1 for row in scored["rows"])
    assert scored["text"] == "own.txt"
    outcome = call("recipe", model, *options, "--pin", "nothing*=int4", "--bits", 14)
    assert outcome.code == 1
    assert "nothing*" in outcome.err


def test_a_score_that_is_no_kl_predicts_none(call: Call, model: Path) -> None:
    made = call(
        "recipe", model, "--formats", "int4", "--tokens", 256, "--score", "weight", "--bits", 9, "--json"
    ).json
    assert made["predicted_kl"] is None


def test_another_models_recipe_is_refused(call: Call, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    assert call("recipe", model, "--formats", "int4", "--tokens", 256, "--bits", 9, "--out", file).code == 0
    for arguments in (["evaluate", "bundled"], ["generate", "bundled", "--prompt", "Hi"]):
        outcome = call(*arguments, "--recipe", file)
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err.count("\n") <= 3
    file.write_text("{")
    assert call("evaluate", "bundled", "--recipe", file).code == 1


def test_models_lists_what_is_at_hand(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models--org--name").mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    names = [row["model"] for row in call("models", "--json").json["models"]]
    assert names[0] == "bundled"
    assert "org/name" in names


def test_the_program_writes_json_only_to_standard_output(home: Path) -> None:
    arguments = ["generate", "bundled", "--prompt", "The fox", "--tokens", "3", "--json", "--home", str(home)]
    program = subprocess.run(
        [sys.executable, "-m", "quant_core", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert program.returncode == 0, program.stderr
    assert json.loads(program.stdout)["prompt"] == "The fox"
    assert "Write with the bundled model" in program.stderr
