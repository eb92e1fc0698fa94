"""What tools make of settings; run by the python of ``.venv-tools``, which has them beside the main packages.

Reads ``{"model": FOLDER, "files": {TOOL: TEXT}}`` from standard input; writes, by tool and layer, the bits, the group
size (-1 for a row, 0 for the whole weight), and whether it is symmetric, each as far as the tool tells. Layers that
stay are left out.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

Layers = dict[str, list[Any]]


def fresh(folder: str) -> Any:
    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32).eval()


def quanto(text: str, model: Any) -> Layers:
    from optimum.quanto import quantization_map, requantize

    requantize(model, {}, json.loads(text))
    if quantization_map(model) != json.loads(text):
        raise ValueError("the map that comes back is another")
    return {name: [told["weights"]] for name, told in quantization_map(model).items()}


def hqq(text: str, model: Any) -> Layers:
    from hqq.core.quantize import HQQLinear
    from hqq.models.hf.base import AutoHQQHFModel

    AutoHQQHFModel.quantize_model(model, json.loads(text), compute_dtype=torch.float32, device="cpu")
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, HQQLinear)]
    return {name: [module.meta["nbits"], module.meta["group_size"]] for name, module in layers}


def neural_compressor(text: str, model: Any) -> Layers:
    from neural_compressor.torch.quantization import RTNConfig

    config = RTNConfig.from_dict(json.loads(text))
    mapping = config.to_config_mapping(model_info=config.get_model_info(model))
    return {
        name: [told.bits, told.group_size, told.use_sym]
        for (name, _), told in mapping.items()
        if told.dtype == "int"
    }


def modelopt(text: str, model: Any) -> Layers:
    import modelopt.torch.quantization as mtq

    mtq.quantize(model, yaml.safe_load(text), lambda model: model(torch.arange(3, 11)[None]))
    found: Layers = {}
    for name, module in model.named_modules():
        quantizer = getattr(module, "weight_quantizer", None)
        if quantizer is not None and quantizer.is_enabled:
            blocks = quantizer.block_sizes or {}
            width = quantizer.num_bits if isinstance(quantizer.num_bits, int) else list(quantizer.num_bits)
            found[name] = [width, blocks.get(-1, -1 if quantizer.axis == 0 else 0)]
    return found


def autoround(text: str, model: Any) -> Layers:
    from auto_round.compressors.utils import set_layer_config

    config, _, _ = set_layer_config(
        model, json.loads(text), "W4A16", "float16", (torch.nn.Linear,), (), quant_block_list=None,
        ignore_layers="", quant_lm_head=False,
    )  # fmt: skip
    return {
        name: [told["bits"], told["group_size"], told["sym"]]
        for name, told in config.items()
        if told["bits"] < 16
    }


TOOLS = {
    "quanto": quanto,
    "hqq": hqq,
    "neural-compressor": neural_compressor,
    "modelopt": modelopt,
    "autoround": autoround,
}

if __name__ == "__main__":
    asked = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # tools tell stories
        answer = {tool: TOOLS[tool](text, fresh(asked["model"])) for tool, text in asked["files"].items()}
    json.dump(answer, sys.stdout)
