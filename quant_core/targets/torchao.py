"""torchao configurations by layer name (``FqnToConfig``), as transformers saves and reloads them.

torchao 0.18.0, ``quantization/quant_api.py``: ``IntxWeightOnlyConfig`` (1 to 8 bits by channel or group, with or
without zero points), ``Int8WeightOnlyConfig`` and ``Float8WeightOnlyConfig`` (by tensor or channel). ``nn.Linear``
only. A mixed file is saved and reloaded exactly (run). Float zero points are left out: ``Int4WeightOnlyConfig``, which
has them, packs for one kind of GPU, and an Intx weight subtracts them in the model's own 16 bits, where those far from
0 are steps off.
"""

from quant_core.targets.base import Holds, Target, register

register(
    Target(
        name="torchao",
        title="torchao",
        help="Checkpoints for torchao in transformers.",
        source="torchao 0.18.0, quantization/quant_api.py; transformers 5.23.0",
        holds=(
            Holds(
                ("int2", "int3", "int4", "int5", "int6", "int7", "int8"),
                ("channel", "group"),
                (),
                ("sym", "asym"),
            ),
            Holds(("fp8_e4m3", "fp8_e5m2"), ("channel", "tensor")),
        ),
        stays={
            "conv1d": "it knows nn.Linear only",
            "expert": "it knows nn.Linear only, and experts are kept in 3-D parameters",
            "embedding": "transformers leaves embeddings out by default",
            "head": "transformers leaves the head out by default",
        },
        notes=(
            "Its Intx files store each code in 8 bits, so that the file is larger than the size counted here.",
        ),
    )
)
