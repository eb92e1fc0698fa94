"""The score state: its factors against definitions written out, its file, and rescoring against sweeps."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor

from quant_core.calibration.capture import Product, capture
from quant_core.errors import ModelError, QuantError
from quant_core.methods.rounder import Rounder
from quant_core.models.loading import LoadedModel
from quant_core.models.stored import StoredWeights
from quant_core.schema import (
    RescoreRequest,
    ScoreTable,
    SensitivityRequest,
    TextSource,
    dump,
    load,
    replace,
)
from quant_core.sensitivity.anchors import FITTED, OTHER, UNKNOWN, Anchor, anchor
from quant_core.sensitivity.factors import Moment, Term, behind_rows, cost, diagonal, root_of
from quant_core.sensitivity.keep import prune, too_large
from quant_core.sensitivity.rescore import DIAGONAL, rescore
from quant_core.sensitivity.run import run
from quant_core.sensitivity.state import ScoreState, pack, unpack
from tests.tiny import PROSE, FakeContext

TEXT = TextSource("inline", PROSE * 12, "prose")


def sweep(loaded: LoadedModel, *formats: str, **changes: Any) -> SensitivityRequest:
    info = loaded.info
    base = SensitivityRequest(info.ref, info.fingerprint, formats, TEXT, tokens=512, sequence=64)
    return replace(base, **changes)


def more(loaded: LoadedModel, table: ScoreTable, *formats: str, **changes: Any) -> RescoreRequest:
    base = RescoreRequest(loaded.info.ref, loaded.info.fingerprint, table.state, formats)
    return replace(base, **changes)


@pytest.fixture(scope="module")
def context(llama: LoadedModel) -> FakeContext:
    """A context whose folder holds the state of ``swept``."""
    return FakeContext(llama)


@pytest.fixture(scope="module")
def swept(llama: LoadedModel, context: FakeContext) -> ScoreTable:
    return run(context, sweep(llama, "int3", "int4", "int8", embeddings=True))


# --- factors --------------------------------------------------------------------------------------------------------


def test_inputs_and_gradients_of_rank_one_by_hand() -> None:
    """All tokens have x = (3, 4) and g = (1, -2): the score of dW is 1/2 (g . dW x)^2 whatever dW is.

    With dW = [[1, 0], [0, 1]]: g . dW x = 3 - 8 = -5, the score 12.5, and |dW x|^2 = 25.
    """
    x, g = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, -2.0]])
    found = cost(torch.eye(2), [Term(g, None)], x)
    assert tuple(found) == pytest.approx((12.5, 25.0))
    assert diagonal([Term(g, None)], x).tolist() == [[9.0, 16.0], [36.0, 64.0]]
    table = cost(torch.eye(2), [Term(torch.tensor([1.0, 2.0]), torch.eye(2))], torch.zeros(0, 2))
    assert tuple(table) == pytest.approx((2.5, 0.0)), "a diagonal root: 1/2 (1^2 + 2^2), and no inputs"


def test_the_root_of_a_moment_has_the_moment() -> None:
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    moment = Moment(6, 50, rows.device)
    for part in rows.split(7):
        moment.add(part)
    root = moment.root(50)
    torch.testing.assert_close(root.T @ root, rows.T @ rows / 50, rtol=1e-4, atol=1e-5)
    assert torch.equal(root, root.triu())
    flat = torch.ones(3, 3)
    torch.testing.assert_close(root_of(flat).T @ root_of(flat), flat, rtol=1e-3, atol=1e-5)
    assert not root_of(torch.zeros(3, 3)).any()


def test_wide_sides_are_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 rows of a wide side, at most 4 kept: every third, each standing for three, however they come in."""
    monkeypatch.setattr("quant_core.sensitivity.factors.WIDE", 1)
    monkeypatch.setattr("quant_core.sensitivity.factors.ROWS", 4)
    rows = torch.arange(20.0).view(10, 2)
    moment = Moment(2, 10, rows.device)
    for part in rows.split(4):
        moment.add(part)
    torch.testing.assert_close(moment.root(10), rows[::3] * math.sqrt(3 / 10))


