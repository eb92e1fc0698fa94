"""A recommendation: its parts are the answers that the pages would get, and what is stored is not done again."""

from __future__ import annotations

from typing import Any

import pytest

from quant_core.allocation.contenders import COUNT, contenders
from quant_core.errors import BudgetError
from quant_core.evaluation.proof import prove
from quant_core.evaluation.recommend import recommend
from quant_core.models.loading import LoadedModel
from quant_core.schema import (
    Budget,
    RecommendRequest,
    Result,
    ScoreTable,
    SensitivityRequest,
    Terms,
    TextSource,
    replace,
)
from quant_core.sensitivity.run import run
from quant_core.store.keys import request_key
from tests.tiny import PROSE, FakeContext

TEXT = TextSource("inline", PROSE * 12, "prose")
FORMS = ("int2/g32/asym", "int4/g32/asym", "int8/g32/asym")


class Chaining(FakeContext):
    """Keeps the answers to parts, as the store does."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(loaded)
        self.answers: dict[str, Result] = {}
        self.worked: list[str] = []

    def answer(self, request: Any, start: float, end: float) -> Any:
        key = request_key(request)
        if key not in self.answers:
            self.worked.append(type(request).__name__)
            made = run(self, request) if isinstance(request, SensitivityRequest) else prove(self, request)
            self.answers[key] = made
        return self.answers[key]


def _request(loaded: LoadedModel, **changes: object) -> RecommendRequest:
    made = RecommendRequest(
        loaded.info.ref, loaded.info.fingerprint, Budget("bits", 4.0), FORMS, Terms(), TEXT, 256, TEXT, 256
    )
    return replace(made, **changes)


def test_its_parts_are_those_of_the_pages(llama: LoadedModel) -> None:
    request = _request(llama)
    context = Chaining(llama)
    found = recommend(context, request)
    assert context.worked == ["SensitivityRequest", "ProveRequest"]
    table = context.answers[request_key(request.sweep)]
    assert isinstance(table, ScoreTable)
    wanted = contenders(llama.info, table, request.budget)
    assert [one.assignment for one in found.recipes] == [
        wanted[key].solution.assignment for key in sorted(wanted)
    ]
    assert len(found.proof.kl) == len(found.recipes) == COUNT + 1
    assert sorted(found.forms) == ["", "", "", "", "int2/g32/asym"]
    assert all(one.average_bits <= 4.0 for one in found.recipes)
    again = recommend(context, request)
    assert again == found
    assert len(context.worked) == 2, "stored parts are not done again"
    recommend(context, replace(request, budget=Budget("bits", 5.0)))
    assert context.worked[2:] == ["ProveRequest"], "another budget takes the same scores"


def test_embedding_and_head_take_part_where_asked(llama: LoadedModel) -> None:
    found = recommend(Chaining(llama), _request(llama, embeddings=True))
    assert any("embed" in unit for unit in found.recipes[0].assignment)


def test_a_budget_that_cannot_be_met_is_told_with_what_can(llama: LoadedModel) -> None:
    with pytest.raises(BudgetError, match="the smallest takes"):
        recommend(Chaining(llama), _request(llama, budget=Budget("bits", 1.0)))
