"""Loading a checked checkpoint with transformers, and everything that can be wrong with it said plainly."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

from quant_core import costs, quantities
from quant_core.errors import ModelError
from quant_core.models.blocks import block_modules
from quant_core.models.graph import Graph, build_graph
from quant_core.models.mapped import COMPUTE, compute_in_blocks
from quant_core.models.memory import free_memory
from quant_core.models.sources import Checkpoint, check, fingerprint, locate, title_of
from quant_core.schema import ModelInfo, ModelRef

log = logging.getLogger(__name__)
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

_HEADROOM = 2.2
"""Memory wanted, as a multiple of the weights: a second copy while a recipe runs beside the original, activations."""

_BLOCKS = 4
"""Blocks' worth of memory that a mapped model is given: the one at work, its gradients' graph, rounding errors."""
_MAPPED = (
    "So its weights stay in its files and are read block by block, again for every pass: scores and texts take their "
    "time, and what needs a copy of the model (rewrites, training, measuring a recipe) may not fit."
)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run: never trained, gradients off for all parameters."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    graph: Graph
    info: ModelInfo
    mapped: bool = False
    """Whether the weights stay in the checkpoint's files; see ``models.mapped``."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.info.device)


def load(ref: ModelRef, roots: Sequence[str] = ()) -> LoadedModel:
    """Find, check and load a model; ``ModelError`` with one clear sentence where it cannot be used."""
    title = title_of(ref)
    checkpoint = check(locate(ref, roots), title)
    _check_architecture(checkpoint)
    tokenizer = _load_tokenizer(checkpoint)
    device = _device(ref.device)
    dtype = _dtype(ref.dtype, device)
    too_large = _too_large(checkpoint, device, dtype)
    mapped = bool(too_large) and _can_map(checkpoint, device)
    if too_large and not mapped:
        raise ModelError(too_large, "Choose a 16-bit dtype or a smaller model, or free some memory.")
    model = _load_weights(checkpoint, getattr(torch, checkpoint.dtype) if mapped else dtype).to(device)
    model.requires_grad_(False).eval()
    if model.can_generate():
        model.generation_config.pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id
    graph = build_graph(model, checkpoint.bits)
    if not any(unit.decided for unit in graph.units):
        raise ModelError(
            f"{title} has no linear layer that can be quantized.", "Choose a transformer language model."
        )
    if mapped:
        compute_in_blocks(model, block_modules(model, graph))
        dtype = COMPUTE
    info = _describe(ref, checkpoint, model, tokenizer, graph, device, dtype)
    if mapped:
        info = replace(info, notes=(f"{too_large} {_MAPPED}", *info.notes))
    return LoadedModel(model, tokenizer, graph, info, mapped)


def _check_architecture(checkpoint: Checkpoint) -> None:
    try:
        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    except StrictDataclassError as error:
        raise ModelError(
            f"config.json of {checkpoint.title} holds a value that makes no sense: {_last_line(error)}",
            "Download the model again.",
        ) from error
    except (ValueError, KeyError, OSError) as error:
        kind = checkpoint.config.get("model_type", "unknown")
        raise ModelError(
            f"{checkpoint.title} is of a type ({kind}) that transformers {transformers.__version__} cannot load "
            "without running the repository's own code.",
            "Choose a model of a type built into transformers.",
        ) from error
    named = checkpoint.config.get("architectures") or []
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or (named and not known & set(named)):
        what = ", ".join(named) or checkpoint.config.get("model_type", "unknown")
        raise ModelError(
            f"{checkpoint.title} is not a causal language model ({what}).",
            "Choose a model that writes text left to right, such as Llama, Qwen, Mistral, GPT-2 or OPT.",
        )


def _load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    names = (
        "tokenizer.json",
        "tokenizer.model",
        "vocab.json",
        "vocab.txt",
        "spiece.model",
        "tokenizer_config.json",
    )
    try:
        if not any((checkpoint.folder / name).is_file() for name in names):
            raise OSError("no tokenizer file")
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            checkpoint.folder, trust_remote_code=False
        )
    except Exception as error:  # tokenizer libraries raise anything from KeyError to their own types
        log.info("tokenizer of %s", checkpoint.title, exc_info=True)
        raise ModelError(
            f"{checkpoint.title} has no tokenizer that can be loaded.",
            "Put tokenizer.json and tokenizer_config.json beside the weights.",
        ) from error
    return tokenizer


def _device(name: str) -> torch.device:
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if available["cuda"] else "mps" if available["mps"] else "cpu")
    if not available.get(name, False):
        there = ", ".join(key for key, value in available.items() if value)
        raise ModelError(f"This machine has no device {name!r}.", f"Choose auto or one of: {there}.")
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in known:
        raise ModelError(f"There is no dtype {name!r} to compute in.", f"Choose auto, {', '.join(known)}.")
    return known[name]


