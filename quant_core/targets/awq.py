"""AWQ checkpoints in AutoAWQ's GEMM layout, as vLLM and SGLang read them.

AutoAWQ, ``awq/modules/linear/gemm.py``: 4 bits with a zero point, groups that divide the row, eight outputs a word;
``quantization_config`` has one group size for all and ``modules_to_not_convert``. vLLM (``awq.py``) fuses q/k/v and
gate/up, of which none may be left out alone, and takes the experts of a block as one. ``nn.Linear`` only. It is about
the layout: weights need not have been scaled by AWQ.
"""

from quant_core.targets.base import Holds, Target, register

register(
    Target(
        name="awq",
        title="AWQ",
        help="Checkpoints in AutoAWQ's layout, for vLLM and SGLang.",
        source="AutoAWQ 0.2.9, awq/modules/linear/gemm.py; vLLM, layers/quantization/awq.py",
        holds=(Holds(("int4",), ("group",), (32, 64, 128), ("asym",), rows=8),),
        ties=("fused", "experts"),
        stays={
            "conv1d": "it knows nn.Linear only",
            "embedding": "its files hold linear layers only",
            "head": "its files leave the head out",
        },
        one_format=True,
    )
)
