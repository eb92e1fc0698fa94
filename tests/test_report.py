"""Reports: what is gathered from the store, what is said of it, and that no text can turn into markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from quant_core.__main__ import main
from quant_core.report import card, compose, to_html, to_markdown
from quant_core.report.document import (
    Bars,
    CellMap,
    Curve,
    Document,
    Fact,
    Listing,
    Section,
    Span,
    Spans,
    Table,
    Text,
    Verbatim,
    clean,
)
from quant_core.report.gather import licence_in
from quant_core.report.markdown import escaped, fenced
from quant_core.report.svg import drawing, level, nice
from quant_core.schema import (
    Budget,
    EvaluateRequest,
    Exported,
    ExportedFile,
    ExportRequest,
    GenerateRequest,
    KlTails,
    ModelInfo,
    Origin,
    PromptsRequest,
    PromptTexts,
    Proof,
    Recipe,
    TailsRequest,
    TrainRequest,
    VariantSpec,
    WorstToken,
    replace,
)
from quant_core.store import Store
from quant_core.store.keys import request_key
from quant_core.workspace import Workspace, browser_roots
from tests import made_results
from tests.served_pages import MEASURED, WRITTEN, keep, open_page

HOSTILE = "<script>alert('x')</script> | `a` ```\n# b ![i](javascript:x) & \"q\" \x00\u202e\ud800"
ORIGIN = Origin({"quantlens": "0.1.0", "torch": "2.9"}, "cpu", "A processor", 2, "Linux x86_64")


@pytest.fixture
def recipe(home: Path, info: ModelInfo) -> Recipe:
    workspace = Workspace(home, roots=browser_roots())
    table = next(table for table in workspace.tables(info.fingerprint) if table.fisher)
    budget = Budget("bits", 4.5)
    made = workspace.make_recipe(info, table, workspace.solve(info, table, budget), budget)
    workspace.close()
    return made


def written(home: Path, info: ModelInfo, recipe: Recipe) -> tuple[str, str, str]:
    workspace = Workspace(home, roots=browser_roots())
    report = workspace.report(info, recipe)
    document = compose(report)
    workspace.close()
    return to_html(document), to_markdown(document), card(report)


class Reader(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_recipe_that_was_not_measured_says_so(home: Path, info: ModelInfo, recipe: Recipe) -> None:
    page, text, _ = written(home, info, recipe)
    missing = ("Not measured: KL and perplexity on a text, a calibrated interval of the prediction, the spread of KL "
               "over tokens, multiple-choice questions, text written by both, blind votes, speed in a runtime, files "
               "for a runtime.")  # fmt: skip
    for one in (Reader(page).text, text):
        assert missing in one
        assert "That was not measured." in one
        assert "Measured KL" not in one
    assert "recipe bundled --bits 4.5" in text
    assert "keeps A made model closest to the original within 4.50 bits a weight?" in text


def test_what_is_stored_of_this_recipe_is_told_and_of_others_is_not(
    home: Path, info: ModelInfo, recipe: Recipe
) -> None:
    other = dict.fromkeys(recipe.assignment(), "int2/g64/asym")
    keep(home, EvaluateRequest(info.ref, info.fingerprint, other), replace(MEASURED, kl_mean=7.77))
    store = Store(home)
    asked = EvaluateRequest(info.ref, info.fingerprint, recipe.assignment())
    store.results.put(asked, MEASURED, origin=ORIGIN, created=1.7e9)
    store.close()
    keep(home, GenerateRequest(info.ref, info.fingerprint, "Once", recipe.assignment()), WRITTEN)
    done = Exported("gguf", "/secret/place", (ExportedFile("m.gguf", 9_000_000, "a" * 64),), 56, 56, 0.0, 1.0)
    keep(home, ExportRequest(info.ref, info.fingerprint, recipe, "gguf", "/secret/place"), done)
    page, text, hub = written(home, info, recipe)
    assert "7.77" not in page
    assert "/secret" not in page + text + hub
    answer = (f"{recipe.total_bytes / 1e6:.2f} MB instead of {recipe.original_bytes / 1e6:.2f} MB; it loses "
              "0.0344 ± 0.0022 nats/token, measured on 4,080 tokens of bundled evaluation text, and finds the same "
              "next token likeliest 88.5 % of the time.")  # fmt: skip
    assert answer in page
    assert answer in text
    assert "A processor, cpu, 2 threads, Linux x86\\_64" in text
    assert "2023-11-14 22:13" in text
    assert "a" * 64 in page
    assert "56 of 56 quantized weights hold every value" in text
    head = yaml.safe_load(hub.split("---\n")[1])
    assert head["license"] == "apache-2.0"
    assert head["library_name"] == "gguf"
    assert "base_model" not in head, "the bundled model has no id on a hub"
    assert head["quantization"]["kl_nats_per_token"] == 0.0344


def test_votes_and_trainings_of_this_recipe_are_told(home: Path, info: ModelInfo, recipe: Recipe) -> None:
    variants = (VariantSpec(label="the original"), VariantSpec(recipe.assignment(), label="the recipe"))
    asked = PromptsRequest(info.ref, info.fingerprint, ("one", "two"), variants)
    keep(home, asked, PromptTexts((("a", "b"), ("c", "d")), 1.0))
    other = dict.fromkeys(recipe.assignment(), "int2/g64/asym")
    for assignment, loss in ((recipe.assignment(), 0.4321), (other, 0.9876)):
        trained = TrainRequest(info.ref, info.fingerprint, assignment)
        keep(home, trained, replace(made_results.training(trained), kl_after=loss))
    page, text, _ = written(home, info, recipe)
    assert "Blind vote" not in page
    assert "blind votes" in Reader(page).text
    store = Store(home)
    for voter, prompt in (("ann", 0), ("ann", 1), ("bob", 0)):
        store.votes.add(request_key(asked), voter, prompt, 1)
    store.votes.add(request_key(asked), "bob", 1, -1)
    store.close()
    page, text, _ = written(home, info, recipe)
    for one in (Reader(page).text, text):
        assert "“the recipe” is preferred in 2 of the 2 prompts that were decided. It could be chance" in one
        assert "2 voted on 2 prompts" in one
        assert "0.432" in one
        assert "0.988" not in one, "that training is of another recipe"
    assert "| the recipe | 3 | 2 |" in text


def test_the_calibrated_interval_and_a_row_of_a_proof_are_found(
    home: Path, info: ModelInfo, recipe: Recipe
) -> None:
    workspace = Workspace(home, roots=browser_roots())
    table = next(table for table in workspace.tables(info.fingerprint) if table.fisher)
    design = workspace.calibration_recipes(info, table)
    request = workspace.prove_request(info, design, recipe.setup)
    priced = [workspace.price(info, table, one).predicted_kl for one in design]
    proof = Proof(info.fingerprint, tuple((kl, kl) for kl in priced), 4080, "e" * 24, "held-out text", 1.0)
    keep(home, request, proof)
    two = workspace.prove_request(info, [recipe.assignment(), design[0]], recipe.setup)
    keep(home, two, replace(proof, kl=((0.1, 0.3), (0.2, 0.2))))
    learned = workspace.calibrated(info, table, request)
    assert learned is not None
    report = workspace.report(info, recipe)
    assert report.interval == workspace.interval(info, table, learned, recipe.assignment())
    spans = next(
        block
        for section in compose(report).appendix
        for block in section.blocks
        if isinstance(block, Spans) and section.title == "Predicted and measured"
    )
    assert [row.label for row in spans.rows] == [
        "predicted: sum of scores", "predicted: calibrated", "measured side by side, 2 recipes",
    ]  # fmt: skip
    assert spans.rows[-1].value == pytest.approx(0.2)
    assert spans.rows[-1].high == pytest.approx(0.2 + 1.96 * 0.1)
    workspace.close()


def test_predictions_of_layers_add_up_to_the_recipes(home: Path, info: ModelInfo, recipe: Recipe) -> None:
    workspace = Workspace(home, roots=browser_roots())
    report = workspace.report(info, recipe)
    assert sum(kl for kl, _ in report.scores.values()) == pytest.approx(recipe.predicted_kl)
    assert workspace.report(info, replace(recipe, predicted_kl=9.0)).table is None, (
        "other scores than the stored"
    )
    workspace.close()


def test_the_same_store_gives_the_same_bytes(home: Path, info: ModelInfo, recipe: Recipe) -> None:
    keep(home, EvaluateRequest(info.ref, info.fingerprint, recipe.assignment()), MEASURED)
    assert written(home, info, recipe) == written(home, info, recipe)


def test_hostile_words_stay_words(home: Path, info: ModelInfo, recipe: Recipe) -> None:
    plain = len(Reader(written(home, info, recipe)[0]).tags)
    info = replace(info, title=HOSTILE, notes=(HOSTILE,))
    asked = GenerateRequest(info.ref, info.fingerprint, HOSTILE[:-1], recipe.assignment())
    keep(home, asked, replace(WRITTEN, recipe=("```\n<img src=x onerror=y>",)))
    place = WorstToken("<b>", "|", 2.0, (), (), 0.1, 0.2)
    tails = KlTails(
        (0.1, 1.0), (3,), 0.1, 0.1, 0.2, 0.3, 0.4, 2.0, 0.1, (place,), 100, "e" * 24, "</td>", 1.0
    )
    keep(home, TailsRequest(info.ref, info.fingerprint, recipe.assignment()), tails)
    page, text, hub = written(home, info, replace(recipe, calibration=HOSTILE, pins={HOSTILE: HOSTILE}))
    read = Reader(page)
    assert len(read.tags) > plain
    assert not {"script", "img", "b", "a"} & set(read.tags)
    assert not {name for name in read.names if name.startswith("on")}
    assert "alert('x')" in read.text
    outside = re.sub(r"^(`{3,})text\n.*?\n\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert "alert" in outside
    assert "<script" not in outside
    for one in (page, text, hub):
        one.encode()
        assert not set(one) & {"\x00", "\u202e"}
    assert yaml.safe_load(hub.split("---\n")[1])["tags"][0] == "quantized"


ANY = st.text(max_size=40)


@given(ANY, ANY)
def test_any_text_reads_back_as_it_is(first: str, second: str) -> None:
    blocks = (
        Text(first), Listing((second,)), Table((first,), ((second,),)), Verbatim(first, second),
        CellMap(first, (first,), (second,), ((second,),), (second,)), Spans(second, (Span(first, 1, 0, 2),), second),
        Bars(first, ((first, 1.0, second),)), Curve(second, ((1, 1), (2, 0.1)), (1, 1), first),
    )  # fmt: skip

    def page(one: str, two: str) -> Reader:
        whole = (Section(one, blocks),)
        return Reader(to_html(Document(one, two, one, (Fact(one, two),), (two,), whole, one)))

    read = page(first, second)
    assert clean(first) in read.text
    assert clean(second) in read.text
    assert set(read.tags) <= set(page("a", "b").tags) | {"g", "rect", "title", "text"}
    fence = re.match("`+", fenced(first))
    assert fence
    assert fenced(first).count(fence[0]) == 2
    line = escaped(first)
    assert "\n" not in line
    assert not re.search(r"(?<!\\)(?:\\\\)*[`|\[]", re.sub(r"\\[`|\[]", "", line))
    assert "<" not in line


def test_ticks_cover_the_largest_value_in_round_steps() -> None:
    assert nice(1.0) == (0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0)
    assert nice(0.03) == pytest.approx((0, 0.01, 0.02, 0.03))
    assert nice(0.0) == (0, 1)
    for top in (0.00123, 0.7, 9.99, 51.0):
        ticks = nice(top)
        assert ticks[-1] >= top
        assert 3 <= len(ticks) <= 6


def test_colours_use_both_ends_of_the_scale() -> None:
    assert [level(place, 3) for place in range(3)] == [0, 2, 5]
    assert level(0, 1) == 3


def test_a_bar_is_as_long_as_its_share_of_the_largest() -> None:
    shown = drawing(Bars("Sizes", (("a", 4.0, "4 MB"), ("b", 1.0, "1 MB"))))
    long, short = (float(width) for width in re.findall(r'width="([\d.]+)" height="18"', shown))
    assert long == 4 * short
    assert "4 MB" in shown


def test_a_curve_leaves_out_what_a_logarithm_cannot_hold() -> None:
    shown = drawing(Curve("Front", ((1.0, 0.1), (2.0, 0.01), (3.0, 0.0)), (2.0, 0.01), "this"))
    points = re.search(r'points="([^"]*)"', shown)
    assert points
    assert len(points[1].split()) == 2


@pytest.mark.parametrize(
    ("text", "licence"),
    [("---\nlicense: mit\n---\nbody", "mit"), ("license: mit", ""), ("---\n- a\n---\n", ""),
     ("---\nlicense: [a]\n---\n", ""), ("---\n{\n---\n", ""), ("", "")],
)  # fmt: skip
def test_the_licence_is_read_from_front_matter_alone(tmp_path: Path, text: str, licence: str) -> None:
    (tmp_path / "README.md").write_text(text)
    assert licence_in(tmp_path / "README.md") == licence
    assert licence_in(tmp_path / "none.md") == ""


def test_the_command_writes_what_its_ending_names(
    home: Path, info: ModelInfo, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(home)
    keep(home, workspace.inspect_request(info.ref), info)
    file = home / "r.json"
    file.write_text(workspace.recipe_text(recipe, "json"))
    workspace.close()
    common = ["report", "bundled", "--recipe", str(file), "--home", str(home), "--out"]
    for name, start in (("a.html", "<!DOCTYPE html>"), ("a.md", "# A made model")):
        assert main([*common, str(home / name)]) == 0
        assert (home / name).read_text().startswith(start)
    assert main([*common, str(home / "README.md"), "--card"]) == 0
    assert (home / "README.md").read_text().startswith("---\nlicense: apache-2.0\n")
    with pytest.raises(SystemExit):
        main([*common, str(home / "a.pdf")])
    assert "neither .html nor .md" in capsys.readouterr().err


def test_the_page_offers_three_files(info: ModelInfo) -> None:
    app = open_page("export")
    labels = [button.proto.label for button in app.get("download_button")]
    assert {"Report (HTML)", "Report (Markdown)", "Model card"} <= set(labels)
