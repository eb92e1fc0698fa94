"""What a GGUF file says of a model beside its tensors: shape, rotary embedding, and how it is to be computed.

Keys are those of gguf-py's ``constants.py``; what llama.cpp would compute otherwise than transformers is refused.
"""

from __future__ import annotations

from typing import Any

import gguf
import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from quant_core.errors import ExportError

_COMPUTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
}
"""What llama.cpp computes in the architectures written here, by the name of transformers' setting."""


def describe(writer: gguf.GGUFWriter, config: Any) -> Tensor | None:
    """Add all keys of a model's architecture to a file.

    Args:
        writer: The file.
        config: transformers' configuration.

    Returns:
        What each rotary frequency is divided by, (head size / 2,), to be stored as ``rope_freqs.weight``; None where
        keys say it all.

    Raises:
        ExportError: llama.cpp computes something else than this configuration.
    """
    for name, known in _COMPUTED.items():
        value = getattr(config, name, known[0])
        if value not in known:
            raise ExportError(
                f"llama.cpp does not compute {config.model_type} with {name} = {value}.",
                "Choose another runtime.",
            )
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return None
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    if config.model_type == "mixtral":
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    return _rotary(writer, config, size)


def _rotary(writer: gguf.GGUFWriter, config: Any, size: int) -> Tensor | None:
    rope = config.rope_parameters
    kind = rope.get("rope_type", "default")
    base = rope["rope_theta"]
    writer.add_rope_freq_base(base)
    if kind == "default":
        return None
    if kind == "llama3":
        frequencies, _ = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
        original = base ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
        factors: Tensor = (original / frequencies.double()).float()
        return factors
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
        if kind == "yarn":
            length = rope.get("original_max_position_embeddings") or config.max_position_embeddings
            writer.add_rope_scaling_orig_ctx_len(length)
        return None
    raise ExportError(
        f"QuantLens does not know how llama.cpp computes rotary embeddings of the type {kind}.",
        "Choose another runtime.",
    )
