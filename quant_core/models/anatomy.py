"""How the layers of known architectures feed each other: where a scale or a rotation can move without a trace.

A channel that one place writes and others read can be divided by s where it is written and multiplied by s where it is
read, if nothing between them but linear maps (or ReLU, for s > 0) touches it. ``ARCHITECTURES`` says where that is so:
from a norm to the linear layers it feeds, from values through the attention's average to the output projection (with
grouped queries a channel of the values is read once for every query head that shares it), and from the linear half of
a gated MLP to its last layer. An architecture that is not listed is refused, never guessed at.

Free of side effects: ``anatomy`` only finds the tensors; what it returns are views into the model's own storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from quant_core.errors import ModelError
from quant_core.models.graph import Graph
from quant_core.models.layers import Slot


@dataclass(frozen=True)
class Wiring:
    """Where the parts of an architecture are, as paths inside a block; ``path[v]`` and ``path[up]`` are parts of rows.

    ``[v]`` is the last third of a fused q/k/v projection, ``[up]`` the second half of every expert's gate/up.
    """

    title: str
    blocks: str
    norms: tuple[tuple[str, tuple[str, ...]], ...]
    """Norms of a block, with every layer that reads what they write."""
    values: tuple[str, str]
    """What makes the attention's values, and what reads their averages."""
    inner: tuple[str, str] | None
    """What makes an MLP's inner channels linearly, and what reads them; None where the activation bends them."""
    writers: tuple[str, ...]
    """Every layer of a block that adds to the residual stream."""
    final: str
    """The norm before the head."""
    rms: bool
    """Whether the norms are RMSNorm: weight times x over its root mean square, and nothing else."""


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def _llama(title: str) -> Wiring:
    return Wiring(
        title,
        blocks="model.layers",
        norms=(("input_layernorm", _QKV), ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"))),
        values=("self_attn.v_proj", "self_attn.o_proj"),
        inner=("mlp.up_proj", "mlp.down_proj"),
        writers=("self_attn.o_proj", "mlp.down_proj"),
        final="model.norm",
        rms=True,
    )


ARCHITECTURES: Mapping[str, Wiring] = {
    "LlamaForCausalLM": _llama("Llama"),
    "MistralForCausalLM": _llama("Mistral"),
    "Qwen2ForCausalLM": _llama("Qwen2"),
    "Qwen3ForCausalLM": _llama("Qwen3"),
    "MixtralForCausalLM": Wiring(
        "Mixtral",
        blocks="model.layers",
        norms=(
            ("input_layernorm", _QKV),
            ("post_attention_layernorm", ("mlp.gate", "mlp.experts.gate_up_proj")),
        ),
        values=("self_attn.v_proj", "self_attn.o_proj"),
        inner=("mlp.experts.gate_up_proj[up]", "mlp.experts.down_proj"),
        writers=("self_attn.o_proj", "mlp.experts.down_proj"),
        final="model.norm",
        rms=True,
    ),
    "GPT2LMHeadModel": Wiring(
        "GPT-2",
        blocks="transformer.h",
        norms=(("ln_1", ("attn.c_attn",)), ("ln_2", ("mlp.c_fc",))),
        values=("attn.c_attn[v]", "attn.c_proj"),
        inner=None,
        writers=("attn.c_proj", "mlp.c_proj"),
        final="transformer.ln_f",
        rms=False,
    ),
    "OPTForCausalLM": Wiring(
        "OPT",
        blocks="model.decoder.layers",
        norms=(("self_attn_layer_norm", _QKV), ("final_layer_norm", ("fc1",))),
        values=("self_attn.v_proj", "self_attn.out_proj"),
        inner=("fc1", "fc2"),
        writers=("self_attn.out_proj", "fc2"),
        final="model.decoder.final_layer_norm",
        rms=False,
    ),
}


@dataclass(frozen=True)
class Weight:
    """A weight as (outputs, inputs), or (experts, outputs, inputs), with its bias (outputs,); both are views."""

    values: Tensor
    bias: Tensor | None
    slots: tuple[Slot, ...]
    """The units that live in it; none for a router."""

    def column_maxima(self) -> Tensor:
        """Largest |w| of each input channel, (inputs,), float32."""
        return self.values.abs().flatten(0, -2).amax(dim=0).float()


@dataclass(frozen=True)
class Link:
    """Channels that one place writes and others read, so that a positive scale can move from there to here.

    A channel is read ``repeats`` times, in runs of ``width``: channel g * width + d at the inputs
    (g * repeats + r) * width + d of every reader.
    """

    kind: Literal["norm", "values", "inner"]
    block: int
    writers: tuple[Tensor, ...]
    """Views whose first dimension is the channel: a norm's weight and bias, or rows and their bias."""
    readers: tuple[Weight, ...]
    repeats: int
    width: int

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return len(self.writers[0])

    def largest(self, values: Tensor) -> Tensor:
        """Largest of ``values`` (inputs,) among those that a channel is read at, (channels,)."""
        return values.reshape(-1, self.repeats, self.width).amax(dim=1).flatten()

    def average(self, values: Tensor) -> Tensor:
        """Mean of ``values`` (inputs,) over those that a channel is read at, (channels,)."""
        return values.reshape(-1, self.repeats, self.width).mean(dim=1).flatten()

    def spread(self, scales: Tensor) -> Tensor:
        """``scales`` (channels,) as every reader's inputs meet them, (inputs,)."""
        return scales.reshape(-1, 1, self.width).expand(-1, self.repeats, -1).flatten()

    def move(self, scales: Tensor) -> None:
        """Divide the writers' channels by positive ``scales`` (channels,), and multiply the readers' by them, in place.

        A 16-bit weight is multiplied in float32 and rounded once.

        Raises:
            ModelError: A weight does not fit its dtype any more.
        """
        for tensor in self.writers:
            tensor.div_(scales.reshape(-1, *[1] * (tensor.dim() - 1)))
        columns = self.spread(scales)
        for reader in self.readers:
            reader.values.mul_(columns)
        for tensor in (*self.writers, *(reader.values for reader in self.readers)):
            if not bool(torch.isfinite(tensor).all()):
                dtype = str(tensor.dtype).removeprefix("torch.")
                raise ModelError(
                    f"A rewritten weight of block {self.block} is too large for {dtype}.",
                    "Choose the dtype bfloat16 or float32, or leave the rewrite out.",
                )


@dataclass(frozen=True)
class Residual:
    """Everything that writes to the residual stream or reads from it, of an RMSNorm model."""

    embedding: Tensor
    """(tokens, width)."""
    norms: tuple[tuple[Tensor, tuple[Weight, ...]], ...]
    """Each norm's weight (width,) with the layers that read it; the last one's is the head."""
    writers: tuple[Weight, ...]


def anatomy(model: nn.Module, graph: Graph) -> tuple[Link, ...]:
    """All links of a model, block by block in the order of computation, so that each reads what is behind it.

    Args:
        model: A model of one of ``ARCHITECTURES``; ``ModelError`` if it is of none.
        graph: Its units.

    A norm whose output is also the residual itself (OPT with its norms behind the layers), or that has no weight,
    gives no link; nor does an MLP whose activation is not ReLU where OPT expects that.
    """
    wiring = _wiring(model)
    config: Any = model.config
    links: list[Link] = []
    for index, block in enumerate(_blocks(model, wiring)):
        (first, first_readers), (second, second_readers) = wiring.norms
        found = [
            _norm_link(model, block, index, first, first_readers, graph),
            _values_link(block, index, wiring, config, graph),
            _norm_link(model, block, index, second, second_readers, graph),
            *_inner_links(block, index, wiring, config, graph),
        ]
        links += [link for link in found if link is not None]
    return tuple(links)


def residual(model: nn.Module, graph: Graph) -> Residual:
    """The residual stream of a model whose head is not tied to its embedding; ``ModelError`` unless it is RMSNorm."""
    wiring = _wiring(model)
    if not wiring.rms:
        raise ModelError(
            f"The residual stream of {wiring.title} cannot be rotated: its LayerNorm subtracts the mean.",
            "Choose a model with RMSNorm, such as Llama, or leave the rotation out.",
        )
    owner: Any = model
    norms: list[tuple[Tensor, tuple[Weight, ...]]] = []
    writers: list[Weight] = []
    for block in _blocks(model, wiring):
        for norm, readers in wiring.norms:
            weight = block.get_submodule(norm).get_parameter("weight").data
            norms.append((weight, tuple(_weight(block, path, graph) for path in readers)))
        writers += [_weight(block, path, graph) for path in wiring.writers]
    final = model.get_submodule(wiring.final).get_parameter("weight").data
    head = owner.get_output_embeddings()
    norms.append((final, (_matrix(head, graph),)))
    return Residual(owner.get_input_embeddings().weight.data, tuple(norms), tuple(writers))


def _wiring(model: nn.Module) -> Wiring:
    name = type(model).__name__
    if name not in ARCHITECTURES:
        known = ", ".join(wiring.title for wiring in ARCHITECTURES.values())
        raise ModelError(
            f"How the layers of {name} feed each other is not known here.",
            f"Leave the rewrite out; it works with {known}.",
        )
    return ARCHITECTURES[name]


def _blocks(model: nn.Module, wiring: Wiring) -> list[nn.Module]:
    return list(model.get_submodule(wiring.blocks).children())


def _slots(parameter: Tensor, graph: Graph) -> tuple[Slot, ...]:
    return tuple(slot for slot in graph.slots.values() if slot.parameter is parameter)


def _matrix(module: nn.Module, graph: Graph) -> Weight:
    parameter = module.get_parameter("weight")
    bias = getattr(module, "bias", None)
    values = parameter.data.T if isinstance(module, Conv1D) else parameter.data
    return Weight(values, None if bias is None else bias.data, _slots(parameter, graph))


def _weight(block: nn.Module, path: str, graph: Graph) -> Weight:
    """The weight at ``path``: a module's, or a 3-D parameter that holds all experts'."""
    parent, _, name = path.rpartition(".")
    found = getattr(block.get_submodule(parent), name)
    if isinstance(found, nn.Parameter):
        return Weight(found.data, None, _slots(found, graph))
    return _matrix(found, graph)


def _norm_link(
    model: nn.Module, block: nn.Module, index: int, path: str, readers: tuple[str, ...], graph: Graph
) -> Link | None:
    norm: Any = block.get_submodule(path)
    config: Any = model.config
    if norm.weight is None or not getattr(config, "do_layer_norm_before", True):
        return None
    bias = getattr(norm, "bias", None)
    written = (norm.weight.data,) if bias is None else (norm.weight.data, bias.data)
    return Link("norm", index, written, tuple(_weight(block, p, graph) for p in readers), 1, len(norm.weight))


def _values_link(block: nn.Module, index: int, wiring: Wiring, config: Any, graph: Graph) -> Link:
    source, reader = wiring.values
    weight = _weight(block, source.removesuffix("[v]"), graph)
    rows = slice(len(weight.values) * 2 // 3, None) if source.endswith("[v]") else slice(None)
    written = tuple(tensor[rows] for tensor in (weight.values, weight.bias) if tensor is not None)
    read = _weight(block, reader, graph)
    repeats = read.values.shape[-1] // len(written[0])
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Link("values", index, written, (read,), repeats, int(head))


def _inner_links(block: nn.Module, index: int, wiring: Wiring, config: Any, graph: Graph) -> list[Link]:
    """One link, or one an expert."""
    if wiring.inner is None or getattr(config, "activation_function", "relu") != "relu":
        return []
    source, reader = wiring.inner
    weight, read = _weight(block, source.removesuffix("[up]"), graph), _weight(block, reader, graph)
    width = read.values.shape[-1]
    if weight.values.dim() == 2:
        written = tuple(tensor for tensor in (weight.values, weight.bias) if tensor is not None)
        return [Link("inner", index, written, (read,), 1, width)]
    return [
        Link(
            "inner",
            index,
            (weight.values[expert, -width:],),
            (Weight(read.values[expert], None, tuple(slot for slot in read.slots if slot.expert == expert)),),
            1,
            width,
        )
        for expert in range(len(weight.values))
    ]
