"""A GGUF file in llama.cpp, through the wheel ``xllamacpp``, on the CPU; times are llama.cpp's own.

llama.cpp's ``predicted_ms`` runs from the first written token, which comes with the prompt, to the last; it reads the
prompt anew in every round (``cache_prompt``), and goes on behind the end of a text (``ignore_eos``).
"""

from __future__ import annotations

from typing import Any

import xllamacpp

from quant_core.engines.serve import Answer, Round, serve


def load(task: Answer) -> tuple[Answer, Round]:
    """Read the file and warm nothing up: the first round does."""
    prompt, tokens = task["prompt"], task["tokens"]
    settings: Any = xllamacpp.CommonParams()
    settings.model.path = task["file"]
    settings.n_ctx, settings.n_parallel = len(prompt) + tokens, 1
    settings.n_gpu_layers, settings.warmup = 0, False
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = task["threads"]
    server: Any = xllamacpp.Server(settings)
    request = {
        "prompt": prompt,
        "n_predict": tokens,
        "temperature": 0.0,
        "ignore_eos": True,
        "cache_prompt": False,
    }

    def run() -> Answer:
        answer = server.handle_completions(request)
        if "timings" not in answer:
            raise ValueError(f"llama.cpp answered without times: {str(answer)[:200]}")
        told = answer["timings"]
        return {
            "read": told["prompt_n"],
            "reading": told["prompt_ms"] / 1e3,
            "written": told["predicted_n"] - 1,
            "writing": told["predicted_ms"] / 1e3,
            "gpu": 0,
        }

    return {"device": "cpu"}, run


if __name__ == "__main__":
    serve(load)
