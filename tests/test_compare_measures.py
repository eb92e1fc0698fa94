"""What Compare measures beside texts: prompt sets, multiple choice, the spread of KL, speed; and votes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from quant_core import plots
from quant_core.errors import TextError
from quant_core.evaluation import energy, speed
from quant_core.evaluation.choices import choices
from quant_core.evaluation.generation import generate
from quant_core.evaluation.prompts import prompts
from quant_core.evaluation.quality import evaluate
from quant_core.evaluation.tails import histogram, tails
from quant_core.formats import fake_quantize, find
from quant_core.models.loading import LoadedModel
from quant_core.question_files import MOST_PROMPTS, bundled_prompts, read_prompts, read_questions
from quant_core.schema import (
    ChoicesRequest,
    EvaluateRequest,
    GenerateRequest,
    KlTails,
    ModelRef,
    PromptsRequest,
    Question,
    ReadingEvent,
    SpeedRequest,
    TailsRequest,
    TextSource,
    VariantSpec,
    replace,
)
from quant_core.significance import paired, picks, sign_test, wilson
from quant_core.store import Store
from quant_core.store.keys import request_key
from quant_core.store.votes import Vote
from quant_core.targets.energy import token_joules
from tests.tiny import PROSE, FakeContext

TEXT = TextSource("inline", PROSE * 12, "prose")
QUESTIONS = (
    Question(
        "The captain had", ("painted over its name.", "a goose", "set off at noon, and was never seen"), 0
    ),
    Question("Her crew was a cook,", ("a clock mender", "two"), 1),
    Question("By noon the wind", ("turned;", "slept;", "x"), 2),
)


def _everything(loaded: LoadedModel, form: str) -> dict[str, str]:
    return {unit.name: form for unit in loaded.info.units if unit.decided}


# --- could it be chance? --------------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_sign_test_is_scipys_binomial_test(first: int, second: int) -> None:
    count = first + second
    expected = scipy.stats.binomtest(first, count, 0.5).pvalue if count else 1.0
    assert sign_test(first, second) == pytest.approx(expected, rel=1e-9)


def test_the_sign_test_by_hand() -> None:
    """Nine of ten: 2 (1 + 10) / 1024."""
    assert sign_test(9, 1) == sign_test(1, 9) == 22 / 1024
    assert sign_test(1, 0) == 1.0
    assert sign_test(2000, 0) == 0.0, "too small for a float, and no overflow"


@given(st.integers(1, 300).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_the_interval_is_scipys_wilson(pair: tuple[int, int]) -> None:
    hits, count = pair
    expected = scipy.stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_pairs_are_counted_by_hand() -> None:
    """Raw sums find the short choice likelier, per byte the long one; a tie goes to the first."""
    asked = (Question("q", ("ab", "abcdefgh"), 1), Question("q", ("a", "é"), 0), Question("q", ("x", "y"), 1))
    original = ((-2.0, -4.0), (-3.0, -3.0), (-2.0, -1.0))
    recipe = ((-5.0, -4.0), (-1.0, -0.5), (-1.0, -2.0))
    assert picks(asked, original, per_byte=False) == [0, 0, 1]
    assert picks(asked, original, per_byte=True) == [1, 1, 1], "é has two bytes"
    found = paired(asked, original, recipe, per_byte=False)
    assert (found.original.right, found.recipe.right, found.lost, found.won) == (2, 1, 2, 1)
    assert found.p == 1.0
    assert found.original.share == pytest.approx(2 / 3)


# --- what users bring -----------------------------------------------------------------------------------------------


def test_the_bundled_prompts_are_a_set() -> None:
    found = read_prompts(bundled_prompts())
    assert 12 <= len(found) <= 20
    assert len(set(found)) == len(found)


def test_prompts_are_one_a_line() -> None:
    assert read_prompts("\n one \n\n two\r\n") == ("one", "two")
    with pytest.raises(TextError, match="no prompt"):
        read_prompts(" \n")
    with pytest.raises(TextError, match=f"Keep to {MOST_PROMPTS}"):
        read_prompts("x\n" * 101)


@pytest.mark.parametrize(
    "line",
    [
        {"question": "A", "choices": ["x", "y"], "answer": 1},
        {"context": "A", "choices": ["x", "y"], "gold": [1]},
        {"query": "A", "options": ["x", "y"], "answer": "y"},
        {"ctx": "A", "endings": ["x", "y"], "label": "1"},
        {"prompt": "A", "choices": ["x", "y"], "answer": "b"},
        {"question": "A", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
    ],
)
def test_questions_are_read_by_the_names_that_are_in_use(line: dict[str, Any]) -> None:
    assert read_questions(json.dumps(line)).questions == (Question("A", ("x", "y"), 1),)


def test_bad_lines_are_named_and_nothing_else_is_lost() -> None:
    good = '{"question": "A", "choices": ["x", "y"], "answer": 0}'
    lines = ["{", good, '{"question": "A", "choices": ["x"], "answer": 0}', "", "[1]", good, "{]",
             '{"question": "A", "choices": ["x", "y"], "answer": true}', '{"choices": ["x", "y"], "answer": 0}',
             '{"question": "A", "choices": ["x", 2], "answer": 0}']  # fmt: skip
    found = read_questions("\n".join(lines))
    assert len(found.questions) == 2
    assert found.left_out == (
        "Left out: lines 1, 7 (no JSON); line 3 (not 2 to 26 choices); line 5 (no JSON object); line 8 (an answer "
        "that is none of the choices); line 9 (no question); line 10 (no list of choices)."
    )
    with pytest.raises(TextError, match=r"holds no question. Left out: line 1 \(no JSON\)"):
        read_questions("nonsense")


# --- multiple choice ------------------------------------------------------------------------------------------------


def _scored(loaded: LoadedModel, form: str = "int2/g64/asym", questions: Any = QUESTIONS) -> Any:
    info = loaded.info
    asked = ChoicesRequest(info.ref, info.fingerprint, questions, _everything(loaded, form))
    return choices(FakeContext(loaded), asked)


def _alone(loaded: LoadedModel, context: str, choice: str) -> float:
    """One choice by transformers' own loss over the whole text less that over the context."""
    tokenizer: Any = loaded.tokenizer
    model: Any = loaded.model
    ids = tokenizer(f"{context} {choice}", return_tensors="pt")["input_ids"]
    before = len(tokenizer(context)["input_ids"])
    labels = ids.clone()
    labels[:, :before] = -100
    with torch.no_grad():
        return -float(model(ids, labels=labels).loss) * (ids.shape[1] - before)


