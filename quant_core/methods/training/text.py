"""The sequences a training learns from: any text, or one that the model writes, kept for the next training."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch import Tensor

from quant_core.calibration.text import Tokens, tokenize
from quant_core.jobs.context import Context
from quant_core.methods.trained import read_head, write_tensors
from quant_core.models.loading import LoadedModel
from quant_core.schema import TextSource, digest
from quant_core.store.arrays import array_file

ROWS = 64
"""Sequences that are written at once: more would be a little faster a token, and their KV cache larger."""
HELD_OUT = 2048
"""Tokens, or an eighth of the text if that is less, that are not trained on."""


def read_text(context: Context, loaded: LoadedModel, source: TextSource, tokens: int, length: int) -> Tokens:
    """The sequences of a text, as ``tokenize`` makes them; what the model writes is read if it was written before."""
    if source.kind != "self":
        return tokenize(context, loaded, source, tokens, length)
    asked = {"model": loaded.info.fingerprint, "dtype": loaded.info.compute_dtype, "seed": source.seed}
    key = digest(asked | {"tokens": tokens, "length": length})
    path = array_file(context.folder(), "text", key)
    head = read_head(path)
    if head is not None:
        return Tokens(load_file(path)["ids"], head["hash"], head["label"])
    rows = -(-tokens // length)
    at_once = -(-rows // -(-rows // ROWS))  # as even as can be
    wanted = tokens if rows <= ROWS else at_once * length
    parts = []
    for start in range(0, rows, at_once):
        own = TextSource("self", seed=int(digest([source.seed, start])[:12], 16))
        parts.append(tokenize(context, loaded, own, wanted, length))
    ids = torch.cat([part.ids for part in parts])
    text = Tokens(
        ids, digest([part.text_hash for part in parts]), f"written by the model, seed {source.seed}"
    )
    write_tensors(path, {"ids": ids}, {"hash": text.text_hash, "label": text.label})
    return text


def split_text(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences to train on, and the last ones, which are held out."""
    rows, length = ids.shape
    held = min(max(1, rows // 8), max(1, HELD_OUT // length))
    return ids[: rows - held], ids[rows - held :]
