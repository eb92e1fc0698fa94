"""A client of OpenAI's completions API, as vLLM, llama.cpp's server and Ollama speak it; free of torch.

It sends token ids where predictions are compared, so that no tokenizer stands between, and asks for the likeliest next
tokens. vLLM tells them for every position of a prompt at once (``prompt_logprobs``); others tell them for the token
that they write, so that every prefix is a request, of which a server's cache leaves one token to compute.

A key comes from the environment, goes into one header, and nowhere else. Redirects are not followed: they could
lead it elsewhere. What comes in is bounded and taken for what it is: data of a stranger.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import httpx2

from quant_core.errors import EndpointError
from quant_core.schema import Endpoint

SECONDS = 120.0
"""Longest silence of a server."""
CONNECT_SECONDS = 10.0
MOST_BYTES = 64_000_000
"""Of one answer."""
_LOCAL = ("127.0.0.1", "localhost", "::1")
_ID = re.compile(r"[0-9]{1,9}")
_WORDS = 200
"""Characters of a server's own explanation that are passed on."""


class Entry(NamedTuple):
    """A token that a server named: its id if it told it, its text, and its log-probability."""

    token: int | None
    text: str
    log_prob: float


class Piece(NamedTuple):
    """Text as it came, and the seconds since the request."""

    text: str
    seconds: float


