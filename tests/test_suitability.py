"""Texts that say little about a model are told from those that do not, with what they do to the scores."""

from __future__ import annotations

import pytest

from quant_core.calibration.suitability import doubts
from quant_core.calibration.text import tokenize
from quant_core.models.loading import LoadedModel
from quant_core.schema import CALIBRATION, SensitivityRequest, TextSource
from quant_core.sensitivity.run import run
from tests.tiny import FakeContext

GERMAN = """Der Vertrag regelt die Haftung der Gesellschafter für sämtliche Verbindlichkeiten, soweit diese nicht durch
Rücklagen gedeckt sind. Ein Widerspruch ist schriftlich einzureichen und wird vom zuständigen Ausschuss beschieden."""


def _doubts(loaded: LoadedModel, text: TextSource, tokens: int = 512, length: int = 64) -> tuple[str, ...]:
    return doubts(loaded, tokenize(FakeContext(loaded), loaded, text, tokens, length), length)


def test_a_text_of_the_models_own_kind_raises_no_doubt(bundled: LoadedModel) -> None:
    assert _doubts(bundled, CALIBRATION) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GERMAN * 8, ("hardly reads this text (own text)", "a language that the model never saw")),
        (
            "the " * 600,
            ("100% of the text (own text) is one and the same token", "standard errors are far too small"),
        ),
    ],
)
def test_what_is_odd_is_said_with_what_it_does(
    bundled: LoadedModel, text: str, said: tuple[str, ...]
) -> None:
    (sentence,) = _doubts(bundled, TextSource("inline", text))
    for part in said:
        assert part in sentence


def test_a_text_shorter_than_a_sequence_stands_in_the_table(bundled: LoadedModel) -> None:
    info = bundled.info
    story = TextSource(
        "inline", "Once upon a time there was a little girl who had a dog. " * 9, "a short story"
    )
    request = SensitivityRequest(info.ref, info.fingerprint, ("int4",), story, 512, 256, "weight")
    (note,) = run(FakeContext(bundled), request).notes
    assert note.startswith("The text (a short story) is shorter than one sequence of 256 tokens")
    assert "attention is hardly tried" in note
