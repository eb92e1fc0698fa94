"""An engine without a runtime, for tests of the machinery: it answers by counting, or goes wrong as it is told."""

from __future__ import annotations

import os
import signal
import sys
import time

from quant_core.engines.serve import Answer, Round, serve


def load(task: Answer) -> tuple[Answer, Round]:
    wrong = sys.argv[1]
    if wrong == "fails":
        raise ValueError("the file is damaged")
    if wrong == "memory":
        raise MemoryError
    if wrong == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    number = 0

    def run() -> Answer:
        nonlocal number
        if wrong == "crashes":
            os.kill(os.getpid(), signal.SIGTERM)
        if wrong == "hangs":
            time.sleep(60)
        number += 1
        sys.stdout.write("a library says something\n")
        written = task["tokens"] - (2 if wrong == "short" else 1)
        read = len(task["prompt"])
        return {
            "read": read,
            "reading": read / 100 / number,
            "written": written,
            "writing": 2.0 / number,
            "gpu": 0,
        }

    return {"device": "cpu"}, run


if __name__ == "__main__":
    serve(load)
