"""What llama.cpp computes of GGUF files; run by the python of ``.venv-llamacpp``, which has xllamacpp and no torch.

Reads ``[{"path", "tokens", "texts", "full"}]`` from standard input; writes, for each, ``logprobs``: of every token but
the first given those before it, or with ``full`` the whole distribution there; and ``ids``: the tokens of each text.

The server has no log-probabilities of a prompt, so that every prefix is a request (its cache keeps all but the last
token). It draws one token, and tells the probabilities before the bias that makes it the right one.

With a path as argument it serves that file on a free port of this machine, writes the address, and ends with its input.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.request import Request, urlopen

import xllamacpp


def serve(path: str) -> xllamacpp.Server:
    settings = xllamacpp.CommonParams()
    settings.model.path = path
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers, settings.warmup = 512, 1, 0, False
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(settings)


def logprobs(server: xllamacpp.Server, prompt: list[int], token: int, count: int) -> Any:
    """Of ``token`` behind ``prompt``; of the first ``count`` tokens by number where that is not 0."""
    request = {
        "prompt": prompt,
        "n_predict": 1,
        "n_probs": count or 1,
        "temperature": 0.0,
        "logit_bias": [[token, 1e4]],
    }
    answer: Any = server.handle_completions(request)
    (drawn,) = answer["choices"][0]["logprobs"]["content"]
    if drawn["id"] != token:
        raise ValueError(f"drew {drawn['id']}, not {token}")
    if not count:
        return drawn["logprob"]
    by_token = {each["id"]: each["logprob"] for each in drawn["top_logprobs"]}
    return [by_token[index] for index in range(count)]


def tokenized(server: xllamacpp.Server, text: str) -> list[int]:
    body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
    request = Request(f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        found: list[int] = json.load(answer)["tokens"]
    return found


def run(task: dict[str, Any]) -> dict[str, Any]:
    server = serve(task["path"])
    tokens, count = task.get("tokens", []), task.get("full", 0)
    told = [logprobs(server, tokens[:place], tokens[place], count) for place in range(1, len(tokens))]
    return {"logprobs": told, "ids": [tokenized(server, text) for text in task.get("texts", [])]}


if __name__ == "__main__" and len(sys.argv) > 1:
    served = serve(sys.argv[1])
    sys.stdout.write(f"{served.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()
elif __name__ == "__main__":
    sys.stdout.write(json.dumps([run(task) for task in json.load(sys.stdin)]))
