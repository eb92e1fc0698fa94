"""Files that users bring to Compare: prompts, one a line, and multiple-choice questions as JSON lines.

A line of questions is an object with a question, its choices and the right one:

    {"question": "The dog began to", "choices": ["bark.", "read."], "answer": 0}

Names that other files use are taken too: ``context``, ``query``, ``prompt``, ``ctx``, ``sentence`` for the question;
``options``, ``endings`` for the choices; ``gold``, ``label``, ``answerKey`` for the right one, which may be an index
from 0, a letter (``"A"``), or the text of the choice.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from quant_core.errors import TextError
from quant_core.schema import Question

PROMPTS = Path(__file__).resolve().parents[1] / "assets" / "texts" / "prompts.txt"
MOST_PROMPTS = 100
MOST_QUESTIONS = 2000
MOST_CHOICES = 26
LONGEST = 8000
"""Letters of a prompt, or of a question with all its choices."""
_EXAMPLE = '{"question": "The dog began to", "choices": ["bark.", "read."], "answer": 0}'
_CONTEXTS = ("question", "context", "query", "prompt", "ctx", "sentence")
_CHOICES = ("choices", "options", "endings")
_ANSWERS = ("answer", "gold", "label", "answerKey")
_NAMED = 12
"""Lines that a sentence names."""


class Questions(NamedTuple):
    """What a file holds, and a sentence on the lines that were left out, empty where there are none."""

    questions: tuple[Question, ...]
    left_out: str


def bundled_prompts() -> str:
    """The prompts that were written for the bundled model, one a line."""
    return PROMPTS.read_text(encoding="utf-8")


def read_prompts(text: str) -> tuple[str, ...]:
    """The prompts of a text, one a line; empty lines do not count.

    Raises:
        TextError: There is none, or there are too many, or one is too long.
    """
    prompts = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not prompts:
        raise TextError("There is no prompt.", "Write one a line.")
    if len(prompts) > MOST_PROMPTS:
        raise TextError(f"There are {len(prompts):,} prompts.", f"Keep to {MOST_PROMPTS}.")
    for number, prompt in enumerate(prompts, 1):
        if len(prompt) > LONGEST:
            raise TextError(f"Prompt {number} has {len(prompt):,} letters.", f"Keep to {LONGEST:,}.")
    return prompts


def read_questions(text: str) -> Questions:
    """The questions of a JSON-lines text; lines that are none are named, and the others are used.

    Raises:
        TextError: No line holds a question, or there are too many.
    """
    found: list[Question] = []
    bad: dict[str, list[int]] = defaultdict(list)
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                found.append(_question(line))
            except ValueError as error:
                bad[str(error)].append(number)
    parts = [f"{_lines(numbers)} ({why})" for why, numbers in bad.items()]
    left_out = f"Left out: {'; '.join(parts)}." if parts else ""
    if not found:
        raise TextError(f"The file holds no question. {left_out}".strip(), f"Write one a line: {_EXAMPLE}")
    if len(found) > MOST_QUESTIONS:
        raise TextError(f"The file holds {len(found):,} questions.", f"Keep to {MOST_QUESTIONS:,}.")
    return Questions(tuple(found), left_out)


def _lines(numbers: list[int]) -> str:
    shown = ", ".join(f"{number:,}" for number in numbers[:_NAMED])
    more = f" and {len(numbers) - _NAMED:,} more" if len(numbers) > _NAMED else ""
    return f"line{'s' if len(numbers) > 1 else ''} {shown}{more}"


def _question(line: str) -> Question:
    """The question of a line; ``ValueError`` says what is wrong with it."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None
    if not isinstance(data, dict):
        raise ValueError("no JSON object")
    context, choices, answer = (_first(data, names) for names in (_CONTEXTS, _CHOICES, _ANSWERS))
    if isinstance(choices, dict):  # {"text": [...], "label": ["A", "B"]}, as ARC has it
        labels, choices = choices.get("label"), choices.get("text")
        if isinstance(labels, list) and answer in labels:
            answer = labels.index(answer)
    if not isinstance(context, str) or not context.strip():
        raise ValueError("no question")
    if not (
        isinstance(choices, list) and all(isinstance(choice, str) and choice.strip() for choice in choices)
    ):
        raise ValueError("no list of choices")
    if not 2 <= len(choices) <= MOST_CHOICES:
        raise ValueError(f"not 2 to {MOST_CHOICES} choices")
    if len(context) + sum(map(len, choices)) > LONGEST:
        raise ValueError(f"more than {LONGEST:,} letters")
    return Question(context, tuple(choices), _index(answer, choices))


def _first(data: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((data[name] for name in names if name in data), None)


def _index(answer: Any, choices: list[str]) -> int:
    """Which choice an answer means; ``ValueError`` if it means none."""
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, str):
        if answer in choices:
            return choices.index(answer)
        letter = ord(answer.strip().upper()) - ord("A") if len(answer.strip()) == 1 else -1
        answer = letter if 0 <= letter < MOST_CHOICES else int(answer) if answer.strip().isdecimal() else None
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise ValueError("an answer that is none of the choices")
    return answer
