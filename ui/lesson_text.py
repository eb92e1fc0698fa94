"""The lessons' texts: one short Markdown file each, in parts, with places for numbers that are computed.

A file begins with its title, ``# Who shares a scale?``, and has the parts in ``PARTS`` under headings of the second
level. Formulas are LaTeX between dollar signs. ``[[name]]`` is a place for a number that the lesson's page computes.
``Earnest`` holds lines ``page: label``, where what was learned is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "assets" / "lessons"
PARTS = ("Question", "Idea", "Guess", "Happened", "Remember", "Earnest")
_PLACE = re.compile(r"\[\[([a-z_]+)\]\]")


@dataclass(frozen=True)
class LessonText:
    """What a lesson says, in Markdown."""

    title: str
    question: str
    idea: str
    guess: str
    happened: str
    remember: str
    earnest: tuple[tuple[str, str], ...]
    """Pages by the stems of their files, and what to call the link."""


@cache
def lesson_text(stem: str) -> LessonText:
    """The text of a lesson, from ``assets/lessons``."""
    return parse((FOLDER / f"{stem}.md").read_text(encoding="utf-8"))


def parse(text: str) -> LessonText:
    """A lesson's text in its parts; ``ValueError`` names a part that is missing, empty, or one too many."""
    first, _, rest = text.partition("\n")
    pieces = re.split(r"^## (.+)$", rest, flags=re.MULTILINE)
    names, bodies = pieces[1::2], [body.strip() for body in pieces[2::2]]
    if not first.startswith("# ") or tuple(names) != PARTS or not all(bodies):
        raise ValueError(
            f"A lesson has a title and the parts {', '.join(PARTS)}, none of them empty; found {names}."
        )
    question, idea, guess, happened, remember, links = bodies
    earnest = tuple(
        (page.strip(), label.strip())
        for page, _, label in (line.partition(":") for line in links.splitlines())
    )
    return LessonText(first[2:].strip(), question, idea, guess, happened, remember, earnest)


def filled(text: str, numbers: Mapping[str, str]) -> str:
    """Text with its places filled; ``ValueError`` unless every place has a number and every number a place."""
    places = set(_PLACE.findall(text))
    if places != set(numbers):
        raise ValueError(f"The text has places for {sorted(places)}, the page has {sorted(numbers)}.")
    return _PLACE.sub(lambda match: numbers[match[1]], text)
