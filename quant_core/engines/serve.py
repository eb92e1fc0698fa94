"""How an engine talks to whoever started it: lines of JSON, a step at a time, each step asked for by a line.

    first line          the task
    -> {}               the libraries are loaded
    load                -> {"device": ...}
    round               -> {"read": 128, "reading": seconds, "written": 31, "writing": seconds, "gpu": bytes}

``written`` are the tokens behind the first, and ``writing`` is their time. Between two steps the engine stands still,
so that its memory can be looked at. It ends with its standard input: whoever started it need not live to end it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

Answer = dict[str, Any]
Round = Callable[[], Answer]


def serve(load: Callable[[Answer], tuple[Answer, Round]]) -> None:
    """Answer until standard input ends; what libraries print goes where errors go."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    task = json.loads(sys.stdin.readline())

    def say(answer: Answer) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    say({})
    if not sys.stdin.readline():
        return
    facts, run = load(task)
    say(facts)
    while sys.stdin.readline():
        say(run())