def test_each_choice_equals_a_pass_of_its_own(llama: LoadedModel) -> None:
    found = _scored(llama)
    for question, row in zip(QUESTIONS, found.original, strict=True):
        assert row == pytest.approx(
            [_alone(llama, question.context, one) for one in question.choices], rel=1e-4
        )
    kept = {name: llama.graph.slots[name].matrix().clone() for name in _everything(llama, "")}
    with torch.no_grad():
        for name, matrix in kept.items():
            llama.graph.slots[name].matrix().copy_(fake_quantize(find("int2/g64/asym"), matrix))
        rounded = [[_alone(llama, each.context, one) for one in each.choices] for each in QUESTIONS]
        for name, matrix in kept.items():
            llama.graph.slots[name].matrix().copy_(matrix)
    assert [list(row) for row in found.recipe] == [pytest.approx(row, rel=1e-4) for row in rounded]
    assert found.cut == 0


def test_nothing_rounded_nothing_differs(tiny: LoadedModel) -> None:
    found = _scored(tiny, "original")
    assert found.original == found.recipe
    assert paired(QUESTIONS, found.original, found.recipe, per_byte=True).p == 1.0


def test_a_context_too_long_loses_its_beginning(llama: LoadedModel) -> None:
    question = Question("word " * 400 + QUESTIONS[1].context, QUESTIONS[1].choices, 1)
    found = _scored(llama, questions=(question, QUESTIONS[0]))
    assert found.cut == 1
    assert all(math.isfinite(score) for row in found.original for score in row)


