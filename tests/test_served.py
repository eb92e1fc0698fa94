"""Served models: the client against llama.cpp's own server and on bad days, top-k KL, checks, and texts."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_core import served
from quant_core.errors import EndpointError
from quant_core.evaluation.check import Vocabulary, check
from quant_core.evaluation.endpoint import Entry, Server
from quant_core.evaluation.served_text import served_text
from quant_core.metrics import kl_divergence, top_k_kl
from quant_core.models.loading import LoadedModel
from quant_core.schema import CheckRequest, Divergence, Endpoint, Recipe, ServedRequest, TokenEvent
from tests.endpoints import Answer, llama_cpp, made_server
from tests.exported import mixed, written
from tests.tiny import VOCABULARY, FakeContext

PLAIN = 65
"""The token of a letter."""

# --- top-k KL


def test_top_k_kl_by_hand() -> None:
    """Two of four tokens are named; 0.25 and 0.5 are left for the rest."""
    reference = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    tokens, others = torch.tensor([[1, 0, -1]]), torch.tensor([[0.25, 0.25, 1.0]]).log()
    expected = 0.5 * math.log(0.5 / 0.25) + 0.25 * math.log(0.25 / 0.25) + 0.25 * math.log(0.25 / 0.5)
    assert float(top_k_kl(reference, tokens, others)) == pytest.approx(expected, abs=1e-7)


_LOGITS = st.lists(st.floats(-8, 8), min_size=6, max_size=6)


@given(_LOGITS, _LOGITS, st.integers(1, 6))
def test_top_k_kl_lies_between_nothing_and_the_whole(first: list[float], second: list[float], k: int) -> None:
    """It grows with k, and with all tokens named it is the KL."""
    p, q = (torch.tensor([row], dtype=torch.float64).log_softmax(dim=-1) for row in (first, second))
    order = q[0].argsort(descending=True)
    found = [float(top_k_kl(p, order[None, :n], q[:, order[:n]])) for n in (k, 6)]
    whole = float(kl_divergence(p, q))
    assert 0.0 <= found[0] <= found[1] + 1e-6
    assert found[1] == pytest.approx(whole, abs=1e-6)


def test_what_is_certain_leaves_a_finite_rest() -> None:
    """One token that the other gives all of its probability, and the reference none."""
    reference = torch.tensor([[-40.0, 0.0]])
    found = float(top_k_kl(reference, torch.tensor([[0]]), torch.tensor([[0.0]])))
    assert 10 < found < 20


# --- llama.cpp


@dataclass(frozen=True)
class Case:
    """A tiny model, the recipe that was approved, and a server of its file."""

    loaded: LoadedModel
    recipe: Recipe
    address: str


@pytest.fixture(scope="module")
def case(llama: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    recipe = mixed(llama.info, ["q4_0"])
    folder = tmp_path_factory.mktemp("served") / "out"
    written(llama, recipe, "gguf", folder)
    with llama_cpp(folder / "model.gguf") as address:
        yield Case(llama, recipe, address)


def asked(case: Case, **changes: Any) -> CheckRequest:
    info = case.loaded.info
    return CheckRequest(
        info.ref, info.fingerprint, Endpoint(case.address), case.recipe.assignment(),
        **{"tokens": 128, "sequence": 32, "k": 20, **changes},
    )  # fmt: skip


def test_llama_cpp_serves_what_was_approved_and_not_the_original(case: Case) -> None:
    """It rounds the inputs of its layers to 8 bits, which is little beside what 4 bits do to the weights."""
    found = check(FakeContext(case.loaded), asked(case))
    assert found.k == 20
    assert found.tokens == 120
    assert 121 < found.requests < 150, (
        "a whole sequence in vain, every prefix, some again where the text would end"
    )
    assert 0.1 < found.coverage < 1
    assert found.approved.high < 5e-5
    assert found.original.low > 5e-4
    assert served.verdict(found.approved, 5e-4) == "same"
    assert served.verdict(found.original, 5e-4) == "changed"
    assert found.top1_agreement > 0.95
    assert not found.notes


def test_of_all_tokens_it_is_the_kl_worked_out_otherwise(case: Case) -> None:
    """Each position's whole distribution, asked for by hand, against the original's own logits."""
    found = check(FakeContext(case.loaded), asked(case, k=VOCABULARY, tokens=64, sequence=9))
    assert found.coverage == pytest.approx(1.0, abs=1e-4)
    total, count = 0.0, 0
    text = (Path(__file__).parents[1] / "assets/texts/evaluation.txt").read_text().replace("\n%\n", "\n")
    stream = case.loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    length = 64 // 8
    with Server(Endpoint(case.address)) as server:
        for start in range(0, 8 * length, length):
            ids = stream[start : start + length]
            with torch.no_grad():
                ours = case.loaded.model(torch.tensor([ids])).logits[0, :-1].double().softmax(-1)
            for place, entries in enumerate(server.predictions(ids, VOCABULARY, PLAIN)):
                for entry in entries:
                    p = float(ours[place, entry.token])
                    total += p * (math.log(p) - entry.log_prob)
                count += 1
    assert count == found.tokens == 56
    assert found.original.mean == pytest.approx(total / count, rel=1e-3)


def test_a_served_text_is_streamed_and_greedy_as_ours(case: Case) -> None:
    info = case.loaded.info
    request = ServedRequest(
        info.ref, info.fingerprint, Endpoint(case.address), "nobody", case.recipe.assignment(), 12
    )
    context = FakeContext(case.loaded)
    found = served_text(context, request)
    assert found.counted
    assert found.written == 12
    assert found.first > 0
    emitted = [
        event.text for event in context.events if isinstance(event, TokenEvent) and event.side == "other"
    ]
    assert tuple(emitted) == found.served
    assert "".join(found.served) == "".join(found.approved)
    assert "".join(found.served) != "".join(found.original)
    assert served.aligned(found.approved, found.served) == found.approved


def test_a_server_with_a_key_gets_it_and_nobody_else_sees_it(
    monkeypatch: pytest.MonkeyPatch, llama: LoadedModel
) -> None:
    """Even a server that repeats the key in its words."""
    monkeypatch.setenv("MADE_API_KEY", "sk-secret")

    def act(path: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        return 400, json.dumps({"error": {"message": f"bad {headers.get('Authorization')}"}})

    with made_server(act) as address, Server(Endpoint(address, "m", "MADE_API_KEY")) as server:
        with pytest.raises(EndpointError) as caught:
            list(server.predictions([1, 2], 3, PLAIN))
        assert "bad Bearer …" in str(caught.value)
        assert "sk-secret" not in str(caught.value)
    monkeypatch.delenv("MADE_API_KEY")
    with pytest.raises(EndpointError, match="MADE_API_KEY holds no key"):
        Server(Endpoint("http://127.0.0.1:1/v1", "m", "MADE_API_KEY"))


# --- other servers' ways, and bad days


def replies(**choice: Any) -> str:
    return json.dumps({"choices": [{"text": "x", **choice}]})


def test_vllm_tells_a_prompt_at_once_by_id() -> None:
    """It adds the prompt's own token where that is none of the likeliest."""

    def act(path: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        assert body["prompt_logprobs"] == 2
        rows = {"7": {"logprob": -1.0}, "3": {"logprob": -0.7}, "9": {"logprob": -6.0}}
        return 200, replies(prompt_logprobs=[None, rows, rows])

    with made_server(act) as address, Server(Endpoint(address, "m")) as server:
        found = list(server.predictions([1, 2, 9], 2, PLAIN))
        assert found == [[Entry(3, "", -0.7), Entry(7, "", -1.0)]] * 2
        assert server.requests == 1


def test_tokens_are_found_by_their_text_where_no_id_is_told(llama: LoadedModel) -> None:
    def act(path: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        told = {" the": -1.0, "token_id:5": -2.0, "no such token": -3.0, "odd": None}
        return 200, replies(logprobs={"top_logprobs": [told]})

    with made_server(act) as address, Server(Endpoint(address, "m")) as server:
        found = list(server.predictions([1, 2], 4, PLAIN))
    vocabulary = Vocabulary(llama.tokenizer, VOCABULARY)
    named = vocabulary.named(found)
    the = llama.tokenizer.convert_tokens_to_ids("Ġthe")
    assert named.tokens.tolist() == [[the, 5]]
    assert named.log_probs.tolist() == [[-1.0, -2.0]]
    assert (vocabulary.told, vocabulary.unknown) == (3, 1)
    assert vocabulary.likeliest(found[0]) == the
    assert vocabulary.likeliest([Entry(5, "", -3.0), Entry(None, "no such token", -0.1)]) == -1, (
        "not the next best"
    )
    assert vocabulary.likeliest([]) == -1


CONTENT = {"content": [{"top_logprobs": [{"id": 1, "token": "a", "logprob": 0.0}] * 2}]}
BAD_DAYS: dict[str, tuple[Answer, str]] = {
    "key": ((401, "{}"), "refused the key"),
    "model": ((404, "{}"), "has no model 'm'. It has: other."),
    "busy": ((503, "{}"), "busy or still loads"),
    "elsewhere": ((307, ""), "sends on to another address"),
    "words": (
        (400, '{"error": {"message": "prompt must be\\n a string"}}'),
        "400 with “prompt must be a string”",
    ),
    "page": ((200, "<html>"), "something else than JSON"),
    "list": ((200, "[]"), "something else than JSON"),
    "nothing": ((200, "{}"), "gives 0 answers"),
    "silent": ((200, replies(logprobs=None)), "tells no log-probabilities"),
    "too much": ((200, replies(logprobs=CONTENT)), "add up to more than 1"),
    "short": ((200, replies(prompt_logprobs=[None])), "tells 1 positions of a prompt of 2"),
}


@pytest.mark.parametrize("day", BAD_DAYS)
def test_a_bad_day_is_one_sentence_with_a_remedy(day: str) -> None:
    answer, sentence = BAD_DAYS[day]

    def act(path: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        return (200, '{"data": [{"id": "other"}]}') if path == "/v1/models" else answer

    with made_server(act) as address, Server(Endpoint(address, "m")) as server:
        with pytest.raises(EndpointError) as caught:
            list(server.predictions([1, 2], 3, PLAIN))
        assert sentence in str(caught.value)
        assert caught.value.hint


_ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["a", "7", "token_id:3", "9" * 5000]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["content", "top_logprobs", "logprob", "token", "id", "bytes", "7", "decoded_token"]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


def test_whatever_a_server_answers_it_is_read_or_told() -> None:
    said: dict[str, Any] = {}

    def act(path: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        return 200, replies(**said)

    @settings(max_examples=25)
    @given(_ANY, _ANY)
    def run(whole: Any, place: Any) -> None:
        said.update(prompt_logprobs=whole, logprobs=place)
        with Server(Endpoint(address, "m")) as server, suppress(EndpointError):
            for entries in server.predictions([1, 2], 3, PLAIN):
                assert sum(math.exp(entry.log_prob) for entry in entries) < 1.002

    with made_server(act) as address:
        run()


def test_nobody_there_and_silence() -> None:
    with (
        pytest.raises(EndpointError, match="Nothing answers"),
        Server(Endpoint("http://127.0.0.1:9/v1")) as server,
    ):
        _ = server.name
    held = []

    def act(path: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        held.append(path)
        time.sleep(0.3)
        return 200, "{}"

    with (
        made_server(act) as address,
        Server(Endpoint(address), seconds=0.05) as server,
        pytest.raises(EndpointError, match="did not answer in time"),
    ):
        server.models()
    assert held == ["/v1/models"]


def test_a_server_of_several_models_wants_a_name() -> None:
    def act(path: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        return 200, '{"data": [{"id": "a"}, {"id": "b"}, {"x": 1}]}'

    with (
        made_server(act) as address,
        Server(Endpoint(address)) as server,
        pytest.raises(EndpointError, match="lists 2 models: a, b"),
    ):
        _ = server.name


STREAMS = {
    "broke off before its end": b'data: {"choices": [{"text": "ab"}]}\n\n',
    "something else than JSON": b"data: hello\n\n",
    "“out of memory”": b'data: {"choices": [{"text": "ab"}]}\n\ndata: {"error": {"message": "out of memory"}}\n\n',
}


@pytest.mark.parametrize("sentence", STREAMS)
def test_a_stream_that_breaks_off_is_told(sentence: str) -> None:
    def act(path: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        return 200, STREAMS[sentence]

    with (
        made_server(act) as address,
        Server(Endpoint(address, "m")) as server,
        pytest.raises(EndpointError, match=sentence),
    ):
        list(server.stream("a", 5, 0, 0.0, 1.0))


def test_a_stream_is_read_by_lines_and_counted_by_the_server() -> None:
    body = (
        ': a comment\r\n\r\ndata: {"choices": [{"text": "né"}]}\r\n\r\ndata: {"choices": [{"text": ""}]}\n\n'
        'data: {"choices": [{"text": "x", "finish_reason": "stop"}]}\n\n'
        'data: {"choices": [], "usage": {"completion_tokens": 4}}\n\ndata: [DONE]\n\ndata: late\n\n'
    ).encode()
    with made_server(lambda *_: (200, body)) as address, Server(Endpoint(address, "m")) as server:
        assert [piece.text for piece in server.stream("a", 5, 0, 0.0, 1.0)] == ["né", "x"]
        assert server.counted == 4


# --- addresses and words


@pytest.mark.parametrize(
    ("typed", "kept"),
    [(" http://127.0.0.1:8080 ", "http://127.0.0.1:8080/v1"), ("https://a.b/api/v1/", "https://a.b/api/v1"),
     ("http://[::1]:80/v1", "http://[::1]:80/v1")],
)  # fmt: skip
def test_addresses_have_one_form(typed: str, kept: str) -> None:
    assert served.endpoint(typed) == Endpoint(kept)


@pytest.mark.parametrize(
    "typed",
    ["", "localhost:8080", "ftp://a/v1", "file:///etc/passwd", "http://", "http://a:99999/v1", "http://u:p@a/v1",
     "http://a/v1?key=1", "http://a/v1#x", "http://a b/v1", "http://a:0/v1"],
)  # fmt: skip
def test_other_addresses_are_refused(typed: str) -> None:
    with pytest.raises(EndpointError):
        served.endpoint(typed)


def test_a_key_is_named_and_no_other_secret_can_be() -> None:
    assert served.endpoint("http://a", key="OPENAI_API_KEY").key == "OPENAI_API_KEY"
    for name in ("sk-123", "AWS_SECRET_ACCESS_KEY", "HOME"):
        with pytest.raises(EndpointError, match="environment variable"):
            served.endpoint("http://a", key=name)


@pytest.mark.parametrize(
    ("low", "mean", "high", "said"),
    [(0.01, 0.02, 0.05, "same"), (0.01, 0.04, 0.06, "likely the same"), (0.04, 0.06, 0.08, "likely changed"),
     (0.06, 0.07, 0.08, "changed")],
)  # fmt: skip
def test_a_verdict_follows_from_mean_and_interval(low: float, mean: float, high: float, said: str) -> None:
    assert served.verdict(Divergence(mean, 0.0, low, high), 0.05) == said


@given(
    st.lists(st.text("ab ", min_size=1, max_size=2), max_size=6),
    st.lists(st.text("ab ", max_size=3), max_size=6),
)
def test_a_text_in_pieces_is_cut_as_the_original_without_a_change(
    tokens: list[str], pieces: list[str]
) -> None:
    found = served.aligned(tokens, pieces)
    assert "".join(found) == "".join(pieces)
    agree = 0
    while agree < len(tokens) and "".join(pieces).startswith("".join(tokens[: agree + 1])):
        agree += 1
    assert list(found[:agree]) == tokens[:agree]


def test_behind_the_first_difference_a_text_is_cut_as_it_came() -> None:
    assert served.aligned([" had", " a"], [" ha", "d no", " home"]) == (" had", " no", " home")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("/models/a/b.gguf", "b.gguf"), ("org/name-7B", "org/name-7B"), ("[x](http://y)", "·x··http:/y·"),
     ("", "unnamed")],
)  # fmt: skip
def test_a_server_gives_its_model_a_name_and_no_markup(name: str, shown: str) -> None:
    assert served.short(name) == shown
