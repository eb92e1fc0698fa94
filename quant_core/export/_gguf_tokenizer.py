"""A tokenizer of Hugging Face's as a GGUF file holds it: tokens, their types, and merges or scores.

llama.cpp has two kinds that are written here. ``gpt2`` is byte-level BPE: merges in order, and the name of a regular
expression that splits text beforehand, which is told from the expression in ``tokenizer.json`` (llama.cpp,
``llm_tokenizer_bpe``). ``llama`` is SentencePiece's BPE, which joins the pair whose result has the highest score: the
rank of the merge, its sign turned. That is the same only if every way to split a token in two is a merge, as it is in
what was converted from SentencePiece.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import gguf
from transformers import PreTrainedTokenizerBase

from quant_core.errors import ExportError

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    ("ByteLevel",): "gpt-2",
    ("Digits", "ByteLevel"): "smollm",
    (_WORDS + r"\p{N}" + _REST,): "qwen2",
    (_WORDS + r"\p{N}{1,3}" + _REST,): "llama-bpe",
}
"""llama.cpp's names of how text is split beforehand, by the steps of ``tokenizer.json``."""


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Add a tokenizer to a file.

    Args:
        writer: The file.
        tokenizer: The model's.
        rows: Tokens that the embedding has; unused ones get names.

    Raises:
        ExportError: It is of a kind that llama.cpp has not, or that is not known here.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _unknown("has no tokenizer.json")
    data = json.loads(backend.to_str())
    model = data["model"]
    if model["type"] != "BPE":
        raise _unknown(f"is of the kind {model['type']}")
    steps = [*_steps(data["pre_tokenizer"], "pretokenizers")]
    normalizers = {step["type"] for step in _steps(data["normalizer"], "normalizers")}
    kinds = _types(data)
    words = {index: word for word, index in model["vocab"].items()}
    words |= {token["id"]: token["content"] for token in data["added_tokens"]}
    if words and max(words) >= rows:
        raise ExportError(
            f"The tokenizer has {max(words) + 1:,} tokens, and the model's embedding {rows:,} rows.",
            "Use the tokenizer that the model was trained with.",
        )
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    if any(step["type"] == "ByteLevel" for step in steps):
        if not normalizers <= {"NFC"}:
            raise _unknown(f"changes text beforehand ({', '.join(sorted(normalizers - {'NFC'}))})")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_split(steps))
        writer.add_token_merges([f"{left} {right}" for left, right in merges])
    elif model.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        added = {token["content"] for token in data["added_tokens"]}
        scores = _scores(model["vocab"].keys() - added, merges)
        writer.add_token_scores([scores.get(words.get(index, ""), 0.0) for index in range(rows)])
        kinds |= {
            index: gguf.TokenType.BYTE
            for index, word in words.items()
            if len(word) == 6 and word.startswith("<0x")
        }
        writer.add_add_space_prefix(_prefixes(data))
    else:
        raise _unknown("is neither byte-level BPE nor SentencePiece's")
    writer.add_token_list([words.get(index, f"[unused {index}]") for index in range(rows)])
    unused = {index: gguf.TokenType.UNUSED for index in range(rows) if index not in words}
    kinds |= unused
    writer.add_token_types([kinds.get(index, gguf.TokenType.NORMAL) for index in range(rows)])
    _special(writer, tokenizer)


def _steps(step: dict[str, Any] | None, inside: str) -> Iterator[dict[str, Any]]:
    """A step of ``tokenizer.json``, or those of a sequence."""
    if step is not None:
        yield from step[inside] if step["type"] == "Sequence" else [step]


def _split(steps: Iterable[dict[str, Any]]) -> str:
    """llama.cpp's name of how byte-level BPE splits text beforehand."""
    found: list[str] = []
    for step in steps:
        if step["type"] == "ByteLevel":
            if step.get("add_prefix_space"):
                raise _unknown("puts a space before all text")
            found += ["ByteLevel"] if step.get("use_regex", True) else []
        elif step["type"] == "Split":
            found.append(step["pattern"].get("Regex", ""))
        elif step["type"] == "Digits" and step["individual_digits"]:
            found.append("Digits")
        else:
            found.append("?")
    if tuple(found) not in _SPLITS:
        raise _unknown("splits text by rules of its own")
    return _SPLITS[tuple(found)]


def _types(data: dict[str, Any]) -> dict[int, gguf.TokenType]:
    kinds = {
        token["id"]: gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        for token in data["added_tokens"]
    }
    unknown = data["model"]["vocab"].get(data["model"].get("unk_token") or "")
    return kinds if unknown is None else kinds | {unknown: gguf.TokenType.UNKNOWN}


def _scores(vocabulary: Collection[str], merges: list[list[str]]) -> dict[str, float]:
    """SentencePiece's scores of the tokens that merges make."""
    pairs = {(left, right) for left, right in merges}
    for word in vocabulary:
        cuts = ((word[:cut], word[cut:]) for cut in range(1, len(word)))
        if any(
            left in vocabulary and right in vocabulary and (left, right) not in pairs for left, right in cuts
        ):
            raise _unknown("merges tokens otherwise than SentencePiece")
    scores: dict[str, float] = {}
    for rank, (left, right) in enumerate(merges):
        scores.setdefault(left + right, -float(rank))
    return scores


def _prefixes(data: dict[str, Any]) -> bool:
    """Whether SentencePiece puts a space before all text."""
    steps = [
        *_steps(data["normalizer"], "normalizers"),
        *_steps(data["pre_tokenizer"], "pretokenizers"),
    ]
    known = {"Prepend", "Replace", "Metaspace"}
    if other := {step["type"] for step in steps} - known:
        raise _unknown(f"changes text beforehand ({', '.join(sorted(other))})")
    return any(step["type"] == "Prepend" or step.get("prepend_scheme", "never") != "never" for step in steps)


def _special(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase) -> None:
    for role in ("bos", "eos", "unk", "pad"):
        index = getattr(tokenizer, f"{role}_token_id")
        if index is not None:
            getattr(writer, f"add_{role}_token_id")(index)
    text = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(len(text) > 1 and text[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(len(text) > 1 and text[-1] == tokenizer.eos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _unknown(what: str) -> ExportError:
    return ExportError(
        f"The tokenizer {what}, which QuantLens cannot put into a GGUF file.",
        "Choose another runtime, or convert the original with llama.cpp and quantize it by the recipe's lines.",
    )
