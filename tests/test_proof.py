"""Finalists: the job against single measurements, paired differences by hand, and going on where it was stopped."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from quant_core.allocation.proof import ranking, verdict
from quant_core.errors import Cancelled, QuantError
from quant_core.evaluation.proof import prove
from quant_core.evaluation.quality import evaluate
from quant_core.models.loading import LoadedModel
from quant_core.schema import EvaluateRequest, ProveRequest, TextSource, replace
from tests.test_measured import Stopping
from tests.tiny import PROSE, FakeContext

TEXT = TextSource("inline", PROSE * 12, "prose")


def _request(loaded: LoadedModel) -> ProveRequest:
    units = [unit.name for unit in loaded.info.units if unit.decided]
    everywhere, some = dict.fromkeys(units, "int4/g32/asym"), dict.fromkeys(units[:4], "int2/g32/asym")
    recipes: tuple[dict[str, str], ...] = (everywhere, some, {})
    return ProveRequest(loaded.info.ref, loaded.info.fingerprint, recipes, TEXT, 256, 32)


def test_each_recipe_is_measured_as_it_is_on_its_own(llama: LoadedModel) -> None:
    request = _request(llama)
    proof = prove(FakeContext(llama), request)
    for assignment, row in zip(request.assignments, proof.kl, strict=True):
        alone = evaluate(
            FakeContext(llama), EvaluateRequest(request.model, request.fingerprint, assignment, TEXT, 256, 32)
        )
        assert sum(row) / len(row) == pytest.approx(alone.kl_mean, rel=1e-4, abs=1e-7)
        assert (proof.tokens, proof.text_hash) == (alone.tokens, alone.text_hash)
    assert set(proof.kl[2]) == {0.0}, "the original costs exactly nothing"


def test_it_goes_on_with_the_recipe_at_which_it_was_stopped(llama: LoadedModel, tmp_path: Path) -> None:
    request = _request(llama)
    whole = prove(FakeContext(llama), request)
    with pytest.raises(Cancelled):
        prove(Stopping(llama, tmp_path, 3), request)
    second = Stopping(llama, tmp_path, -1)
    assert replace(prove(second, request), seconds=0.0) == replace(whole, seconds=0.0)
    assert second.said[0].startswith("recipe 2 of 3")
    assert not list(tmp_path.iterdir())


def test_nothing_to_measure_is_one_sentence(llama: LoadedModel) -> None:
    with pytest.raises(QuantError, match="no recipe to measure"):
        prove(FakeContext(llama), replace(_request(llama), assignments=()))


def test_paired_differences_by_hand() -> None:
    """The second is 1, 1, 2, 0 behind: mean 1, sample variance 2/3, error sqrt(2/3/4). Its own spread is far larger."""
    best, second = [10.0, 20.0, 30.0, 40.0], [11.0, 21.0, 32.0, 40.0]
    third = [10.0, 22.0, 28.0, 40.5]
    places = ranking([second, best, third])
    assert [place.recipe for place in places] == [1, 2, 0]
    assert places[0].stderr == pytest.approx(math.sqrt(500 / 3 / 4))
    assert places[0]._replace(stderr=0.0) == (1, 25.0, 0.0, 0.0, 0.0, True)
    assert places[2].behind == 1.0
    assert places[2].behind_stderr == pytest.approx(math.sqrt(2 / 3 / 4))
    assert not places[2].tied, "1 is more than 1.96 x 0.41"
    assert places[1].tied, "0.125 behind, with an error of 0.83"


def test_the_verdict_names_the_tied() -> None:
    def rows(*behind: float) -> list[list[float]]:
        return [[1.0 + step + noise for noise in (-0.1, 0.1)] for step in (0.0, *behind)]

    def noisy(*behind: float) -> list[list[float]]:
        return [row if not place else [row[0] - 0.5, row[1] + 0.5] for place, row in enumerate(rows(*behind))]

    assert verdict(ranking(rows(0.5))) == "The winner is ahead of all others by more than the uncertainty."
    assert verdict(ranking(noisy(0.1))).startswith("Place 2 is tied with the winner")
    assert verdict(ranking(noisy(0.1, 0.2, 0.3))).startswith("Places 2, 3 and 4 are tied with the winner")
    assert verdict(ranking(rows())) == ""
    assert ranking([[0.5]])[0].stderr == 0.0