@given(st.integers(1, 7), st.integers(0, 99))
def test_a_packed_root_unpacks(width: int, seed: int) -> None:
    root = torch.randn(width, width, generator=torch.Generator().manual_seed(seed)).triu()
    packed = pack(root)
    assert len(packed) == width * (width + 1) // 2
    assert torch.equal(unpack(packed, width).reshape(-1), root.reshape(-1))
    assert torch.equal(unpack(pack(root[0]), width).reshape(-1), root[0])


def _products(
    loaded: LoadedModel, ids: Tensor
) -> tuple[dict[str, Product], dict[str, Tensor], dict[str, Tensor]]:
    """Products of a forward pass by unit, gradients of one backward pass at their outputs, and behind attention."""
    products: dict[str, Product] = {}
    direct: dict[str, Tensor] = {}
    mixed: dict[str, Tensor] = {}

    class Watch:
        def forward(self, product: Product, outputs: Tensor) -> None:
            products[product.slot.unit.name] = product

        def backward(self, product: Product, gradient: Tensor) -> None:
            direct[product.slot.unit.name] = gradient

        def backward_mixed(self, product: Product, gradient: Tensor) -> None:
            mixed[product.slot.unit.name] = gradient

    model: Any = loaded.model
    with capture(loaded.graph, Watch(), model):
        logits = model(ids).logits
        noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
        logits.backward(noise, retain_graph=True)
    return products, direct, mixed


def test_pulling_back_is_the_transpose_of_pushing_forward(tiny: LoadedModel) -> None:
    """<J e, u> = <e, J' u> for any errors e at the keys' and values' projections and any u behind the attention."""
    products, _, mixed = _products(
        tiny, torch.randint(1, 384, (2, 20), generator=torch.Generator().manual_seed(1))
    )
    assert mixed
    for name, behind in mixed.items():
        product = products[name]
        assert product.slopes is not None
        assert product.pull is not None
        assert product.mixed is not None
        dice = torch.Generator().manual_seed(5)
        error = torch.randn(len(product.inputs), product.slot.unit.rows, generator=dice) * product.mixed
        vector = torch.randn(behind.shape, generator=dice)
        there, back = product.slopes([error], vector).sum(), (error * product.pull(vector)).sum()
        torch.testing.assert_close(there, back, rtol=1e-3, atol=1e-4)


def test_signed_pull_backs_have_the_mean_of_the_squared_slopes(llama: LoadedModel) -> None:
    """The mean over all signs of <M, dW>^2 is the sum of s_t^2, with s_t = g_t . (behind the attention) of dW x.

    Three tokens a sequence have eight signs, which are all gone through.
    """
    ids = torch.randint(1, 384, (2, 3), generator=torch.Generator().manual_seed(2))
    products, _, mixed = _products(llama, ids)
    for role in ("k_proj", "v_proj"):
        name = f"model.layers.1.self_attn.{role}.weight"
        product, gradient = products[name], mixed[name]
        assert product.slopes is not None
        assert product.pull is not None
        error = torch.randn(product.slot.matrix().shape, generator=torch.Generator().manual_seed(6))
        slopes = product.slopes([product.inputs @ error.T], gradient)
        squares = []
        for pattern in range(8):
            signs = torch.tensor([1.0 if pattern >> place & 1 else -1.0 for place in range(3)]).repeat(2)
            rows = behind_rows(product.pull(signs[:, None] * gradient), product.inputs, sequences=2)
            squares.append((rows * error).sum(dim=(1, 2)).square().sum())
        torch.testing.assert_close(torch.stack(squares).mean(), slopes.square().sum(), rtol=1e-3, atol=1e-8)


# --- anchors --------------------------------------------------------------------------------------------------------


