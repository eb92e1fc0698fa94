"""A checkpoint in transformers, with the kernels of the library that its configuration names (bitsandbytes, torchao).

The prompt is read at once, then the likeliest token is written again and again with the KV cache, no matter what it is.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from quant_core.engines.serve import Answer, Round, serve


def load(task: Answer) -> tuple[Answer, Round]:
    """Read the checkpoint in the dtype that it is stored in."""
    device = torch.device(task["device"])
    if device.type == "cpu":
        torch.set_num_threads(task["threads"])
    model: Any = AutoModelForCausalLM.from_pretrained(
        task["folder"],
        dtype="auto",
        device_map={"": str(device)},
        use_safetensors=True,
        trust_remote_code=False,
    )
    prompt = torch.tensor([task["prompt"]], device=device)
    tokens = task["tokens"]

    def run() -> Answer:
        with torch.inference_mode():
            begun = time.perf_counter()
            out = model(prompt, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
            int(token)  # a GPU is done only once its answer is here
            first = time.perf_counter()
            for _ in range(tokens - 1):
                out = model(token, past_key_values=out.past_key_values, use_cache=True)
                token = out.logits[:, -1:].argmax(-1)
                int(token)
            ended = time.perf_counter()
        gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        return {
            "read": prompt.shape[1],
            "reading": first - begun,
            "written": tokens - 1,
            "writing": ended - first,
            "gpu": gpu,
        }

    return {"device": str(device)}, run


if __name__ == "__main__":
    importlib.import_module(sys.argv[1])
    serve(load)
