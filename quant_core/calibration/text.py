"""From a choice of text to token sequences of equal length."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from quant_core.errors import ModelError, TextError
from quant_core.jobs.context import Context
from quant_core.schema import TextSource

if TYPE_CHECKING:
    from quant_core.models.loading import LoadedModel

TEXTS = Path(__file__).resolve().parents[2] / "assets" / "texts"
_FEWEST = 64
"""Fewer tokens than this say nothing about a model."""
_SEQUENCES = 8
"""A text too short for this many sequences is cut into shorter ones, so that a standard error can be had."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of shape (sequences, length), with the hash and name of the text they come from."""

    ids: Tensor
    text_hash: str
    label: str

    @property
    def count(self) -> int:
        """Number of tokens."""
        return self.ids.numel()


def bundled_text(name: str) -> str:
    """The bundled ``calibration`` or ``evaluation`` text; passages follow each other without their separators."""
    return (TEXTS / f"{name}.txt").read_text(encoding="utf-8").replace("\n%\n", "\n")


class Stretches(NamedTuple):
    """A text in two parts."""

    learned: Tokens
    """What rounding methods learn from."""
    scored: Tokens
    """What they are scored on."""
    note: str
    """What to say of that, a sentence; empty where both are the same."""


def tokenize(context: Context, loaded: LoadedModel, source: TextSource, tokens: int, length: int) -> Tokens:
    """Sequences of the text, as many as make ``tokens``, or all there are.

    Consecutive windows that do not overlap; each begins with the tokenizer's own start token if it has one. Raises
    ``TextError`` for text that is empty or under 64 tokens.
    """
    length = _length(loaded, tokens, length)
    if source.kind == "self":
        return _written(context, loaded, source, tokens, length)
    stream, text_hash, label = _stream(loaded, source)
    return Tokens(_cut(loaded, stream, tokens, length)[0], text_hash, label)


def stretches(
    context: Context, loaded: LoadedModel, source: TextSource, tokens: int, length: int, apart: bool
) -> Stretches:
    """What ``tokenize`` gives to learn from, and, if the two are to be apart, as much text behind it to score on.

    Of a text too short for both each gets one half. A model that writes its text writes another one, with the next
    seed. Raises ``TextError`` as ``tokenize`` does, and for text under 128 tokens that is to be parted.
    """
    if not apart:
        same = tokenize(context, loaded, source, tokens, length)
        return Stretches(same, same, "")
    length = _length(loaded, tokens, length)
    if source.kind == "self":
        learned, scored = (
            _written(context, loaded, replace(source, seed=source.seed + more), tokens, length)
            for more in (0, 1)
        )
        return Stretches(
            learned, scored, f"{_LEARNED} one text, and scores are over another ({scored.label})."
        )
    stream, text_hash, label = _stream(loaded, source)
    if len(stream) < 2 * _FEWEST:
        raise TextError(
            f"The text ({label}) has {len(stream)} tokens, and at least {2 * _FEWEST} are needed where a rounding "
            "learns from one half and is scored on the other.",
            "Give a longer text, or leave out the methods that learn.",
        )
    ids, used = _cut(loaded, stream, tokens, length)
    said = f"{_LEARNED} the first {used:,} tokens, and scores are over the next {used:,}."
    if 2 * used > len(stream):
        half = len(stream) // 2
        stream = stream[: 2 * half]
        ids, used = _cut(loaded, stream[:half], min(tokens, half), length)
        said = (
            f"{_LEARNED} the first half of the text and scores are over the second, {used:,} tokens each: it has not "
            f"twice the {tokens:,} that were asked for."
        )
    behind, _ = _cut(loaded, stream[used:], tokens, length, like=ids)
    return Stretches(Tokens(ids, text_hash, label), Tokens(behind, text_hash, label), said)


_LEARNED = "So that no rounding is scored on the text it learned from, methods learn from"


def _length(loaded: LoadedModel, tokens: int, length: int) -> int:
    """How long a sequence is at most; ``TextError`` where too little is asked for."""
    if tokens < _FEWEST or length < 2:
        raise TextError(
            f"{tokens} tokens in sequences of {length} are too few.", f"Use at least {_FEWEST} tokens."
        )
    return min(length, loaded.info.context_length or length)


