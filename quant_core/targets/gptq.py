"""GPTQ checkpoints, as GPTQModel reads them, and vLLM those of 4 and 8 bits without zero points.

GPTQModel, ``nn_modules/qlinear``: 2, 3, 4 or 8 bits, with and without zero points, groups of 32, 64 or 128, or one
a channel; mixes are its ``dynamic`` settings, by module. A writer of ours loads there with KL 3e-6 (run). vLLM
(``layers/quantization/auto_gptq.py``, ``TYPE_MAP``) takes 4 and 8 bits, symmetric; older ones had a kernel for 2, 3, 4
and 8 (``utils/gptq_utils.py``, ``override_config``). It fuses q/k/v and gate/up and needs one setting each (there,
``is_layer_gptq_quantized``), and one for all experts of a block (``get_moe_quant_method``).
"""

from quant_core.targets.base import Holds, Target, register

register(
    Target(
        name="gptq",
        title="GPTQ",
        help="Checkpoints for GPTQModel, and symmetric ones of 4 and 8 bits for vLLM.",
        source="GPTQModel, nn_modules/qlinear; vLLM, layers/quantization/auto_gptq.py",
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
