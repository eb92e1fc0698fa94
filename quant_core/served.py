"""Served models without torch: addresses that may be asked, what a check says, and texts that came in pieces."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import Literal
from urllib.parse import urlsplit

from quant_core.errors import EndpointError
from quant_core.schema import Check, Divergence, Endpoint, ModelRef

KEY_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,60}_API_KEY")
"""Environment variables that a key may be taken from: not every secret of the environment may be sent."""
LIMIT = 0.05

Verdict = Literal["same", "likely the same", "likely changed", "changed"]
_ANSWERS: dict[Verdict, str] = {
    "same": "Yes, within the limit.",
    "likely the same": "Probably: the mean is within the limit, its interval reaches beyond.",
    "likely changed": "Probably not: the mean is above the limit, its interval reaches below.",
    "changed": "No, above the limit.",
}


def endpoint(address: str, model: str = "", key: str = "") -> Endpoint:
    """An endpoint whose address was checked and brought to one form.

    Raises:
        EndpointError: The address is no http(s) address or holds more than one, or the variable may not hold a key.
    """
    text = address.strip()
    remedy = "Give one like http://127.0.0.1:8080/v1."
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
        port = parts.port
    except ValueError:
        known, port = False, None
    if not known or port == 0 or re.search(r"[\s\\`]", text):
        raise EndpointError(f"{text[:80]!r} is no address of a server.", remedy)
    if parts.username is not None or parts.query or parts.fragment:
        raise EndpointError(
            "The address holds a password, a query or a fragment, which would be stored with the results.",
            remedy,
        )
    if key and not KEY_NAME.fullmatch(key):
        raise EndpointError(
            "The key is named by the environment variable that holds it, such as OPENAI_API_KEY.",
            "Its name must end in _API_KEY; the key itself is asked for nowhere.",
        )
    path = parts.path.rstrip("/") or "/v1"
    return Endpoint(f"{parts.scheme}://{parts.netloc}{path}", model.strip(), key)


def now() -> str:
    """The time of a check, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def verdict(found: Divergence, limit: float) -> Verdict:
    """Whether what is served is what was approved, from the mean KL and its interval; ``limit`` in nats a token."""
    if found.mean <= limit:
        return "same" if found.high <= limit else "likely the same"
    return "changed" if found.low > limit else "likely changed"


def answer(found: Check, limit: float) -> str:
    """The verdict in words."""
    return _ANSWERS[verdict(found.approved, limit)]


def aligned(original: Sequence[str], pieces: Sequence[str]) -> tuple[str, ...]:
    """A text that came in ``pieces``, cut as the original's tokens are for as long as both agree, then as it came."""
    text = "".join(pieces)
    found: list[str] = []
    done = 0
    for token in original:
        if done == len(text) or not text.startswith(token, done):
            break
        found.append(token)
        done += len(token)
    for end in accumulate(map(len, pieces)):
        if end > done:
            found.append(text[done:end])
            done = end
    return tuple(found)


def short(name: str) -> str:
    """A name that a server gave, as a title: without the folders of a path, and with nothing that marks up text."""
    plain = re.sub(r"//+", "/", re.sub(r"[^\w.:@+/ -]", "·", name)).strip()
    return (plain.rstrip("/").rpartition("/")[2] if plain.startswith("/") else plain)[:60] or "unnamed"


def command(asked: Endpoint, ref: ModelRef, recipe: str, limit: float) -> str:
    """The command line that makes the same check, for cron or a systemd timer.

    Args:
        asked: The endpoint.
        ref: The model that it is compared with.
        recipe: File of the approved recipe; empty for the original.
        limit: In nats a token.
    """
    parts = ["python", "-m", "quant_core", "check", asked.address, "--model", ref.source]
    parts += ["--revision", ref.revision] if ref.revision else []
    parts += ["--served", asked.model] if asked.model else []
    parts += ["--recipe", recipe] if recipe else []
    parts += ["--key-variable", asked.key] if asked.key else []
    return shlex.join([*parts, "--limit", f"{limit:g}"])
