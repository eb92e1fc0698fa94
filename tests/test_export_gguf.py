"""GGUF files: gguf-py reads what was simulated, llama.cpp computes it, and damaged files are told as such."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from quant_core.checkpoints.gguf_file import GgufFile
from quant_core.checkpoints.gguf_names import apart, interleaved
from quant_core.errors import ExportError
from quant_core.export import EXPORTERS
from quant_core.methods.variant import make_variant
from quant_core.models.loading import LoadedModel, load
from quant_core.models.patch import patched, swap
from quant_core.recipes import tensor_names
from quant_core.runtimes import RUNTIMES, Engine, Task
from quant_core.schema import ORIGINAL, ModelRef, Recipe, Setup, Unit
from quant_core.targets import TARGETS, problems
from tests.endpoints import LLAMACPP, ROOT, need_llamacpp
from tests.exported import TOKENS, mixed, recipe_of, written
from tests.tiny import PROSE, VOCABULARY, FakeContext, save

SMALL = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4", ORIGINAL)
LARGE = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k")
KINDS = ("llama", "llama-wide", "mistral", "mixtral", "qwen2", "qwen3", "gpt2")
INTERLEAVED = ("llama", "llama-wide", "mistral", "mixtral")
TEXTS = [PROSE, "The captain's goose had 12 hats\n\n  and <|endoftext|> naïve 日本\t!"]


@dataclass(frozen=True)
class Case:
    """A tiny model under a recipe, and the file that was written."""

    loaded: LoadedModel
    recipe: Recipe
    path: Path
    matrices: dict[str, Tensor]
    """Every unit's float32 matrix as it is simulated."""
    expected: Tensor
    """Log-probabilities of what follows each of ``TOKENS[0]`` but the last."""


def exported(loaded: LoadedModel, recipe: Recipe, folder: Path) -> Case:
    done = written(loaded, recipe, "gguf", folder)
    assert (done.exact, done.error) == (done.weights, 0.0)
    variant = make_variant(FakeContext(loaded), loaded, recipe.assignment(), recipe.setup)
    with variant.active() as model, torch.no_grad():
        logits = model(TOKENS[:1]).logits[0, :-1]
        matrices = {name: slot.matrix().clone() for name, slot in loaded.graph.slots.items()}
    return Case(loaded, recipe, folder / "model.gguf", matrices, logits.log_softmax(dim=1))


def made(kind: str, folder: Path) -> LoadedModel:
    """A tiny model whose norms and biases are other than 1 and 0."""
    file = save(kind, folder) / "model.safetensors"
    random = torch.Generator().manual_seed(1)
    tensors = load_file(file)
    for values in tensors.values():
        if values.dim() == 1:
            values.add_(torch.randn(values.shape, generator=random), alpha=0.3)
    save_file(tensors, file, metadata={"format": "pt"})
    return load(ModelRef(str(folder)))


def many_types(loaded: LoadedModel, forms: tuple[str, ...]) -> Recipe:
    """Another type for every role, and others again in the next block."""
    roles = list(dict.fromkeys(unit.role.partition("[")[0] for unit in loaded.info.units))

    def choose(unit: Unit) -> str:
        return forms[(roles.index(unit.role.partition("[")[0]) + 3 * unit.block) % len(forms)]

    return recipe_of(loaded.info, choose)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Each model as it is."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    loaded = {kind: made(kind, folder / "model") for kind, folder in folders.items()}
    return {
        kind: exported(each, recipe_of(each.info, lambda _: ORIGINAL), folders[kind] / "out")
        for kind, each in loaded.items()
    }