def _too_large(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> str:
    """Why the model does not fit into memory, one sentence; empty if it does."""
    weights = checkpoint.parameters * dtype.itemsize
    wanted = {device: weights * _HEADROOM}
    # A model passes through the CPU's memory on its way to another device, unless it is mapped there.
    stored = getattr(torch, checkpoint.dtype)
    wanted.setdefault(torch.device("cpu"), 0 if dtype == stored else weights)
    for place, needed in wanted.items():
        free = free_memory(place)
        if needed > free:
            name = str(dtype).removeprefix("torch.")
            return (
                f"{checkpoint.title} needs about {quantities.size(needed)} in {name} on the {place.type.upper()}, and "
                f"{quantities.size(free)} are free."
            )
    return ""


def _can_map(checkpoint: Checkpoint, device: torch.device) -> bool:
    """Whether the weights can stay in their files: every one is stored as the model holds it, and a block fits."""
    if device.type != "cpu":
        return False
    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    held = Counter(tuple(parameter.shape) for parameter in model.parameters())
    if held - Counter(checkpoint.shapes):
        return False
    graph = build_graph(model, checkpoint.bits)
    blocks = block_modules(model, graph)
    largest = max((_values(block) for block in blocks), default=0)
    outside = _values(model) - sum(_values(block) for block in blocks)
    return COMPUTE.itemsize * (_BLOCKS * largest + outside) <= free_memory(device)


def _values(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _load_weights(checkpoint: Checkpoint, dtype: torch.dtype) -> PreTrainedModel:
    options: dict[str, Any] = {
        "dtype": dtype,
        "use_safetensors": True,
        "trust_remote_code": False,
        "local_files_only": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # reported below, by name
    }
    try:
        model, report = AutoModelForCausalLM.from_pretrained(checkpoint.folder, **options)
    except (
        RuntimeError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        SafetensorError,
        StrictDataclassError,
    ) as error:
        raise ModelError(
            f"The weights of {checkpoint.title} do not fit its config.json: {_last_line(error)}",
            "Download the model again, or check that weights and config belong together.",
        ) from error
    for key, what in (("missing_keys", "lacks"), ("mismatched_keys", "has the wrong shape for")):
        if report[key]:
            example = min(entry if isinstance(entry, str) else str(entry[0]) for entry in report[key])
            raise ModelError(
                f"{checkpoint.title} {what} {len(report[key])} weights its config.json asks for, such as {example}.",
                "Download the model again; analyzing it would mean guessing those weights.",
            )
    if report["unexpected_keys"]:
        example = min(map(str, report["unexpected_keys"]))
        raise ModelError(
            f"{checkpoint.title} holds {len(report['unexpected_keys'])} weights that its config.json has no place "
            f"for, such as {example}.",
            "Check that weights and config belong together.",
        )
    assert isinstance(model, PreTrainedModel)
    return model


def _other_bits(checkpoint: Checkpoint, graph: Graph, total: int) -> int:
    """Stored bits of what is no unit: what the files hold beside the units, where they hold nothing twice."""
    units = sum(unit.parameters * unit.bits for unit in graph.units)
    if checkpoint.parameters == total and checkpoint.stored_bits > units:
        return checkpoint.stored_bits - units
    return graph.other_parameters * checkpoint.bits


def _describe(
    ref: ModelRef,
    checkpoint: Checkpoint,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    graph: Graph,
    device: torch.device,
    dtype: torch.dtype,
) -> ModelInfo:
    config: Any = model.config
    units = graph.units
    blocks = max((unit.block for unit in units), default=-1) + 1
    heads = getattr(config, "num_attention_heads", 1)
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    other = graph.other_parameters
    total = other + sum(unit.parameters for unit in units)
    notes = []
    if any(unit.tied for unit in units):
        notes.append(costs.TIED)
    routed = sum(unit.kind == "expert" for unit in units)
    if routed:
        notes.append(f"{routed} expert weights are kept in 3-D parameters; each expert is its own unit.")
        notes.append(
            "Scores do not see that rounding can send a token to other experts: predicted KL comes out too low, so "
            "measure a recipe before you trust it."
        )
    if other > 0.02 * total:
        notes.append(
            f"{other / 1e6:,.1f} M parameters ({other / total:.0%}) keep their format: norms, biases, positions, and "
            "layers of a kind that is not known here."
        )
    if config._attn_implementation not in ALL_ATTENTION_FUNCTIONS:
        notes.append(
            "This model's attention cannot be looked into, so the scores of keys and values are rough: compare them "
            "with measured KL."
        )
    return ModelInfo(
        ref=ref,
        title=checkpoint.title,
        fingerprint=fingerprint(checkpoint),
        architecture=type(model).__name__,
        parameters=total,
        other_bits=_other_bits(checkpoint, graph, total),
        units=units,
        blocks=blocks,
        hidden_size=int(config.hidden_size),
        vocabulary=int(config.vocab_size),
        context_length=int(getattr(config, "max_position_embeddings", 0) or 0),
        kv_values=2 * blocks * int(kv_heads) * int(head),
        dtype=checkpoint.dtype,
        compute_dtype=str(dtype).removeprefix("torch."),
        device=device.type,
        chat=bool(tokenizer.chat_template),
        notes=tuple(notes),
        experts_per_token=int(getattr(config, "num_experts_per_tok", 0) or 0) if routed else 0,
        head_size=int(head),
    )
