"""Lessons: their texts, the glossary, the summary to print, and each page with a made model's results."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from quant_core.schema import FormatView, LayerRequest, ModelInfo, replace
from quant_core.workspace import Workspace
from tests import made_results
from tests.served_pages import job, keep, open_page, texts
from ui import glossary
from ui.entry import LESSONS, PAGES
from ui.lesson_text import FOLDER, PARTS, filled, lesson_text, parse
from ui.summary_page import summary

UNIT = "model.layers.4.mlp.down_proj.weight"
TEXT = "# A title?\n" + "".join(f"\n## {part}\n\nsome [[number]] of words\n" for part in PARTS)


def test_a_text_has_its_parts_in_their_order() -> None:
    found = parse(
        TEXT.replace("## Earnest\n\nsome [[number]] of words", "## Earnest\n\nweights: Look closer")
    )
    assert (found.title, found.guess) == ("A title?", "some [[number]] of words")
    assert found.earnest == (("weights", "Look closer"),)


@pytest.mark.parametrize(
    "broken", [TEXT.replace("## Guess", "## Bet"), TEXT.replace("# A title?", "A title?"), ""]
)
def test_a_text_without_a_part_is_refused(broken: str) -> None:
    with pytest.raises(ValueError, match="A lesson has a title and the parts"):
        parse(broken)


def test_a_place_without_a_number_and_a_number_without_a_place_are_refused() -> None:
    assert filled("up to [[most]] bits, $2^{b}$", {"most": "8"}) == "up to 8 bits, $2^{b}$"
    for numbers in ({}, {"most": "8", "least": "2"}):
        with pytest.raises(ValueError, match="has places for"):
            filled("up to [[most]] bits", numbers)


def test_every_lesson_has_a_text_and_a_page_and_leads_to_pages_that_exist() -> None:
    assert [file.stem for file in sorted(FOLDER.glob("*.md"))] == sorted(spec.stem for spec in LESSONS)
    for spec in LESSONS:
        assert (FOLDER.parents[1] / "pages" / f"lesson_{spec.stem}.py").is_file()
        assert {stem for stem, _ in lesson_text(spec.stem).earnest} <= {page.stem for page in PAGES}


def test_a_term_is_one_sentence_and_names_a_lesson_that_exists() -> None:
    taught = {spec.stem for spec in LESSONS}
    for term in glossary.terms().values():
        assert term.means.endswith(".")
        assert term.lesson in taught | {""}, term.name


def test_the_summary_holds_every_lesson_and_no_markup_of_the_texts() -> None:
    page = summary()
    for number, spec in enumerate(LESSONS, 1):
        assert f"<h2>{number}. {spec.title}</h2>" in page
    assert "**" not in page
    assert "$" not in page, "formulas are not drawn in what is printed"
    assert "<script" not in page
    assert "http" not in page


def view(workspace: Workspace, home: Path, info: ModelInfo, names: list[str], sqnr: list[float]) -> None:
    """Keep a made layer in these formats, with these errors in dB."""
    made = made_results.layer_view(UNIT, *names)
    formats: tuple[FormatView, ...] = tuple(
        replace(each, sqnr_db=db, bits_per_weight=4 + place / 8)
        for place, (each, db) in enumerate(zip(made.formats, sqnr, strict=True))
    )
    roots = workspace.inspect_request(info.ref).roots
    keep(
        home,
        LayerRequest(info.ref, info.fingerprint, (UNIT,), tuple(names), roots=roots),
        replace(made, formats=formats),
    )


def open_lesson(stem: str, **query: str) -> AppTest:
    app = open_page(f"lesson_{stem}", unit=UNIT, **query)
    assert not app.error
    return app


def test_nothing_is_shown_before_the_guess(home: Path, info: ModelInfo, workspace: Workspace) -> None:
    app = open_lesson("groups")
    assert app.title[0].value == "Who shares a scale?"
    assert not app.get("plotly_chart")
    assert not app.subheader
    guess = next(button for button in app.button if button.label == "It halves or better")
    names = [
        f"int4/{size}/{kind}"
        for kind in ("sym", "asym")
        for size in ("tensor", "channel", "g128", "g64", "g32")
    ]
    view(workspace, home, info, names, [10.0, 11, 12, 20, 21, 10, 11, 12, 23, 24])
    guess.click().run()
    assert app.query_params["guess"] == "groups.2"
    told = texts(app)
    assert "As you guessed." in told
    assert "fell from 10 % to 1.0 % of the weights' energy, **10 times less**" in told
    assert "0.38 bits a weight" in told  # places 0 and 3 of the made formats, an eighth of a bit apart
    assert "2.0 times less again" in told  # 3 dB

    quiz = app.radio(key="quiz:groups:0")
    quiz.set_value("INT4 g32 asym").run()
    assert any(box.value.startswith("Right.") for box in app.success)
    app.radio(key="quiz:groups:0").set_value("INT4 tensor sym").run()
    assert any(box.value.startswith("Not so.") for box in app.error)


@pytest.mark.parametrize(("state", "told"), [("running", "half is done"), ("failed", "The layer is gone.")])
def test_work_under_way_and_work_that_failed_are_told_in_place(
    home: Path, info: ModelInfo, workspace: Workspace, state: str, told: str
) -> None:
    roots = workspace.inspect_request(info.ref).roots
    names = ("int4/g64/asym", "nf4/g64", "fp4/g64", "pot4/g64", "kmeans4/channel")
    job(
        home,
        LayerRequest(info.ref, info.fingerprint, (UNIT,), names, roots=roots),
        state,
        told,
        "Choose another.",
    )
    app = open_page("lesson_grids", unit=UNIT, guess="grids.0")
    assert "What happened" not in [each.value for each in app.subheader]
    if state == "failed":
        assert app.error[0].value == "The layer is gone.\n\nChoose another."
    else:
        assert told in app.get("progress")[0].proto.text
    assert {"Retry", "Cancel"} & {button.label for button in app.button}
    assert "To keep in mind" in texts(app), "the lesson ends as always"


def test_the_best_grid_is_told_from_the_errors(home: Path, info: ModelInfo, workspace: Workspace) -> None:
    names = ["int4/g64/asym", "nf4/g64", "fp4/g64", "pot4/g64", "kmeans4/channel"]
    view(workspace, home, info, names, [20.0, 21, 18, 14, 20.5])
    app = open_lesson("grids", guess="grids.0")
    told = texts(app)
    assert "Not as you guessed." in told
    assert "**NF4 g64** left the least, 0.79 % of the weights' energy, and PoT4 g64 the most, 4.0 %" in told


def test_lesson_mode_hides_the_rest_and_other_pages_leave_it(home: Path, info: ModelInfo) -> None:
    app = open_lesson("grids", mode="lesson")
    assert any(button.label == "Leave lesson mode" for button in app.button)
    app.switch_page("pages/learn.py").run()
    assert "mode" not in app.query_params
    assert not app.exception


def test_nonsense_in_the_address_is_no_guess(home: Path, info: ModelInfo) -> None:
    for text in ("groups.9", "groups.x", "groups", "."):
        app = open_lesson("groups", guess=text)
        assert any(button.label == "It hardly changes" for button in app.button)


def test_learn_lists_lessons_and_terms(home: Path, info: ModelInfo) -> None:
    app = open_page("learn")
    told = texts(app)
    for number, spec in enumerate(LESSONS, 1):
        assert f"**{number}. {spec.title}**" in told
    app.text_input(key="glossary:search").set_value("zero point").run()
    assert "**zero point**" in texts(app)
    assert "**NF4**" not in texts(app)
    app.text_input(key="glossary:search").set_value("no such term").run()
    assert "No term speaks of" in texts(app)
