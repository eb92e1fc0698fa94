"""Text to learn from and text to score on: apart where a rounding learns, and the sweep that heeds it."""

from __future__ import annotations

import pytest
import torch

from quant_core.calibration.text import stretches, tokenize
from quant_core.errors import TextError
from quant_core.formats import find
from quant_core.methods.rounder import Rounder
from quant_core.models.loading import LoadedModel
from quant_core.schema import SensitivityRequest, TextSource
from quant_core.sensitivity.errors import RoundingErrors
from quant_core.sensitivity.fisher import score_layers
from quant_core.sensitivity.rescore import SAME_TEXT, rescore
from quant_core.sensitivity.run import run
from quant_core.sensitivity.state import ScoreState
from tests.test_score_state import more
from tests.tiny import PROSE, FakeContext

TEXT = TextSource("inline", PROSE * 12, "prose")
FORMATS = ("int3/g32/asym@gptq", "int4/g32/asym")


def test_what_is_scored_lies_behind_what_is_learned_from(llama: LoadedModel) -> None:
    context = FakeContext(llama)
    found = stretches(context, llama, TEXT, 512, 64, apart=True)
    both = tokenize(context, llama, TEXT, 1024, 64).ids
    assert torch.equal(found.learned.ids, tokenize(context, llama, TEXT, 512, 64).ids)
    assert torch.equal(torch.cat([found.learned.ids, found.scored.ids]), both)
    assert "learn from the first 512 tokens, and scores are over the next 512" in found.note
    same = stretches(context, llama, TEXT, 512, 64, apart=False)
    assert same.learned is same.scored
    assert same.note == ""


def test_a_text_too_short_for_both_is_halved(llama: LoadedModel) -> None:
    context = FakeContext(llama)
    short = TextSource("inline", PROSE * 4, "prose")
    whole = tokenize(context, llama, short, 10_000, 64)
    found = stretches(context, llama, short, 512, 64, apart=True)
    shape = found.learned.ids.shape
    assert found.scored.ids.shape == shape
    assert 2 * found.learned.count <= whole.count + 2 * shape[1]
    assert found.learned.count > 0.8 * whole.count / 2
    stream = torch.cat([found.learned.ids.flatten(), found.scored.ids.flatten()])
    assert torch.equal(stream, whole.ids.flatten()[: len(stream)])
    assert "first half of the text and scores are over the second" in found.note
    with pytest.raises(TextError, match="at least 128 are needed"):
        stretches(context, llama, TextSource("inline", PROSE[:200], "prose"), 512, 64, apart=True)


def test_text_that_the_model_writes_is_written_twice(llama: LoadedModel) -> None:
    context = FakeContext(llama)
    found = stretches(context, llama, TextSource("self", seed=3), 128, 32, apart=True)
    again = tokenize(context, llama, TextSource("self", seed=4), 128, 32)
    assert torch.equal(found.scored.ids, again.ids)
    assert not torch.equal(found.learned.ids, again.ids)
    assert "scores are over another (written by the model, seed 4)" in found.note


def test_no_rounding_is_scored_on_the_text_it_learned_from(llama: LoadedModel) -> None:
    """At 2,048 tokens and 4.5 bits GPTQ was predicted half of what other text then measured."""
    context, info = FakeContext(llama), llama.info
    asked = SensitivityRequest(info.ref, info.fingerprint, FORMATS, TEXT, tokens=512, sequence=64)
    table = run(context, asked)
    learned, scored, note = stretches(context, llama, TEXT, 512, 64, apart=True)
    slots = [llama.graph.slots[name] for name in table.units]
    errors = RoundingErrors([find(name) for name in FORMATS], Rounder(context, llama, learned))
    expected = score_layers(context, llama, scored, slots, errors, seed=0)
    assert expected.fisher is not None
    torch.testing.assert_close(torch.tensor(table.fisher), expected.fisher.mean(dim=-1))
    assert (table.tokens, table.notes[0]) == (512, note)
    state = ScoreState(context.folder(), table.state, info.fingerprint)
    assert torch.equal(state.tokens().ids, scored.ids)
    assert torch.equal(state.learned().ids, learned.ids)
    assert rescore(context, more(llama, table, "int2/g32/asym@gptq")).notes == (SAME_TEXT,)
    assert rescore(context, more(llama, table, "int2/g32/asym@mse")).notes == ()