def test_anchors_by_hand() -> None:
    """Ratios 2, 4 and 8: the median is 4; logarithms scatter by log 2 around it; errors are a tenth."""
    found = anchor([2.0, 8.0, 8.0], [0.2, 0.8, 0.8], [1.0, 2.0, 1.0])
    assert found.ratio == pytest.approx(4.0)
    assert found.relative == pytest.approx(math.hypot(0.1, math.log(2), OTHER))
    assert anchor([3.0], [0.0], [1.0]).relative == pytest.approx(math.hypot(UNKNOWN, OTHER))
    assert Anchor(2.0, 0.3).score(5.0) == pytest.approx((10.0, 3.0))
    assert Anchor(2.0, 0.3).score(5.0, fitted=True) == pytest.approx((10.0, 10 * math.hypot(0.3, FITTED)))
    assert anchor([], [], []) == anchor([0.0], [0.0], [0.0]) == Anchor(1.0, 1.0)


# --- the state of a sweep -------------------------------------------------------------------------------------------


def test_factors_are_the_dense_fisher_of_independent_samples(
    llama: LoadedModel, context: FakeContext, swept: ScoreTable
) -> None:
    """For an ordinary layer: 1/2 vec(dW)' (A (x) G) vec(dW) with moments gathered by hooks of this test.

    The dense matrix of one small layer is built in float64; the stored one went through float16.
    """
    name = "model.layers.1.self_attn.o_proj.weight"
    state = ScoreState(context.folder(), swept.state, llama.info.fingerprint)
    scorer = state.scorer(name, torch.device("cpu"))
    error = torch.randn(64, 64, generator=torch.Generator().manual_seed(4))
    ids = state.tokens().ids
    kept: list[Tensor] = []
    module = llama.model.get_submodule(name.removesuffix(".weight"))
    handle = module.register_forward_hook(lambda module, args, output: kept.append(args[0].flatten(0, 1)))
    with torch.no_grad():
        llama.model(ids)
    handle.remove()
    inputs = kept[0].double()
    moment = inputs.T @ inputs / len(inputs)
    torch.testing.assert_close(scorer.inputs.T @ scorer.inputs, moment.float(), rtol=2e-3, atol=2e-4)
    (term,) = scorer.terms
    gradient = term.left.double().T @ term.left.double()
    dense = torch.kron(gradient, moment)
    flat = error.double().flatten()
    expected = float(flat @ dense @ flat) / 2 * scorer.unit.anchor.ratio
    assert scorer.score(error)[0] == pytest.approx(expected, rel=2e-3)


def test_rescoring_a_format_of_the_sweep_gives_about_its_score(
    llama: LoadedModel, context: FakeContext, swept: ScoreTable
) -> None:
    """Weight and output errors are the sweep's own; the score comes as near as its own error says."""
    again = rescore(context, more(llama, swept, "int3", "int4"))
    assert again.rescored == again.formats == ("int3/g64/asym", "int4/g64/asym")
    assert (again.tokens, again.sequences, again.text_hash) == (
        swept.tokens,
        swept.sequences,
        swept.text_hash,
    )
    assert again.storage_bits == tuple(row[:2] for row in swept.storage_bits)
    np.testing.assert_allclose(np.array(again.weight), np.array(swept.weight)[:, :2], rtol=1e-5)
    np.testing.assert_allclose(np.array(again.output), np.array(swept.output)[:, :2], rtol=5e-3)
    ours, theirs = np.array(again.fisher), np.array(swept.fisher)[:, :2]
    assert np.all(np.abs(ours - theirs) < 3 * np.array(again.fisher_stderr))


def test_a_new_format_is_scored_as_a_sweep_would(tiny: LoadedModel) -> None:
    """Every architecture: columns from the state rank layers like those of a sweep in the same formats."""
    context = FakeContext(tiny)
    asked = sweep(tiny, "int3", "int4", embeddings=True)
    table = run(context, asked)
    there = run(context, replace(asked, formats=("int2", "nf4")))
    ours = rescore(context, more(tiny, table, "int2", "nf4"))
    assert ours.units == there.units
    for column in range(2):
        a, b = np.array(ours.fisher)[:, column], np.array(there.fisher)[:, column]
        assert spearmanr(a, b).statistic > 0.9
        assert a.sum() == pytest.approx(b.sum(), rel=0.25)


