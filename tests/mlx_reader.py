"""What mlx-lm computes of exported folders; run by the python of ``.venv-mlx``, which has mlx and no torch.

``python tests/mlx_reader.py TOKENS FOLDER...`` writes ``mlx.npz`` into each folder: the logits of the tokens (a .npy
file), and every quantized weight as ``mx.dequantize`` gives it.
"""

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model

mx.set_default_device(mx.cpu)
tokens = mx.array(np.load(sys.argv[1]))
for folder in map(Path, sys.argv[2:]):
    model, _ = load_model(folder)
    found = {"logits": model(tokens)}
    for name, module in model.named_modules():
        if "scales" in module:
            affine = module.mode == "affine"
            scales = module.scales.astype(mx.float32) if affine else module.scales
            biases = module.biases.astype(mx.float32) if affine else None
            found[f"{name}.weight"] = mx.dequantize(
                module.weight, scales, biases, module.group_size, module.bits, module.mode
            )
    arrays = {name: np.array(values.astype(mx.float32)) for name, values in found.items()}
    np.savez(folder / "mlx.npz", allow_pickle=False, **arrays)
