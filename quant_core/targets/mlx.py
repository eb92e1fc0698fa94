"""MLX checkpoints, as mlx-lm reads them on Apple silicon.

mlx, ``mx.quantize``: affine codes of 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128, each with a scale and a
bias in 16 bits, that is a float zero point; MXFP4 and MXFP8. Groups have to divide the row. mlx-lm, ``utils.py``: a
setting a module; the experts of a block are one module for each of their weights (``switch_layers.py``). A file of
ours loads with an error of 1e-6 (run).
"""

from quant_core.targets.base import Holds, Target, register

register(
    Target(
        name="mlx",
        title="MLX",
        help="Checkpoints for mlx-lm on Apple silicon.",
        source="mlx 0.32, mx.quantize; mlx-lm, utils.py and models/switch_layers.py",
        holds=(
            Holds(("int2", "int3", "int4", "int5", "int6", "int8"), ("group",), (32, 64, 128), ("float",)),
            Holds(("mxfp4", "mxfp8_e4m3"), multiple=32),
        ),
        ties=("stacked",),
        stays={"conv1d": "mlx-lm turns GPT-2's Conv1D around as it loads the original's names"},
        refuses={"OPTForCausalLM": "mlx-lm does not run OPT"},
    )
)
