"""Which text to measure on: bundled, the user's own, a dataset, or written by the model."""

from __future__ import annotations

import streamlit as st

from quant_core.schema import CALIBRATION, EVALUATION, TextSource

_TEXT_CHOICES = {
    "bundled": "Bundled",
    "paste": "Paste",
    "upload": "Upload",
    "dataset": "Dataset",
    "self": "Written by the model",
}
MAX_TEXT = 2_000_000
"""Letters of the user's own text that are taken."""


def text_picker(key: str, purpose: str = "calibration", default: str = "bundled") -> TextSource | None:
    """Which text to measure on; None, with a sentence, as long as the choice is not complete.

    Args:
        key: Prefix of the widgets' keys.
        purpose: ``calibration`` or ``evaluation``; says which bundled text is meant.
        default: The kind of text that is chosen at first.
    """
    bundled = CALIBRATION if purpose == "calibration" else EVALUATION
    kind = st.segmented_control(
        "Text",
        list(_TEXT_CHOICES),
        format_func=_TEXT_CHOICES.__getitem__,
        default=default,
        required=True,
        key=f"{key}:kind",
        persist_state="session",
        help="Scores and measurements hold for text like this one. The bundled calibration and evaluation texts "
        "are disjoint.",
    )
    readers = {"paste": _paste, "upload": _upload, "dataset": _dataset, "self": _self}
    return readers[kind](key) if kind in readers else bundled


def _paste(key: str) -> TextSource | None:
    text = st.text_area(
        "Your text", height=160, key=f"{key}:paste", persist_state="session", max_chars=MAX_TEXT
    )
    return _own(text or "", "pasted text")


def _upload(key: str) -> TextSource | None:
    file = st.file_uploader("A plain text file (UTF-8, up to 5 MB)", type=["txt", "md"], key=f"{key}:upload")
    if file is None:
        st.caption(":material/info: Choose a file, or another kind of text.")
        return None
    try:
        return _own(file.getvalue().decode("utf-8-sig"), file.name)
    except UnicodeDecodeError:
        st.error(
            f"{file.name} is no UTF-8 text. Save it as UTF-8 and upload it again.", icon=":material/error:"
        )
        return None


def _dataset(key: str) -> TextSource | None:
    name = st.text_input(
        "Hugging Face dataset",
        placeholder="wikitext:wikitext-2-raw-v1:test:text",
        key=f"{key}:dataset",
        persist_state="session",
        help="name[:config[:split[:column]]]; needs the `datasets` package and the hub.",
    )
    if not (name or "").strip():
        st.caption(":material/info: Name a dataset, or choose another kind of text.")
        return None
    return TextSource("dataset", name.strip(), name.strip())


def _self(key: str) -> TextSource | None:
    seed = int(st.number_input("Seed", 0, 2**31 - 1, 0, key=f"{key}:seed", persist_state="session") or 0)
    return TextSource("self", label=f"text the model wrote itself (seed {seed})", seed=seed)


def _own(text: str, label: str) -> TextSource | None:
    if not text.strip():
        st.caption(":material/info: Paste some text, a page or more, or choose another kind of text.")
        return None
    return TextSource("inline", text[:MAX_TEXT], label)
