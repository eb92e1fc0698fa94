"""What the lessons say to keep in mind, on one page to print."""

from __future__ import annotations

import re
from html import escape

from ui import entry
from ui.lesson_text import lesson_text

_STYLE = """
@page { size: A4; margin: 12mm }
body { margin: 0 auto; max-width: 48rem; padding: 1rem; color: #1b2529; background: #ffffff;
  font: 13px/1.4 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "DejaVu Sans",
  sans-serif }
h1 { font-size: 1.5rem; margin: 0 0 .6rem } h2 { font-size: 1rem; margin: 0 }
ol { columns: 2; column-gap: 1.6rem; padding: 0; margin: 0; list-style: none }
li { break-inside: avoid; margin: 0 0 .8rem }
p { margin: .15rem 0 } .question { color: #4d5a60; font-style: italic }
@media (max-width: 40rem) { ol { columns: 1 } }
@media print { body { padding: 0; font-size: 10.5px } }
"""


def summary() -> str:
    """One HTML file without script or network: a lesson's title, its question, and what to keep in mind of it."""
    items = "".join(_item(place + 1, spec.stem, spec.title) for place, spec in enumerate(entry.LESSONS))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Quantization on one page</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>Quantization on one page</h1>\n<ol>\n{items}</ol>\n</body>\n</html>\n"
    )


def _item(number: int, stem: str, title: str) -> str:
    text = lesson_text(stem)
    return (
        f'<li><h2>{number}. {escape(title)}</h2><p class="question">{escape(text.title)}</p>'
        f"<p>{_plain(text.remember)}</p></li>\n"
    )


def _plain(text: str) -> str:
    """Markdown of a few sentences as HTML: bold, and nothing else; formulas do not stand in what is printed."""
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(text))
