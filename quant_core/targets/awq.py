"""AWQ checkpoints in AutoAWQ's GEMM layout, as vLLM and SGLang read them.

AutoAWQ 0.2.9 (its last), ``awq/modules/linear/gemm.py`` (``WQLinear_GEMM``): 4 bits, with a zero point, groups that
divide the row, eight outputs a word; ``awq/models/_config.py`` (``to_transformers_dict``): one group size for all and
``modules_to_not_convert``. vLLM, ``layers/quantization/auto_awq.py`` (``awq.py`` before): 4 bits; q/k/v and gate/up are
one layer, of which none may be left out alone (``utils/quant_utils.py``, ``is_layer_skipped``), and the experts of a
block are one too; ``utils/marlin_utils.py``: groups of 32, 64 or 128. ``nn.Linear`` only. It is about the layout:
weights need not have been scaled by AWQ.
"""

from quant_core.targets.base import Holds, Target, register

register(
    Target(
        name="awq",
        title="AWQ",
        help="Checkpoints in AutoAWQ's layout, for vLLM and SGLang.",
        source="AutoAWQ 0.2.9, awq/modules/linear/gemm.py; vLLM, layers/quantization/auto_awq.py",
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
