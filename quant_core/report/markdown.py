"""A document as Markdown (CommonMark with tables): charts are left out, as tables hold their numbers."""

from __future__ import annotations

import re

from quant_core.report.document import Block, Document, Listing, Table, Text, Verbatim, clean

_MARKS = re.compile(r"([\\`*_\[\]|~$#!]|^[-+=:](?=\s|$|[-+=:]))")
_NUMBER = re.compile(r"^(\d+)([.)])(?=\s|$)")


def to_markdown(document: Document) -> str:
    """The document; every text of it reads as it is, whatever marks it holds."""
    parts = [
        f"# {escaped(document.title)}",
        f"**{escaped(document.question)}**",
        escaped(document.answer),
        _table(Table(("Figure", "Value", "Of what"), tuple(map(tuple, document.facts)))),
        "**What it does not know**",
        _list(document.unknown),
        "## Appendix",
    ]
    for section in document.appendix:
        parts.append(f"### {escaped(section.title)}")
        parts += [text for block in section.blocks if (text := _block(block))]
    return "\n\n".join([*parts, escaped(f"Made by {document.made_by}.")]) + "\n"


def escaped(text: str) -> str:
    """``text`` as one line of Markdown that shows exactly its words."""
    line = " ".join(clean(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _NUMBER.sub(r"\1\\\2", _MARKS.sub(r"\\\1", line))


def fenced(text: str) -> str:
    """``text`` in a fence that it cannot close."""
    kept = clean(text)
    runs = [len(run) for run in re.findall("`+", kept)]
    fence = "`" * max([3, *(length + 1 for length in runs)])
    return f"{fence}text\n{kept}\n{fence}"


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return escaped(text)
        case Listing(items):
            return _list(items)
        case Table():
            return _table(block)
        case Verbatim(title, text, _):
            return f"{escaped(title)}:\n\n{fenced(text)}" if title else fenced(text)
        case _:
            return ""


def _list(items: tuple[str, ...]) -> str:
    return "\n".join(f"- {escaped(item)}" for item in items)


def _table(table: Table) -> str:
    rule = ["---:" if place in table.numeric else "---" for place in range(len(table.head))]
    rows = [[escaped(cell) for cell in row] for row in (table.head, *table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])