@pytest.fixture(scope="module")
def cases(plain: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Each model under a recipe of many types."""
    found = {}
    for kind, case in plain.items():
        recipe = many_types(case.loaded, LARGE if kind == "llama-wide" else SMALL)
        found[kind] = exported(case.loaded, recipe, tmp_path_factory.mktemp(kind) / "out")
    return found


def run(*tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """What llama.cpp says to each task of ``tests/llamacpp.py``."""
    need_llamacpp()
    done = subprocess.run(
        [LLAMACPP, ROOT / "tests/llamacpp.py"],
        input=json.dumps(tasks),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


# --- gguf-py ------------------------------------------------------------------------------------------------


def turned(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp's converters have always put them."""
    shape = (heads, 2, len(matrix) // heads // 2, *matrix.shape[1:])
    return matrix.reshape(shape).swapaxes(1, 2).reshape(matrix.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_gguf_py_reads_every_tensor_to_our_floats(kind: str, cases: dict[str, Case]) -> None:
    case = cases[kind]
    config = case.loaded.model.config
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(case.path).tensors}
    expected_in: dict[str, list[str]] = {}
    for unit in case.loaded.info.units:
        for name in tensor_names(unit):
            expected_in.setdefault(name, []).append(unit.name)
    for name, units in expected_in.items():
        values = gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type)
        parts = []
        for each in units:
            matrix = case.matrices[each].numpy()
            gate, up = np.split(matrix, 2)
            split = {"ffn_gate_exps": gate, "ffn_up_exps": up}
            parts.append(split.get(name.split(".")[-2], matrix))
        expected = np.stack(parts) if "_exps" in name else parts[0]
        if kind in INTERLEAVED and "attn_q." in name:
            expected = turned(expected, config.num_attention_heads)
        if kind in INTERLEAVED and "attn_k." in name:
            expected = turned(expected, config.num_key_value_heads)
        assert np.array_equal(values, expected), name
        form = case.recipe.assignment().get(units[0], ORIGINAL)
        assert tensors[name].tensor_type.name.lower() == ("f32" if form == ORIGINAL else form)
    others = tensors.keys() - expected_in - {"rope_freqs.weight"}
    assert all(tensors[name].tensor_type == gguf.GGMLQuantizationType.F32 for name in others)
    known = {id(slot.parameter) for slot in case.loaded.graph.slots.values()}
    assert len(others) == sum(id(each) not in known for each in case.loaded.model.parameters())


def test_order_of_rows_by_hand() -> None:
    rows = torch.arange(8)[:, None]
    assert interleaved(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(apart(interleaved(rows, 1), 1), rows)


# --- llama.cpp ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def computed(plain: dict[str, Case], cases: dict[str, Case]) -> dict[str, list[dict[str, Any]]]:
    """What llama.cpp says of each model as it is, and under its recipe."""
    tokens = TOKENS[0].tolist()
    paths = [case.path for kind in KINDS for case in (plain[kind], cases[kind])]
    tasks = [{"path": str(path), "tokens": tokens, "full": VOCABULARY, "texts": TEXTS} for path in paths]
    answers = run(*tasks)
    return {kind: answers[2 * place : 2 * place + 2] for place, kind in enumerate(KINDS)}


def divergence(case: Case, answer: dict[str, Any]) -> Tensor:
    """Of llama.cpp's distributions from ours, in nats, a token each."""
    ours, theirs = case.expected, torch.tensor(answer["logprobs"])
    return (ours.exp() * (ours - theirs)).sum(dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_computes_what_was_simulated(
    kind: str, plain: dict[str, Case], cases: dict[str, Case], computed: dict[str, list[dict[str, Any]]]
) -> None:
    """It rounds the inputs of quantized weights to 8 bits, and a router may then choose another expert."""
    same, rounded = divergence(plain[kind], computed[kind][0]), divergence(cases[kind], computed[kind][1])
    effect = (plain[kind].expected.exp() * (plain[kind].expected - cases[kind].expected)).sum(dim=1)
    assert float(same.max()) < 1e-5
    assert float(rounded.median()) < float(effect.median()) / 50
    for answer in computed[kind]:
        assert answer["ids"] == [cases[kind].loaded.tokenizer(text)["input_ids"] for text in TEXTS]


@pytest.fixture(scope="module")
def bundled_file(bundled: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the bundled model under a recipe of many types."""
    forms = ("q4_k", "q8_0", "q5_0", "iq4_nl", "q6_k", "q4_0", "mxfp4", "q5_1")
    recipe = recipe_of(bundled.info, lambda unit: forms[unit.block] if unit.decided else "q8_0")
    folder = tmp_path_factory.mktemp("bundled") / "out"
    done = written(bundled, recipe, "gguf", folder)
    assert (done.exact, done.error) == (done.weights, 0.0)
    return folder


def test_the_bundled_models_file_is_timed_in_llamacpp(bundled: LoadedModel, bundled_file: Path) -> None:
    """Twice the same prompt: the second time it is read anew all the same."""
    runtime = RUNTIMES["llama.cpp"]
    if not runtime.found().version:
        pytest.skip("there is no xllamacpp here: make unit installs it where it has a wheel")
    task = Task(str(bundled_file), tuple(range(3, 35)), 4, 1, "cpu")
    with Engine(runtime, task, lambda: None) as engine:
        engine.load()
        rounds = [engine.round(), engine.round()]
    assert [(one.read, one.written, one.gpu) for one in rounds] == [(32, 3, 0)] * 2
    assert all(one.reading > 0 and one.writing > 0 for one in rounds)
    held = engine.peak - engine.libraries
    assert (bundled_file / "model.gguf").stat().st_size < held < 300e6, "the model, and not all of PyTorch"


def test_perplexity_of_the_bundled_model_is_ours(bundled: LoadedModel, bundled_file: Path) -> None:
    text = (ROOT / "assets/texts/evaluation.txt").read_text()[:3000]
    tokens = bundled.tokenizer(text)["input_ids"]
    (answer,) = run({"path": str(bundled_file / "model.gguf"), "tokens": tokens[:385], "texts": [text]})
    weights = swap(bundled.graph, dict(EXPORTERS["gguf"].read_back(bundled_file)))  # exact, as was seen
    with patched(weights), torch.no_grad():
        logits = bundled.model(torch.tensor([tokens[:385]])).logits[0, :-1].float()
    ours = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:385]))
    theirs = -torch.tensor(answer["logprobs"]).mean()
    assert float((theirs - ours).exp()) == pytest.approx(1.0, abs=0.01)
    assert answer["ids"] == [tokens]


# --- tokenizers ---------------------------------------------------------------------------------------------


def sentencepiece(merges_all: bool = True) -> PreTrainedTokenizerFast:
    """A BPE with spaces as a letter and bytes for what it does not know, merged as SentencePiece does."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - 8, special_tokens=special, show_progress=False)
    core.train_from_iterator([PROSE.replace("\n", " ")] * 3, trainer)
    data = json.loads(core.to_str())
    vocabulary, made = data["model"]["vocab"], [left + right for left, right in data["model"]["merges"]]
    if merges_all:
        data["model"]["merges"] = [
            [word[:cut], word[cut:]]
            for word in made
            for cut in range(1, len(word))
            if word[:cut] in vocabulary and word[cut:] in vocabulary
        ]
    data["added_tokens"] = data["added_tokens"][:3]
    core = Tokenizer.from_str(json.dumps(data))
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_sentencepiece_tokenizers_are_written(tmp_path: Path) -> None:
    folder = save("llama", tmp_path / "model")
    tokenizer = sentencepiece()
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(folder)
    loaded = load(ModelRef(str(folder)))
    written(loaded, mixed(loaded.info, ["q4_0"]), "gguf", tmp_path / "out")
    texts = [PROSE.replace("\n", " "), "the goose, naïve 日本  and\tthe cat"]
    path = tmp_path / "out" / "model.gguf"
    keys = GgufFile(path).keys
    assert keys["tokenizer.chat_template"] == tokenizer.chat_template
    assert keys["tokenizer.ggml.tokens"][-8:] == [f"[unused {index}]" for index in range(376, 384)]
    (answer,) = run({"path": str(path), "texts": texts})
    assert answer["ids"] == [loaded.tokenizer(text)["input_ids"] for text in texts]


def test_tokenizers_that_llama_cpp_has_not_are_refused(tmp_path: Path) -> None:
    folder = save("llama", tmp_path / "model")
    tokens = folder / "tokenizer.json"
    good = json.loads(tokens.read_text())

    def refused(reason: str, **parts: Any) -> None:
        tokens.write_text(json.dumps({**good, **parts}))
        loaded = load(ModelRef(str(folder)))
        with pytest.raises(ExportError, match=reason):
            written(loaded, mixed(loaded.info, ["q4_0"]), "gguf", tmp_path / "out")

    words = {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    refused("rules of its own", pre_tokenizer={"type": "Sequence", "pretokenizers": [words, bytes_]})
    refused("changes text beforehand", normalizer={"type": "Lowercase"})
    sentencepiece(merges_all=False).save_pretrained(folder)
    good = json.loads(tokens.read_text())
    refused("otherwise than SentencePiece")


# --- what is in the way -------------------------------------------------------------------------------------


def test_a_model_that_llama_cpp_computes_otherwise_is_refused(tmp_path: Path) -> None:
    folder = save("llama", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu"}))
    loaded = load(ModelRef(str(folder)))
    with pytest.raises(ExportError, match="hidden_act = gelu"):
        written(loaded, mixed(loaded.info, ["q4_0"]), "gguf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_another_architecture_is_told_before(plain: dict[str, Case]) -> None:
    case = plain["llama"]
    other = replace(case.loaded.info, architecture="FalconForCausalLM")
    assert [problem.reason for problem in problems(TARGETS["gguf"], other, case.recipe)] == [
        "GGUF files are not written here for FalconForCausalLM."
    ]
    assert problems(TARGETS["gguf"], case.loaded.info, case.recipe) == ()


def test_experts_stored_as_one_tensor_are_cut_into_gate_and_up(
    plain: dict[str, Case], cases: dict[str, Case], tmp_path: Path
) -> None:
    case = cases["mixtral"]
    folder = save("mixtral", tmp_path / "model")
    tensors = {
        name: values.contiguous() for name, values in plain["mixtral"].loaded.model.state_dict().items()
    }
    assert any(name.endswith("experts.gate_up_proj") for name in tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for one in (case, plain["mixtral"]):
        loaded = load(ModelRef(str(folder)))
        file = exported(loaded, one.recipe, tmp_path / str(id(one))).path
        ours, theirs = GgufFile(file), GgufFile(one.path)
        assert ours.tensors.keys() == theirs.tensors.keys()
        for name, stored in ours.tensors.items():
            assert stored == replace(theirs.tensors[name], start=stored.start)
            if len(stored.shape) == 3:
                assert torch.equal(ours.matrix(name, 3), theirs.matrix(name, 3))


def test_gpt2_as_its_authors_stored_it(plain: dict[str, Case], tmp_path: Path) -> None:
    """Without a prefix, and with the attention's mask among the weights."""
    file = save("gpt2", tmp_path / "model") / "model.safetensors"
    tensors = load_file(plain["gpt2"].path.parents[1] / "model" / "model.safetensors")
    renamed = {name.removeprefix("transformer."): values for name, values in tensors.items()}
    masks = {f"h.{block}.attn.bias": torch.ones(1, 1, 256, 256).tril() for block in range(2)}
    save_file({**renamed, **masks}, file, metadata={"format": "pt"})
    loaded = load(ModelRef(str(file.parent)))
    ours = GgufFile(exported(loaded, plain["gpt2"].recipe, tmp_path / "out").path)
    theirs = GgufFile(plain["gpt2"].path)
    assert ours.tensors == {
        name: replace(stored, start=ours.tensors[name].start) for name, stored in theirs.tensors.items()
    }
    assert torch.equal(ours.matrix("blk.1.attn_qkv.weight"), theirs.matrix("blk.1.attn_qkv.weight"))


def test_a_rewritten_model_is_written_with_a_head_of_its_own(plain: dict[str, Case], tmp_path: Path) -> None:
    case = plain["llama"]
    setup = Setup(transforms=("rotate",))
    written(case.loaded, mixed(case.loaded.info, ["q8_0"], setup), "gguf", tmp_path / "out")
    path = tmp_path / "out" / "model.gguf"
    assert "output.weight" in GgufFile(path).tensors
    (answer,) = run({"path": str(path), "tokens": TOKENS[0].tolist(), "full": VOCABULARY})
    assert float(divergence(case, answer).max()) < 1e-3


# --- files of unknown origin --------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.00005, 0.01, 0.2, 0.999])
def test_a_file_that_ends_too_early_is_told_as_damaged(
    share: float, cases: dict[str, Case], tmp_path: Path
) -> None:
    whole = cases["llama"].path.read_bytes()
    (tmp_path / "model.gguf").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ExportError, match=r"model\.gguf is damaged"):
        dict(EXPORTERS["gguf"].read_back(tmp_path))


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of a few keys and one tensor."""
    path = tmp_path_factory.mktemp("little") / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_head_count(2)
    writer.add_token_list(["a", "b"])
    writer.add_token_scores([0.0, 1.0])
    writer.add_array("quantlens.stored", ["blk.0.attn_q.weight=q"])
    data = gguf.quants.quantize(np.ones((4, 32), np.float32), gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("blk.0.attn_q.weight", data, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_a_little_file_is_read(little: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(little)
    ((name, matrix),) = EXPORTERS["gguf"].read_back(tmp_path)
    assert name == "q"
    assert torch.equal(matrix, torch.ones(4, 32))


@settings(deadline=None, max_examples=300)
@given(data=st.data(), byte=st.sampled_from([0, 1, 2, 9, 127, 255]), count=st.sampled_from([1, 8]))
def test_whatever_the_bytes_are_it_is_read_or_refused(
    data: st.DataObject, byte: int, count: int, little: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Eight changed bytes make counts and offsets huge; nothing is allocated by them."""
    place = data.draw(st.integers(0, len(little) - count))
    path = tmp_path_factory.getbasetemp() / "model.gguf"
    path.write_bytes(little[:place] + bytes([byte]) * count + little[place + count :])
    with suppress(ExportError):
        for _, matrix in EXPORTERS["gguf"].read_back(path.parent):
            assert matrix.numel() <= 8 * len(little)