# --- a set of prompts -----------------------------------------------------------------------------------------------


def test_a_set_is_written_as_its_prompts_alone(llama: LoadedModel) -> None:
    info, coarse = llama.info, _everything(llama, "int2/g64/asym")
    variants = (VariantSpec(), VariantSpec(coarse))
    asked = PromptsRequest(
        info.ref, info.fingerprint, ("The cat", "A small ship"), variants, tokens=8, seed=3
    )
    found = prompts(FakeContext(llama), asked)
    alone = [
        generate(
            FakeContext(llama), GenerateRequest(info.ref, info.fingerprint, prompt, coarse, 8, 3 + place)
        )
        for place, prompt in enumerate(asked.prompts)
    ]
    assert found.texts == tuple(("".join(one.original), "".join(one.recipe)) for one in alone)
    with pytest.raises(TextError, match=r"Prompt 2: .* exceeds"):
        prompts(FakeContext(llama), replace(asked, prompts=("a", "a " * 300)))


def test_a_label_is_no_part_of_what_is_asked(llama: LoadedModel) -> None:
    info = llama.info
    first, second = (
        PromptsRequest(info.ref, info.fingerprint, ("a",), (VariantSpec(), VariantSpec(label=label)))
        for label in ("x", "y")
    )
    assert request_key(first) == request_key(second)


def test_a_text_is_measured_when_it_has_ended(llama: LoadedModel) -> None:
    context = FakeContext(llama)
    info = llama.info
    found = generate(context, GenerateRequest(info.ref, info.fingerprint, "The cat", {}, 6))
    told = [event for event in context.events if isinstance(event, ReadingEvent)]
    assert {event.side: event.reading for event in told} == dict(found.readings)


# --- votes ----------------------------------------------------------------------------------------------------------


def test_votes_are_kept_and_the_newest_of_a_voter_counts(store: Store) -> None:
    store.votes.add("run", "ann", 0, 1)
    store.votes.add("run", "bob", 0, 0)
    store.votes.add("run", "ann", 0, -1)
    store.votes.add("other", "ann", 0, 1)
    store.votes.add("run", "ann", 1, 0)
    assert store.votes.of("run") == [Vote("bob", 0, 0), Vote("ann", 0, -1), Vote("ann", 1, 0)]
    assert len(store.database.query("SELECT * FROM votes")) == 5


@pytest.fixture
def store(tmp_path: Any) -> Iterator[Store]:
    found = Store(tmp_path)
    yield found
    found.close()


# --- the spread of KL -----------------------------------------------------------------------------------------------


def test_the_spread_is_that_of_a_direct_computation(llama: LoadedModel) -> None:
    info, coarse = llama.info, _everything(llama, "int3/g64/asym")
    found = tails(FakeContext(llama), TailsRequest(info.ref, info.fingerprint, coarse, TEXT, 512, 64))
    measured = evaluate(
        FakeContext(llama), EvaluateRequest(info.ref, info.fingerprint, coarse, TEXT, 512, 64)
    )
    assert (found.tokens, found.text_hash) == (measured.tokens, measured.text_hash)
    assert found.mean == pytest.approx(measured.kl_mean, rel=1e-5)
    assert found.median == pytest.approx(measured.kl_median, rel=1e-5)
    assert found.p99 == pytest.approx(measured.kl_p99)
    assert found.median < found.p90 < found.p99 <= found.p999 <= found.maximum
    assert sum(found.counts) == found.tokens
    assert len(found.counts) == len(found.edges) - 1
    worst = [place.kl for place in found.worst]
    assert len(worst) == 10
    assert worst == sorted(worst, reverse=True)
    assert worst[0] == pytest.approx(found.maximum)
    over = sum(kl > 0.1 for kl in worst) / found.tokens
    assert found.over >= over - 1e-9
    place = found.worst[0]
    text = PROSE * 12
    assert place.token in text
    assert place.before[-12:] in text
    assert place.original[0].probability >= place.original_chance
    assert place.recipe[0].probability >= place.recipe_chance


