"""GPTQ checkpoints, as GPTQModel reads them, and vLLM those of 4 and 8 bits.

GPTQModel, ``nn_modules/qlinear``: 2, 3, 4 or 8 bits, with and without zero points, groups of 32, 64 or 128, or one
a channel; mixes are its ``dynamic`` settings, by module. A writer of ours loads there with KL 3e-6 (run). vLLM
fuses q/k/v and gate/up and needs one setting each (``gptq_utils.py``), and one for all experts of a block.
"""

from quant_core.targets.base import Holds, Target, register

register(
    Target(
        name="gptq",
        title="GPTQ",
        help="Checkpoints for GPTQModel, and for vLLM in 4 and 8 bits.",
        source="GPTQModel, nn_modules/qlinear; vLLM, layers/quantization/utils/gptq_utils.py",
        holds=(
            Holds(
                ("int2", "int3", "int4", "int8"),
                ("channel", "group"),
                (32, 64, 128),
                ("sym", "asym"),
                multiple=32,
                rows=32,
            ),
        ),
        ties=("fused", "experts"),
        stays={
            "embedding": "its files hold linear layers only",
            "head": "its files leave the head out unless asked otherwise",
        },
        notes=(
            "Its files store a zero point a group for symmetric formats too, which sizes here do not count.",
        ),
    )
)
