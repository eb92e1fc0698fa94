"""NVIDIA ModelOpt's side of ``benchmarks.peers``; runs in an environment of its own: ASKED.json ANSWER.json.

ModelOpt's average counts every linear layer, the head too, and codes without their scales; here it is asked for what
leaves the blocks' layers with the average wanted.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from transformers import AutoModelForCausalLM

asked = json.loads(Path(sys.argv[1]).read_text())
torch.set_num_threads(asked["threads"])
model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32).eval()
linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
decided = sum(module.weight.numel() for name, module in linear.items() if ".layers." in name)
head = sum(module.weight.numel() for name, module in linear.items()) - decided


def average(bits: float) -> float:
    """ModelOpt's average where a decided weight takes ``bits`` with its scale."""
    return ((bits - 16 / asked["group"]) * decided + 16 * head) / (decided + head)


def form(bits: int) -> dict[str, object]:
    """Symmetric integers, one scale a group, weights alone."""
    rounding = {"num_bits": bits, "block_sizes": {-1: asked["group"], "type": "static"}}
    return {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": rounding, "enable": True},
        ],
        "algorithm": "max",
    }


def loss(output: Any, batch: torch.Tensor) -> torch.Tensor:
    """The text's own next token, as ModelOpt's examples have it."""
    return torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())


batches = list(torch.tensor(asked["ids"]).split(4))
forms = {bits: form(bits) for bits in asked["bits"]}
begun = time.perf_counter()
_, state = mtq.auto_quantize(
    model,
    constraints={"effective_bits": average(asked["budgets"][0])},
    quantization_formats=list(forms.values()),
    data_loader=batches,
    forward_step=lambda module, batch: module(batch, use_cache=False),
    loss_func=loss,
    num_calib_steps=1,  # ranges of weights need no text
    num_score_steps=len(batches),
    disabled_layers=["*lm_head*"],
    method="gradient",
)
seconds = time.perf_counter() - begun

recipes = []
for budget in asked["budgets"]:
    found = mtq.get_auto_quantize_config(state, {"effective_bits": average(budget)})
    chosen: dict[str, int] = {}
    for entry in found["quant_cfg"]:
        settings = entry.get("cfg") or {}
        name = entry["quantizer_name"].removesuffix(".weight_quantizer")
        if name in linear and name != entry["quantizer_name"]:
            chosen[f"{name}.weight"] = settings.get("num_bits", 16) if entry.get("enable", True) else 16
    recipes.append(chosen)
Path(sys.argv[2]).write_text(json.dumps({"seconds": seconds, "recipes": recipes}))
