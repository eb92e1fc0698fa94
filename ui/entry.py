"""The pages, their order, and the one way into each of them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Timer

import streamlit as st
from streamlit.navigation.page import Page

from ui import jobs, state, theme

ROOT = Path(__file__).parent.parent
_ENTERED = "entry:app"
_LESSON_MODE = "entry:lesson-mode"


@dataclass(frozen=True)
class PageSpec:
    """A page: the stem of its file, which is its URL path too, and how the navigation shows it."""

    stem: str
    title: str
    icon: str
    help: str


PAGES = (
    PageSpec("start", "Start", ":material/home:", "The ways to a model, and to a proved recipe in one press"),
    PageSpec("model", "Model", ":material/deployed_code:", "What the model is and what it weighs"),
    PageSpec("weights", "Weights", ":material/bar_chart:", "One layer's weights on a format's grid"),
    PageSpec("sensitivity", "Sensitivity", ":material/grid_on:", "What each layer costs in each format"),
    PageSpec("recipe", "Recipe", ":material/tune:", "A format for every layer under a budget"),
    PageSpec("train", "Train", ":material/model_training:", "Fine-tune the quantized weights"),
    PageSpec("compare", "Compare", ":material/compare:", "Original and recipe, side by side"),
    PageSpec("export", "Export", ":material/download:", "The recipe as a file, and how to reproduce it"),
    PageSpec(
        "checkpoint",
        "Checkpoint",
        ":material/inventory_2:",
        "What a model that others quantized holds",
    ),
    PageSpec("runs", "Runs", ":material/history:", "Every result, with what it comes from"),
    PageSpec("learn", "Learn", ":material/school:", "Quantization taught on this model, one idea a page"),
)
LESSONS = (
    PageSpec("numbers", "What a number costs", ":material/school:", "Floats and integers, bit by bit"),
    PageSpec("range", "Scale and zero point", ":material/school:", "Rounding against clipping"),
    PageSpec(
        "groups", "Scales and groups", ":material/school:", "Symmetric and asymmetric; tensor, channel, group"
    ),
    PageSpec(
        "grids", "Uniform and non-uniform", ":material/school:", "Equal steps, quantiles, powers, clusters"
    ),
)
"""The lessons in their order; the page of one is ``pages/lesson_<stem>.py``."""


def pages(icons: bool = True) -> list[Page]:
    """The registry of pages for ``st.navigation``; URL paths equal the files' stems.

    A default page answers at the root and nowhere else, ``/model`` would be unknown. So the default is one that
    nobody sees: it leads on to the first, and a link that names a model to that model.
    """
    root = st.Page(_root, title="QuantLens", url_path="root", default=True, visibility="hidden")
    stems = [*(spec.stem for spec in PAGES), *(lesson_stem(spec.stem) for spec in LESSONS)]
    return [root, *(page(stem, icons) for stem in stems)]


def lesson_stem(stem: str) -> str:
    """The stem of a lesson's page."""
    return f"lesson_{stem}"


def page(stem: str, icon: bool = True) -> Page:
    """The page whose file is ``pages/<stem>.py``; those of lessons are reached from Learn."""
    lesson = stem.startswith(lesson_stem(""))
    known = (
        {lesson_stem(spec.stem): spec for spec in LESSONS} if lesson else {spec.stem: spec for spec in PAGES}
    )
    spec = known[stem]
    return st.Page(
        ROOT / "pages" / f"{stem}.py", title=spec.title, icon=spec.icon if icon else None, url_path=stem,
        help=spec.help, visibility="hidden" if lesson else "visible",
    )  # fmt: skip


def _root() -> None:
    asked = st.query_params.to_dict()
    st.switch_page(page("model" if "model" in asked else PAGES[0].stem), query_params=asked)


def navigate() -> None:
    """Draw the navigation, run the page it chose, and set the job strip below; ``app.py`` calls this."""
    st.session_state[_ENTERED] = True
    root, *shown = pages()
    alone = state.MODE.get() == "lesson"
    st.session_state[_LESSON_MODE] = alone
    chosen = st.navigation([root, *shown], position="hidden" if alone else "sidebar")
    if chosen is root:
        chosen.run()  # leads on: what would be drawn here first, the browser would draw twice
    dark = "-dark" if theme.mode() == "dark" else ""
    st.logo(ROOT / "assets" / f"logo{dark}.svg", size="large", icon_image=ROOT / "assets" / "icon.svg")
    theme.mend()
    jobs.start_page()
    try:
        chosen.run()
    finally:  # a page that stops early has its strip too
        jobs.strip()
        _load_ahead()


@st.cache_resource(show_spinner=False)
def _load_ahead() -> None:
    """Load pandas, a third of what the server imports, once the browser has drawn the first page."""
    timer = Timer(2, import_module, args=("pandas",))
    timer.daemon = True
    timer.start()


def ensure_entry(stem: str) -> None:
    """Call first on every page: makes sure that app.py ran, and brings the URL and the user's choices in line.

    The first request to a deep link on a fresh server runs the page's file without app.py, because there is a folder
    named ``pages`` beside it. Declaring the navigation and running again takes the way through app.py. Without icons:
    as long as app.py has not named the app's own, the browser would fetch the page's from another machine.
    """
    if not st.session_state.get(_ENTERED):
        st.navigation(pages(icons=False), position="hidden")
        st.rerun()
    if stem != PAGES[0].stem:
        import_module(
            "pandas"
        )  # only Start has no chart, and Plotly takes a half loaded pandas for a whole one
    state.sync(stem)
    lesson = stem.startswith(lesson_stem(""))
    if not lesson:
        state.MODE.set("app")
    alone = state.MODE.get() == "lesson"
    if alone != st.session_state[_LESSON_MODE]:  # the navigation was drawn before the address was read
        st.session_state[_LESSON_MODE] = alone
        st.rerun()


def link(stem: str, label: str = "", **changes: str) -> None:
    """A link to another page that keeps the user's place; ``changes`` set query parameters."""
    target = page(stem)
    st.page_link(
        target, label=label or None, icon=":material/arrow_forward:", query_params=state.query(**changes)
    )


def go(stem: str, **changes: str) -> None:
    """Switch to another page and keep the user's place; ``changes`` set query parameters."""
    st.switch_page(page(stem), query_params=state.query(**changes))
