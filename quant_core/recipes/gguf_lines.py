"""A recipe as options of llama.cpp's ``llama-quantize``, for those who convert and quantize with its own tools.

``--tensor-type PATTERN=TYPE`` gives a type to all tensors whose lower-cased name a regular expression is found in, and
the first that matches wins; the token embedding and the output matrix have options of their own, which win over it
(llama.cpp, ``tools/quantize`` and ``src/llama-quant.cpp``). Codes are llama.cpp's then, not those that were simulated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from quant_core.errors import FormatError
from quant_core.names import read_name
from quant_core.schema import ORIGINAL, ModelInfo, Unit
from quant_core.targets import TARGETS

_TENSORS = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
"""llama.cpp's names of a block's weights, by role."""
_EXPERTS = {"gate_up_proj": ("ffn_gate_exps", "ffn_up_exps"), "down_proj": ("ffn_down_exps",)}
_OPTIONS = {"token_embd.weight": "--token-embedding-type", "output.weight": "--output-tensor-type"}
_SIXTEEN = {"float16": "f16", "bfloat16": "bf16"}


def tensor_types(info: ModelInfo, assignment: Mapping[str, str]) -> tuple[str, ...]:
    """The options that give every weight of a model its type, one a line, in the model's order.

    They go before the names of the files: ``llama-quantize OPTIONS in.gguf out.gguf Q8_0``.

    Args:
        info: The model.
        assignment: Full format names by unit; what is not named stays as it is.

    Raises:
        FormatError: A format is no type of llama.cpp's, experts of a tensor differ, or a weight's name there is not
            known.
    """
    types: dict[str, str] = {}
    for unit in info.units:
        kind = _type(info, unit, assignment.get(unit.name, ORIGINAL))
        for tensor in tensor_names(unit):
            if types.setdefault(tensor, kind) != kind:
                raise FormatError(
                    f"llama.cpp keeps all experts of {unit.name.partition('[')[0]} in one type.",
                    "Give all experts of a block the same format.",
                )
    types.setdefault(
        "output.weight", types.get("token_embd.weight", "")
    )  # tied, and asked for under this name
    return tuple(_line(tensor, kind) for tensor, kind in types.items() if kind)


def tensor_names(unit: Unit) -> tuple[str, ...]:
    """The tensors that llama.cpp keeps a unit in; ``FormatError`` if they are not known."""
    if unit.kind in ("head", "embedding"):
        return ("output.weight",) if unit.kind == "head" else ("token_embd.weight",)
    role = unit.role.partition("[")[0]
    names = _EXPERTS.get(role, ()) if unit.kind == "expert" else (_TENSORS.get(role, ""),)
    if unit.block < 0 or not names or not all(names):
        raise FormatError(f"What llama.cpp calls {unit.name} is not known here.", "Write its line by hand.")
    return tuple(f"blk.{unit.block}.{name}.weight" for name in names)


def _type(info: ModelInfo, unit: Unit, form: str) -> str:
    family = read_name(form).family
    if family == ORIGINAL:
        return _SIXTEEN.get(info.dtype, "f32")
    known = [each for holds in TARGETS["gguf"].holds or () for each in holds.families]
    if family not in known:
        raise FormatError(f"llama.cpp has no type {family} for {unit.name}.", "Solve for GGUF.")
    return family


def _line(tensor: str, kind: str) -> str:
    option = _OPTIONS.get(tensor)
    return f"{option} {kind}" if option else f'--tensor-type "^{re.escape(tensor)}$={kind}"'