def test_methods_round_without_the_model(
    llama: LoadedModel, context: FakeContext, swept: ScoreTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the state keeps of inputs rounds as well as a pass over the text does; no forward pass is run."""
    tokens = ScoreState(context.folder(), swept.state, llama.info.fingerprint).tokens()
    name = "model.layers.0.mlp.down_proj.weight"
    rounder = Rounder(context, llama, tokens)
    inputs = rounder.inputs(llama.graph.slots[name])
    kept = ScoreState(context.folder(), swept.state, llama.info.fingerprint).inputs(name, torch.device("cpu"))
    scale = float(inputs.moment.abs().max())
    torch.testing.assert_close(kept.moment, inputs.moment, rtol=0, atol=1e-3 * scale)
    torch.testing.assert_close(kept.mean_abs, inputs.mean_abs, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(kept.largest, inputs.largest, rtol=2e-3, atol=1e-4)
    assert kept.rows == inputs.rows == 512

    def forward(*_: object, **__: object) -> None:
        raise AssertionError("the model is not run")

    monkeypatch.setattr(llama.model, "forward", forward)
    formats = (
        "int2",
        "int2@gptq",
        "int2@imatrix",
        "int2@fisher",
        "int2@mse",
        "int2@hqq",
        "int2@learned:steps=50",
    )
    table = rescore(context, more(llama, swept, *formats, units=(name,)))
    assert table.units == (name,)
    assert DIAGONAL in table.notes
    scores = dict(zip(table.formats, table.output[0], strict=True))
    plain = scores["int2/g64/asym"]
    for method in ("gptq", "imatrix", "learned:steps=50"):
        assert scores[f"int2/g64/asym@{method}"] < plain
    assert len(set(scores.values())) >= 6


def test_same_state_same_numbers_and_another_seed_another_state(
    llama: LoadedModel, swept: ScoreTable, context: FakeContext
) -> None:
    elsewhere = FakeContext(llama)
    again = run(elsewhere, sweep(llama, "int3", "int4", "int8", embeddings=True))
    assert again.state == swept.state
    first, second = (rescore(place, more(llama, swept, "nf4")) for place in (context, elsewhere))
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)
    assert run(elsewhere, sweep(llama, "int3", seed=1)).state != run(elsewhere, sweep(llama, "int3")).state


FRESH = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from quant_core import schema
from quant_core.sensitivity.rescore import rescore

request = schema.load(schema.RescoreRequest, json.loads(sys.argv[1]))
context = SimpleNamespace(progress=lambda *_: None, folder=lambda: Path(sys.argv[2]))
print(json.dumps([schema.dump(rescore(context, request)), "transformers" in sys.modules]))
"""


def test_a_fresh_process_finds_the_same_numbers_and_needs_no_model(
    llama: LoadedModel, context: FakeContext, swept: ScoreTable
) -> None:
    """Days later: the file, the checkpoint and no more; transformers, which takes longest to load, is not loaded."""
    request = more(llama, swept, "nf4", "int3@imatrix")
    command = [sys.executable, "-c", FRESH, json.dumps(dump(request)), str(context.folder())]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    data, transformers = json.loads(ended.stdout)
    here, there = rescore(context, request), load(ScoreTable, data)
    assert not transformers
    assert (there.units, there.formats, there.notes) == (here.units, here.formats, here.notes)
    for score in ("fisher", "fisher_stderr", "output", "weight"):
        np.testing.assert_allclose(getattr(there, score), getattr(here, score), rtol=1e-5)


def test_weights_read_by_name_are_the_models(tiny: LoadedModel, tmp_path: Path) -> None:
    """Where a unit is stored as a matrix under its name; what is renamed, turned or stacked is not claimed."""
    info = tiny.info
    stored = StoredWeights(info.ref, (), info.fingerprint, info.compute_dtype)
    held = [unit for unit in info.units if stored.holds(unit)]
    for unit in held:
        assert torch.equal(stored.slot(unit).matrix(), tiny.graph.slots[unit.name].matrix())
    odd = {"GPT2LMHeadModel": {"conv1d"}, "MixtralForCausalLM": {"expert"}}.get(info.architecture, set())
    assert {unit.kind for unit in info.units if unit not in held} == odd
    with pytest.raises(ModelError, match="has changed"):
        StoredWeights(info.ref, (), "0" * 24, info.compute_dtype)
    assert not stored.holds(replace(held[0], rows=held[0].rows + 1))


def test_rewritten_models_are_rescored_rewritten(llama: LoadedModel) -> None:
    context = FakeContext(llama)
    asked = sweep(llama, "int3", "int4")
    rotated = replace(asked, setup=replace(asked.setup, transforms=("rotate",)))
    table = run(context, rotated)
    ours, there = rescore(context, more(llama, table, "int3")), np.array(table.weight)[:, 0]
    np.testing.assert_allclose(np.array(ours.weight)[:, 0], there, rtol=1e-5)
    assert ours.transforms == ("rotate",)


# --- when it goes wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "header", "tensor", "gone", "name"])
def test_a_lost_or_damaged_state_is_told_with_a_remedy(llama: LoadedModel, damage: str) -> None:
    context = FakeContext(llama)
    table = run(context, sweep(llama, "int4", tokens=128))
    file = next(context.folder().glob("state-*"))
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "header":
        file.write_bytes(data.replace(b"anchor", b"anchxx"))
    elif damage == "tensor":
        file.write_bytes(data.replace(b'|root"', b'|toor"'))
    elif damage == "gone":
        file.unlink()
    else:
        table = replace(table, state="../../etc/passwd")
    with pytest.raises(QuantError) as error:
        rescore(context, more(llama, table, "int3"))
    assert "state" in error.value.message
    assert "Score the layers again" in error.value.hint


def test_a_state_of_another_model_and_an_unknown_unit_are_refused(
    llama: LoadedModel, context: FakeContext, swept: ScoreTable
) -> None:
    with pytest.raises(QuantError, match="another model"):
        ScoreState(context.folder(), swept.state, "0" * 24)
    with pytest.raises(QuantError, match="did not score"):
        rescore(context, more(llama, swept, "int4", units=("no.such.layer",)))
    with pytest.raises(QuantError, match="int77"):
        rescore(context, more(llama, swept, "int77"))


def test_old_states_make_room_and_the_newest_stays(tmp_path: Path) -> None:
    for place, name in enumerate("abc"):
        (tmp_path / f"state-{name}.safetensors").write_bytes(b"x" * 10)
        os.utime(tmp_path / f"state-{name}.safetensors", (place, place))
    (tmp_path / "trained-z.safetensors").write_bytes(b"x" * 100)
    prune(tmp_path, room=25)
    assert {path.name for path in tmp_path.iterdir()} == {
        "state-b.safetensors", "state-c.safetensors", "trained-z.safetensors",
    }  # fmt: skip
    prune(tmp_path, room=1)
    assert (tmp_path / "state-c.safetensors").exists()


def test_without_room_the_sweep_has_no_state_and_says_so(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quant_core.sensitivity.keep._SHARE", 0.0)
    context = FakeContext(llama)
    assert too_large(list(llama.graph.slots.values()), context.folder())
    table = run(context, sweep(llama, "int4", tokens=128))
    assert table.state == ""
    assert any("No score state was kept" in note for note in table.notes)
    assert not list(context.folder().glob("state-*"))


def test_other_scores_leave_no_state(llama: LoadedModel) -> None:
    context = FakeContext(llama)
    assert run(context, sweep(llama, "int4", score="output", tokens=128)).state == ""