def _written(context: Context, loaded: LoadedModel, source: TextSource, tokens: int, length: int) -> Tokens:
    ids = write_text(context, loaded, tokens, length, source.seed)
    return Tokens(ids, _hash(str(ids.tolist())), f"written by the model, seed {source.seed}")


def _stream(loaded: LoadedModel, source: TextSource) -> tuple[Tensor, str, str]:
    """All tokens of a text (n,), its hash and its name."""
    text, label = _read(source)
    tokenizer: Any = loaded.tokenizer
    stream = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)
    check_ids(loaded, stream)
    if len(stream) < _FEWEST:
        raise TextError(
            f"The text ({label}) has {len(stream)} tokens, and at least {_FEWEST} are needed.",
            "Give a longer text.",
        )
    return stream, _hash(text), label


def _cut(
    loaded: LoadedModel, stream: Tensor, tokens: int, length: int, like: Tensor | None = None
) -> tuple[Tensor, int]:
    """Sequences (rows, length) from the stream's beginning, shaped like ``like`` if given, and how much they take."""
    start = _start_tokens(loaded.tokenizer)
    if like is None:
        length = max(2 + len(start), min(length, min(tokens, len(stream)) // _SEQUENCES))
        rows = max(1, min(-(-tokens // length), len(stream) // (length - len(start))))
    else:
        rows, length = like.shape
    body = length - len(start)
    prefix = torch.tensor(start, dtype=torch.long).expand(rows, len(start))
    return torch.cat([prefix, stream[: rows * body].reshape(rows, body)], dim=1), rows * body


def check_ids(loaded: LoadedModel, ids: Tensor) -> None:
    """Raise ``ModelError`` for token ids that the model has no embedding for."""
    known = loaded.model.get_input_embeddings().weight.shape[0]
    if ids.numel() and int(ids.max()) >= known:
        raise ModelError(
            f"The tokenizer of {loaded.info.title} makes token {int(ids.max())}, and the model knows only {known:,}.",
            "Put the tokenizer that belongs to the model beside its weights.",
        )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _start_tokens(tokenizer: Any) -> list[int]:
    first = tokenizer("a")["input_ids"][:1]
    return list(first) if first and first[0] == tokenizer.bos_token_id else []


def _read(source: TextSource) -> tuple[str, str]:
    if source.kind == "inline":
        return source.value, source.label or "own text"
    if source.kind == "dataset":
        return _dataset(source.value), source.value
    return bundled_text(source.kind), f"bundled {source.kind} text"


def _dataset(value: str) -> str:
    name, config, split, column = (*value.split(":"), "", "", "")[:4]
    try:
        import datasets  # an optional companion: only this choice of text needs it
    except ImportError as error:
        raise TextError(
            "Reading a hub dataset needs the package 'datasets'.",
            "Run 'pip install datasets', or paste the text.",
        ) from error
    try:
        rows = datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
        pieces: list[str] = []
        size = 0
        for row in rows:
            piece = str(row[column or "text"])
            pieces.append(piece)
            size += len(piece)
            if size > 2_000_000:
                break
    except Exception as error:  # the library raises many types for one cause: it cannot be had
        raise TextError(
            f"The dataset {name!r} cannot be read: {type(error).__name__}.",
            "Check name:config:split:column and the network, or paste the text.",
        ) from error
    return "\n".join(pieces)


def write_text(context: Context, loaded: LoadedModel, tokens: int, length: int, seed: int) -> Tensor:
    """Token ids (sequences, length) that the model writes itself from its start token, at temperature 1.

    Drawn with a CPU generator from ``seed``; Liu et al. 2023, "LLM-QAT" (arXiv:2305.17888), section 3.1.
    """
    tokenizer: Any = loaded.tokenizer
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise TextError("The tokenizer has no start token to write from.", "Choose or paste a text.")
    rows = max(_SEQUENCES, -(-tokens // length))
    length = max(2, -(-tokens // rows))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((rows, 1), first, dtype=torch.long)
    cache: Any = None
    with torch.no_grad():
        for step in range(length):
            if step % 16 == 0:
                context.progress(
                    0.0, f"The model writes its calibration text: {step} of {length} tokens a sequence"
                )
            out: Any = loaded.model(ids[:, -1:].to(loaded.device), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            chances = out.logits[:, -1].float().softmax(dim=-1).cpu()
            ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator)], dim=1)
    return ids[:, 1:]