class Server:
    """One endpoint, for as long as the block lasts.

    Raises:
        EndpointError: From every method, where the server cannot be reached or answers otherwise than asked.
    """

    def __init__(self, endpoint: Endpoint, seconds: float = SECONDS) -> None:
        self._endpoint = endpoint
        self._key = _key(endpoint)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds)),
            follow_redirects=False,
            trust_env=urlsplit(endpoint.address).hostname not in _LOCAL,
        )
        self._name = endpoint.model
        self._at_once: bool | None = None
        self.requests = 0
        """That were sent for predictions."""
        self.counted: int | None = None
        """Tokens that the server says it streamed last; None where it does not say."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def name(self) -> str:
        """What the server calls its model: as was asked, else the only one that it lists."""
        if not self._name:
            models = self.models()
            if len(models) != 1:
                listed = ", ".join(models[:10]) or "none"
                raise EndpointError(
                    f"The server lists {len(models)} models: {listed}.",
                    "Say which one is meant, by its name.",
                )
            self._name = models[0]
        return self._name

    def models(self) -> list[str]:
        """Names of the models that the server lists."""
        with self._asked("GET", "/models", None) as response:
            data = self._read(response)
        found = data.get("data")
        rows = found if isinstance(found, list) else []
        return [row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]

    def predictions(self, ids: Sequence[int], k: int, plain: int) -> Iterator[list[Entry]]:
        """The ``k`` likeliest tokens behind every prefix of ``ids`` but the whole, from one token up.

        llama.cpp says nothing where it writes the end of a text or part of a character: there it is made to write
        ``plain``, a token of whole characters. It tells the probabilities from before such a bias.
        """
        if self._at_once is None or self._at_once:
            whole = self._complete(ids, k, prompt_logprobs=k)
            told = whole.get("prompt_logprobs")
            self._at_once = isinstance(told, list)
            if isinstance(told, list):
                if len(told) != len(ids):
                    raise self._odd(f"tells {len(told)} positions of a prompt of {len(ids)}")
                for place in told[1:]:
                    yield self._checked(_by_id(place), k)
                return
        for length in range(1, len(ids)):
            entries = _written(self._complete(ids[:length], k).get("logprobs"))
            if not entries:
                entries = _written(
                    self._complete(ids[:length], k, logit_bias={str(plain): 100}).get("logprobs")
                )
            yield self._checked(entries, k)

    def stream(
        self, prompt: str, tokens: int, seed: int, temperature: float, top_p: float
    ) -> Iterator[Piece]:
        """Continue a prompt; pieces of text as they come. ``counted`` is set when it ends."""
        body = {
            "model": self.name,
            "prompt": prompt,
            "max_tokens": tokens,
            "seed": seed,
            "temperature": temperature,
            "top_p": top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        self.counted = None
        begun = time.perf_counter()
        finished = False
        with self._asked("POST", "/completions", body) as response:
            for line in self._lines(response):
                kind, _, rest = line.partition(":")
                if kind == "error":
                    raise self._odd(f"broke off with {self._explained(_json(rest))}")
                if kind != "data":
                    continue
                if rest.strip() == "[DONE]":
                    finished = True
                    break
                data = _json(rest)
                if not isinstance(data, dict):
                    raise self._odd("streams something else than JSON")
                if "error" in data:
                    raise self._odd(f"broke off with {self._explained(data)}")
                usage = data.get("usage")
                count = usage.get("completion_tokens") if isinstance(usage, dict) else None
                if isinstance(count, int) and 0 <= count <= tokens:
                    self.counted = count
                for choice in _choices(data)[:1]:
                    finished = finished or choice.get("finish_reason") is not None
                    if isinstance(text := choice.get("text"), str) and text:
                        yield Piece(text, time.perf_counter() - begun)
        if not finished:
            raise EndpointError(
                f"The text from {self._endpoint.address} broke off before its end.",
                "See whether the server still runs, then try again.",
            )

    # --- one request

    def _complete(self, ids: Sequence[int], k: int, **further: Any) -> dict[str, Any]:
        """The only choice of a completion by one token."""
        body: dict[str, Any] = {
            "model": self.name,
            "prompt": list(ids),
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": k,
            "return_tokens_as_token_ids": True,
            **further,
        }
        self.requests += 1
        with self._asked("POST", "/completions", body) as response:
            choices = _choices(self._read(response))
        if len(choices) != 1:
            raise self._odd(f"gives {len(choices)} answers in place of one")
        return choices[0]

    @contextmanager
    def _asked(self, method: str, path: str, body: Mapping[str, Any] | None) -> Iterator[httpx2.Response]:
        """The answer to a request, its status seen to and its body not read yet."""
        where = self._endpoint.address
        try:
            with self._client.stream(method, where + path, json=body) as response:
                if response.status_code != 200:
                    self._refuse(response, path)
                yield response
        except httpx2.TimeoutException as error:
            raise EndpointError(
                f"{where} did not answer in time.", "See whether it is busy or still loads its model."
            ) from error
        except (httpx2.ConnectError, httpx2.ProxyError) as error:
            raise EndpointError(
                f"Nothing answers at {where}.", "See that the server runs, and check host and port."
            ) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise EndpointError(
                f"The connection to {where} broke off ({type(error).__name__}).",
                "See whether the server still runs, then try again.",
            ) from error

    def _refuse(self, response: httpx2.Response, path: str) -> None:
        status, where = response.status_code, self._endpoint.address
        if status in (401, 403):
            named = self._endpoint.key
            raise EndpointError(
                f"{where} refused the key ({status}).",
                f"See that {named} holds the right one, where QuantLens was started."
                if named
                else "Name the environment variable that holds its key, such as OPENAI_API_KEY.",
            )
        if status == 404:
            self._missing(path)
        if 300 <= status < 400:
            raise EndpointError(f"{where} sends on to another address ({status}).", "Give that address.")
        if status in (429, 503):
            raise EndpointError(f"{where} is busy or still loads its model ({status}).", "Try again later.")
        told = self._explained(_json(self._bytes(response).decode("utf-8", "replace")))
        raise EndpointError(
            f"{where} answered {status}{f' with {told}' if told else ''}.",
            "It must speak OpenAI's completions API; for a check it must take token ids and tell log-probabilities, "
            "as vLLM and llama.cpp do.",
        )

    def _missing(self, path: str) -> None:
        where = self._endpoint.address
        if path != "/models":
            models = self.models()
            if self._name not in models:
                raise EndpointError(
                    f"{where} has no model {self._name[:80]!r}.",
                    f"It has: {', '.join(models[:10]) or 'none'}.",
                )
        raise EndpointError(
            f"{where} has no {path} (404).",
            "Give the address up to the version, such as http://127.0.0.1:8080/v1.",
        )

    def _bytes(self, response: httpx2.Response) -> bytes:
        found = bytearray()
        for chunk in response.iter_bytes():
            found += chunk
            if len(found) > MOST_BYTES:
                raise self._odd(f"answers with more than {MOST_BYTES / 1e6:.0f} MB")
        return bytes(found)

    def _lines(self, response: httpx2.Response) -> Iterator[str]:
        """Lines of a stream that is as long as an answer may be."""
        rest, size = b"", 0
        for chunk in response.iter_bytes():
            size += len(chunk)
            if size > MOST_BYTES:
                raise self._odd(f"streams more than {MOST_BYTES / 1e6:.0f} MB")
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", "replace").rstrip("\r")
        if rest:
            yield rest.decode("utf-8", "replace")

    def _read(self, response: httpx2.Response) -> dict[str, Any]:
        data = _json(self._bytes(response).decode("utf-8", "replace"))
        if not isinstance(data, dict):
            raise self._odd("answers with something else than JSON")
        return data

    def _explained(self, data: Any) -> str:
        """A server's own words for an error, shortened, without the key if they repeat it."""
        error = data.get("error", data.get("message", "")) if isinstance(data, dict) else ""
        text = str(error.get("message", "") if isinstance(error, dict) else error)
        hidden = text.replace(self._key, "…") if self._key else text
        hidden = " ".join(hidden.split())
        return f"“{hidden[:_WORDS]}”" if hidden else ""

    def _odd(self, what: str) -> EndpointError:
        return EndpointError(
            f"{self._endpoint.address} {what}.",
            "See that it is a server that speaks OpenAI's completions API.",
        )

    def _checked(self, entries: list[Entry], k: int) -> list[Entry]:
        """The k likeliest of a distribution, the likeliest first; vLLM adds the prompt's own token."""
        if not entries:
            raise EndpointError(
                f"{self._endpoint.address} tells no log-probabilities.",
                "Choose a server that does: vLLM and llama.cpp do.",
            )
        if sum(math.exp(entry.log_prob) for entry in entries) > 1.001:
            raise self._odd("tells probabilities that add up to more than 1")
        return sorted(entries, key=lambda entry: -entry.log_prob)[:k]