@given(st.lists(st.floats(0, 50), min_size=1, max_size=50))
def test_every_token_is_in_one_bin(values: list[float]) -> None:
    edges = [0.001, 0.01, 0.1, 1.0]
    ordered = torch.tensor(sorted(values), dtype=torch.float64)
    expected = np.histogram(values, [-np.inf, 0.01, 0.1, np.inf])[0]
    assert histogram(ordered, edges) == tuple(expected.tolist())


def test_the_drawn_spread_keeps_the_bins_from_the_first_token_to_the_last() -> None:
    edges = (1e-3, 1e-2, 0.1, 1.0, 10.0)
    found = KlTails(edges, (0, 3, 0, 1), 0.6, 0.05, 2.0, 2.0, 2.0, 2.0, 0.25, (), 4, "", "", 0.0)
    data = plots.kl_spread(found)
    assert (data.edges, data.counts, data.shares) == (edges[1:], (3, 0, 1), (0.75, 0.0, 0.25))
    assert data.marks == (("median", 0.05), ("99 %", 2.0), ("99.9 %", 2.0))
    assert not plots.kl_spread(replace(found, maximum=0.0)).edges


# --- speed and energy -----------------------------------------------------------------------------------------------


def test_variants_are_timed_in_turns_after_warming_up(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that ticks a second a look: a prompt takes one, and so does all that is written behind it."""
    ticks = iter(range(10_000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(speed, "energy_counter", lambda device: lambda: 50.0 * next(ticks))
    monkeypatch.setattr(speed, "_idle", lambda counter: 30.0)
    info = llama.info
    variants = (VariantSpec(), VariantSpec(_everything(llama, "int4/g64/asym")))
    asked = SpeedRequest(info.ref, info.fingerprint, variants, prompt=16, tokens=5, repeats=3)
    found = speed.speed(FakeContext(llama), asked)
    assert len(found.variants) == 2
    assert found.idle == 30.0
    for one in found.variants:
        assert one.first == (1.0, 1.0, 1.0)
        assert one.prompt == (16.0, 16.0, 16.0)
        assert one.decode == (2.0, 2.0, 2.0), "four tokens in two ticks: the counter took one"
        assert one.joules == (100.0 / 4, (100.0 - 30.0 * 2.0) / 4)
        assert one.peak > 0


def test_a_prompt_beyond_the_context_is_refused(llama: LoadedModel) -> None:
    info = llama.info
    with pytest.raises(TextError, match="exceed the model's 256"):
        speed.speed(
            FakeContext(llama), SpeedRequest(info.ref, info.fingerprint, (VariantSpec(),), prompt=250)
        )


def test_what_is_timed_is_kept_apart_by_device(llama: LoadedModel) -> None:
    first, second = (
        SpeedRequest(ModelRef("bundled", device=device), llama.info.fingerprint, (VariantSpec(),))
        for device in ("cpu", "cuda")
    )
    assert request_key(first) != request_key(second)


def test_a_cpu_has_no_counter_of_energy() -> None:
    assert energy.energy_counter(torch.device("cpu")) is None


def test_energy_is_estimated_by_hand() -> None:
    """8 GB at 1.3 to 2.6 nJ for 8 bytes, and 10^9 multiplications with an addition at 1.5 pJ."""
    assert token_joules(8e9, 1e9) == pytest.approx((1.3 + 0.0015, 2.6 + 0.0015))
