"""What the user chose: typed values that the URL carries, so that a reload or a shared link finds the same
place.

A ``Param`` is one query parameter. While a session runs, its own memory is the truth and the URL follows. The
URL is read when a session starts and when the page changes (a link, the back button); a value in it that
makes no sense falls back to the default, and the page says so in a sentence. Values written here outlive a
page switch, though Streamlit clears the query string then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import streamlit as st

from quant_core.schema import ModelRef

T = TypeVar("T")

_PAGE = "state:page"
_NOTES = "state:notes"
_CARRIED = "state:carried"
PARAMS: dict[str, Param[Any]] = {}
"""Every parameter by its name in the URL."""


class Param(Generic[T]):
    """One typed query parameter.

    Args:
        name: Its name in the URL.
        default: The value when the URL has none; never written to the URL.
        parse: Text to value; a ``ValueError`` means the text makes no sense.
        write: Value to text.
        meaning: What it is called in a sentence ("the context length").
    """

    def __init__(
        self, name: str, default: T, parse: Callable[[str], T], meaning: str, write: Callable[[T], str] = str
    ) -> None:
        self.name, self.default, self.meaning = name, default, meaning
        self._parse, self._write = parse, write
        PARAMS[name] = self

    @property
    def key(self) -> str:
        """Where the session keeps the value."""
        return f"url:{self.name}"

    def get(self) -> T:
        """The value now."""
        value: T = st.session_state.get(self.key, self.default)
        return value

    def set(self, value: T) -> None:
        """Change the value, and the URL with it."""
        st.session_state[self.key] = value
        self.publish()

    def publish(self) -> None:
        """Write the value to the URL; the default is left out."""
        value = self.get()
        text = "" if value == self.default else self._write(value)
        if text:
            if st.query_params.get(self.name) != text:
                st.query_params[self.name] = text
        elif self.name in st.query_params:
            del st.query_params[self.name]

    def read(self, text: str) -> None:
        """Take the value from the URL's ``text``; nonsense leaves the value as it is and notes a sentence."""
        try:
            st.session_state[self.key] = self._parse(text)
        except ValueError:
            shown = text if len(text) <= 40 else text[:39] + "…"
            note(f"The link asked for {self.meaning} “{shown}”, which makes no sense here; it was ignored.")

    def text(self) -> str:
        """The value as the URL writes it."""
        return self._write(self.get())

    def widget(self, key: str = "") -> dict[str, Any]:
        """Arguments that tie a widget to it: ``st.slider("Context", 1, 9, **CONTEXT.widget())``."""
        key = key or f"widget:{self.name}"
        st.session_state[key] = self.get()
        return {"key": key, "on_change": lambda: self.set(st.session_state[key])}

    def choice(self, options: list[T], key: str = "") -> dict[str, Any]:
        """As ``widget``, to pick from ``options``: a value not among them falls back to the first."""
        if options and self.get() not in options:
            self.set(self.default if self.default in options else options[0])
        return {"options": options, **self.widget(key)}


def text_param(name: str, meaning: str, default: str = "", pattern: str = r".{0,300}") -> Param[str]:
    """A parameter holding text that matches ``pattern`` in full."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(text)
        return text

    return Param(name, default, parse, meaning)


def number_param(name: str, meaning: str, default: float, low: float, high: float) -> Param[float]:
    """A parameter holding a number from ``low`` to ``high``."""

    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return Param(name, default, parse, meaning, lambda value: f"{value:.6g}")


def integer_param(name: str, meaning: str, default: int, low: int, high: int) -> Param[int]:
    """A parameter holding a whole number from ``low`` to ``high``."""

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return Param(name, default, parse, meaning)


def list_param(name: str, meaning: str, default: tuple[str, ...] = ()) -> Param[tuple[str, ...]]:
    """A parameter holding names, separated by commas."""

    def parse(text: str) -> tuple[str, ...]:
        return tuple(part for part in text.split(",") if part)

    return Param(name, default, parse, meaning, ",".join)


def choice_param(name: str, meaning: str, choices: tuple[str, ...]) -> Param[str]:
    """A parameter holding one of ``choices``; the first is the default."""
    return text_param(name, meaning, choices[0], "|".join(re.escape(choice) for choice in choices))


MODEL = text_param("model", "the model", "bundled")
REVISION = text_param("revision", "the revision", pattern=r"[\w./-]{0,120}")
DTYPE = choice_param("dtype", "the dtype", ("auto", "float32", "bfloat16", "float16"))
DEVICE = choice_param("device", "the device", ("auto", "cpu", "cuda", "mps"))
UNIT = text_param("unit", "the layer")
FORMAT_PATTERN = r"[\w/.@:=+-]{1,160}"
FORMAT = text_param("format", "the format", "int4/g64/asym", FORMAT_PATTERN)
SCORE = choice_param("score", "the score", ("fisher", "measured", "output", "weight"))
GROUP = integer_param("group", "the group size", 64, 1, 65536)
CONTEXT = integer_param("context", "the context length", 2048, 1, 100_000_000)
RECIPE = text_param("recipe", "the recipe", pattern=r"[\w-]{0,64}")
TRAINED = text_param("trained", "the training", pattern=r"[0-9a-f]{0,64}")
"""Key of the training whose weights are in use."""
MODE = choice_param("mode", "how lessons are shown", ("app", "lesson"))
"""In lesson mode nothing else of the app is shown; other pages leave it."""
MODELS_OWN: list[Param[Any]] = [UNIT, RECIPE, TRAINED]
"""What is forgotten when another model is opened."""


def sync(page: str) -> None:
    """Bring memory and URL in line as a page's run starts: on a fresh or changed page the URL speaks first.

    A parameter whose page has not been visited since the server started is not known yet: its text is carried along.
    """
    carried: dict[str, str] = st.session_state.setdefault(_CARRIED, {})
    if st.session_state.get(_PAGE) != page:
        carried.update(st.query_params.to_dict())
        st.session_state[_PAGE] = page
    for name in [name for name in carried if name in PARAMS]:
        PARAMS[name].read(carried.pop(name))
    for param in PARAMS.values():
        param.publish()
    for name, text in carried.items():
        if st.query_params.get(name) != text:
            st.query_params[name] = text


def query(**changes: str) -> Mapping[str, str]:
    """The query string that keeps the user's place, with some values changed; for links to another page."""
    carried: dict[str, str] = st.session_state.get(_CARRIED, {})
    now = {param.name: param.text() for param in PARAMS.values() if param.get() != param.default}
    return {**carried, **now, **changes}


def note(sentence: str) -> None:
    """Keep a sentence to show once, at the top of the next run."""
    notes: list[str] = st.session_state.setdefault(_NOTES, [])
    if sentence not in notes:
        notes.append(sentence)


def take_notes() -> list[str]:
    """The sentences kept by ``note``, which are forgotten."""
    notes: list[str] = st.session_state.pop(_NOTES, [])
    return notes


def model_ref() -> ModelRef:
    """The model that is open."""
    return ModelRef(MODEL.get(), REVISION.get(), DTYPE.get(), DEVICE.get())


def open_model(ref: ModelRef) -> None:
    """Make ``ref`` the model that is open; what belonged to the former model is forgotten."""
    if ref == model_ref():
        return
    MODEL.set(ref.source)
    REVISION.set(ref.revision)
    DTYPE.set(ref.dtype)
    DEVICE.set(ref.device)
    for param in MODELS_OWN:
        param.set(param.default)
