"""Tiny random models of several architectures, saved in Hugging Face's layout, for tests of the whole path."""

from __future__ import annotations

import weakref
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from quant_core.models.loading import LoadedModel, load
from quant_core.schema import Event, ModelRef

VOCABULARY = 384
_SHARED: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_ROPE: dict[str, Any] = {
    **_SHARED,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_YARN: dict[str, Any] = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0}
_LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**_ROPE, tie_word_embeddings=True),
    "llama-untied": lambda: LlamaConfig(**_ROPE, tie_word_embeddings=False),
    "qwen2": lambda: Qwen2Config(**_ROPE, tie_word_embeddings=False),
    "mixtral": lambda: MixtralConfig(**_ROPE, num_local_experts=4, num_experts_per_tok=2),
    "gpt2": lambda: GPT2Config(**_SHARED, n_embd=64, n_layer=2, n_head=4, n_positions=256),
    "opt": lambda: OPTConfig(
        **_SHARED,
        hidden_size=64,
        ffn_dim=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        word_embed_proj_dim=64,
    ),
}
MORE = {
    "qwen3": lambda: Qwen3Config(**_ROPE, head_dim=32, tie_word_embeddings=True),
    "mistral": lambda: MistralConfig(
        **_ROPE, sliding_window=None, rope_parameters={**_YARN, "original_max_position_embeddings": 8}
    ),
    "llama-wide": lambda: LlamaConfig(
        **{**_ROPE, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1},
        rope_parameters={**_LLAMA3, "original_max_position_embeddings": 16},
        attention_bias=True,
        mlp_bias=True,
    ),
}
"""Models for single tests: rows of 256, rotary embeddings that are stretched."""


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with a vocabulary of 384."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["the cat sat on the mat and the dog sat on the log "] * 3 + [PROSE], trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=end, eos_token=end, pad_token=end)


PROSE = """A small ship left the harbor before dawn, and nobody on the quay knew where it meant to go. The captain had
painted over its name. Her crew was a cook, a clock mender, two sisters who could not agree on anything, and a goose.
By noon the wind turned; by evening the goose had taken the wheel, and things went rather better after that."""


def save(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write a random model of one of the architectures to ``folder``, weights large enough to matter."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config((CONFIGS | MORE)[kind]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


class FakeContext:
    """A job's context for tests that run a job function in place: collects what it is told."""

    def __init__(self, loaded: LoadedModel | None = None, folder: Path | None = None) -> None:
        self.model = loaded
        self.arrays = folder
        self.fractions: list[float] = []
        self.events: list[Event] = []

    def progress(self, fraction: float, message: str = "") -> None:
        self.fractions.append(fraction)

    def check_cancelled(self) -> None:
        pass

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def folder(self) -> Path:
        if self.arrays is None:
            self.arrays = Path(mkdtemp())
            weakref.finalize(self, rmtree, self.arrays, ignore_errors=True)
        return self.arrays

    def loaded(self, ref: ModelRef, roots: tuple[str, ...], fingerprint: str = "") -> LoadedModel:
        if self.model is None:
            self.model = load(ref, roots)
        return self.model