def _key(endpoint: Endpoint) -> str:
    if not endpoint.key:
        return ""
    found = os.environ.get(endpoint.key, "").strip()
    if not found or not found.isascii() or not found.isprintable():
        raise EndpointError(
            f"The environment variable {endpoint.key} holds no key where the work is done.",
            "Set it and start QuantLens again: its worker process keeps the environment it was started with.",
        )
    return found


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _choices(data: dict[str, Any]) -> list[dict[str, Any]]:
    found = data.get("choices")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _written(told: Any) -> list[Entry]:
    """Of the token that was written: as llama.cpp tells it (and OpenAI's chat API), or as OpenAI's completions do."""
    if not isinstance(told, dict):
        return []
    content = told.get("content")
    if isinstance(content, list) and content and isinstance(content[0], dict):
        rows = content[0].get("top_logprobs")
        found = [_row(row) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        return [entry for entry in found if entry is not None]
    top = told.get("top_logprobs")
    if isinstance(top, list) and top and isinstance(top[0], dict):
        return [entry for text, value in top[0].items() if (entry := _entry(_named(text), text, value))]
    return []


def _row(row: dict[str, Any]) -> Entry | None:
    token, text, told = row.get("id"), row.get("token"), row.get("bytes")
    text = text if isinstance(text, str) else ""
    if isinstance(told, list):
        try:
            text = bytes(told).decode("utf-8", "replace")
        except (TypeError, ValueError):
            text = ""
    known = token if isinstance(token, int) and not isinstance(token, bool) else _named(text)
    return _entry(known, text, row.get("logprob"))


def _by_id(place: Any) -> list[Entry]:
    """Of a position of a prompt, as vLLM tells it: by the token's id as text."""
    rows = place.items() if isinstance(place, dict) else ()
    found = [
        _entry(known, str(row.get("decoded_token") or ""), row.get("logprob"))
        for token, row in rows
        if isinstance(row, dict) and (known := _id(token)) is not None
    ]
    return [entry for entry in found if entry is not None]


def _named(text: str) -> int | None:
    """The id in vLLM's ``token_id:17``."""
    kind, _, number = text.partition(":")
    return _id(number) if kind == "token_id" else None


def _id(text: str) -> int | None:
    return int(text) if _ID.fullmatch(text) else None


def _entry(token: int | None, text: str, value: Any) -> Entry | None:
    """An entry, None where its log-probability is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e6 < value < 0.001:
        return None
    return Entry(token, text, min(float(value), 0.0))
