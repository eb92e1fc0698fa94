"""Models writing from one prompt, a token each in turn, with the same luck.

All sides draw their tokens with the same random numbers (Gumbel noise per step and token, from one seed), so they
write the same text until their predictions really differ: the first differing token is a property of the recipe.
Maddison et al. 2014, "A* sampling": the arg max of log-probabilities plus Gumbel noise is an exact sample.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from quant_core.calibration.text import check_ids
from quant_core.errors import TextError
from quant_core.evaluation.readings import read_tokens
from quant_core.jobs.context import Context
from quant_core.methods.variant import Variant, imported_variant, make_variant
from quant_core.models.loading import LoadedModel
from quant_core.schema import GenerateRequest, Generation, ReadingEvent, Side, TokenEvent, TokenReading

S = TypeVar("S")


def generate(context: Context, request: GenerateRequest) -> Generation:
    """Continue the prompt with the original and the recipes that there are; each token is emitted as it comes."""
    loaded = context.loaded(request.model, request.roots, request.fingerprint)
    begun = time.monotonic()
    prompt = encode(loaded, request.prompt, request.tokens, request.chat)
    ids = prompt[0].tolist()
    plain = Variant(loaded, {}, ())
    original = Writer(plain, prompt)
    sides: dict[Side, Writer] = {"original": original}
    if request.assignment is not None:
        variant = make_variant(context, loaded, request.assignment, request.setup)
        sides["recipe"] = Writer(variant, prompt)
    if request.other_checkpoint is not None:
        sides["other"] = Writer(imported_variant(context, loaded, request.other_checkpoint), prompt)
    elif request.other is not None:
        sides["other"] = Writer(make_variant(context, loaded, request.other, request.other_setup), prompt)
    readings: dict[Side, TokenReading] = {}

    def read(name: Side) -> None:
        side = sides[name]
        readings[name] = read_tokens(context, plain, side.variant, ids, side.ids)
        context.emit(ReadingEvent(name, readings[name]))

    context.progress(0.0, f"0 of {request.tokens} tokens")
    for step, name, piece in write(sides, request.tokens, request.seed, request.temperature, request.top_p):
        if piece is None:
            read(name)  # it has ended, and its colours need not wait for the others
        else:
            context.emit(TokenEvent(name, step, piece))
        context.progress((step + 1) / request.tokens, f"{step + 1} of {request.tokens} tokens")
    context.progress(1.0, "measuring the tokens")
    for name in sides:
        if name not in readings:
            read(name)
    recipe, other = sides.get("recipe"), sides.get("other")
    return Generation(
        original=tuple(original.pieces),
        recipe=tuple(recipe.pieces) if recipe else (),
        divergence=_divergence(original.ids, recipe.ids) if recipe else -1,
        seed=request.seed,
        seconds=time.monotonic() - begun,
        other=tuple(other.pieces) if other else (),
        other_divergence=_divergence(original.ids, other.ids) if other else -1,
        prompt=tuple(ids),
        readings=readings,
    )


def write(
    sides: Mapping[S, Writer], tokens: int, seed: int, temperature: float, top_p: float
) -> Iterator[tuple[int, S, str | None]]:
    """Have sides write in turns with the same random numbers, until all have ended or have written ``tokens``.

    Gives the step, the side, and the text that it added; None in its place, once, where the side ends its text.
    """
    noise = torch.Generator().manual_seed(seed)
    vocabulary = max(side.variant.loaded.info.vocabulary for side in sides.values())
    for step in range(tokens):
        gumbel = -torch.empty(vocabulary).exponential_(generator=noise).log()
        for name, side in sides.items():
            if not side.finished:
                yield step, name, side.step(gumbel, temperature, top_p)
        if all(side.finished for side in sides.values()):
            return


def encode(loaded: LoadedModel, prompt: str, tokens: int, chat: bool) -> Tensor:
    """Ids of a prompt (1, length), as a chat's turn if asked and the model has a template.

    Raises:
        TextError: It is empty, or with ``tokens`` more it exceeds the model's context.
    """
    tokenizer: Any = loaded.tokenizer
    if not prompt.strip():
        raise TextError("The prompt is empty.", "Write a few words for the model to continue.")
    if chat and loaded.info.chat:
        turn = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        ids = tokenizer(prompt)["input_ids"]
    check_ids(loaded, torch.tensor(ids))
    limit = loaded.info.context_length
    if limit and len(ids) + tokens > limit:
        raise TextError(
            f"The prompt has {len(ids)} tokens; with {tokens} more it exceeds the model's {limit}.",
            "Shorten the prompt or ask for fewer tokens.",
        )
    return torch.tensor([ids], dtype=torch.long)


class Writer:
    """One side: its weights, its KV cache, and what it has written."""

    def __init__(self, variant: Variant, prompt: Tensor) -> None:
        self.ids: list[int] = []
        self.pieces: list[str] = []
        self.finished = False
        self.variant = variant
        self._loaded = variant.loaded
        self._prompt: list[int] = prompt[0].tolist()
        self._next = prompt.to(variant.loaded.device)
        self._cache: Any = None
        self._text = self._decode()

    def step(self, gumbel: Tensor, temperature: float, top_p: float) -> str | None:
        """Write one token and return its text; None once the model has ended its text."""
        if self.finished:
            return None
        with torch.no_grad(), self.variant.active() as model:
            out: Any = model(self._next, past_key_values=self._cache, use_cache=True)
        self._cache = out.past_key_values
        token = choose(out.logits[0, -1].float().cpu(), gumbel, temperature, top_p)
        if token in _ends(self._loaded):
            self.finished = True
            return None
        self._next = torch.tensor([[token]], device=self._loaded.device)
        self.ids.append(token)
        return self._piece()

    def _decode(self) -> str:
        """The prompt and what follows, without bytes of a character that is not complete yet."""
        tokenizer: Any = self._loaded.tokenizer
        return str(tokenizer.decode(self._prompt + self.ids, skip_special_tokens=True)).rstrip("\ufffd")

    def _piece(self) -> str:
        """The text that the last token adds; an unfinished character waits for the next token."""
        text = self._decode()
        piece = text[len(self._text) :]
        self._text = text
        self.pieces.append(piece)
        return piece


def choose(logits: Tensor, gumbel: Tensor, temperature: float, top_p: float) -> int:
    """A token id from logits (vocabulary,) in float32: the likeliest at temperature 0, else an exact sample.

    ``top_p`` keeps the fewest likeliest tokens whose probabilities reach it (Holtzman et al. 2020).
    """
    if temperature <= 0:
        return int(logits.argmax())
    log_probs = torch.log_softmax(logits / temperature, dim=-1)
    if top_p < 1.0:
        ordered, order = log_probs.sort(descending=True)
        before = ordered.exp().cumsum(dim=-1) - ordered.exp()
        log_probs = log_probs.clone()
        log_probs[order[before >= top_p]] = float("-inf")
    return int((log_probs + gumbel[: len(log_probs)]).argmax())


def _ends(loaded: LoadedModel) -> set[int]:
    config: Any = loaded.model.generation_config
    tokenizer: Any = loaded.tokenizer
    listed = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return {token for token in (*listed, tokenizer.eos_token_id) if token is not None}


def _divergence(first: list[int], second: list[int]) -> int:
    """Index of the first token in which the two differ, -1 if they are the same."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return -1 if len(first) == len(second) else min(len(first), len(second))
