"""compressed-tensors checkpoints, as vLLM, SGLang and transformers read them.

vLLM, ``compressed_tensors.py`` and ``schemes/compressed_tensors_wNa16.py``: weights alone in 4 or 8 bits, symmetric,
by channel or group; FP8 by tensor or channel; NVFP4 and MXFP4. ``marlin_utils.py``: groups of 32, 64 or 128, which
have to divide the row. q/k/v and gate/up are one layer there with one scheme, whose per-tensor scales are merged to the
largest. ``compressed_tensors_moe.py``: "All MoE projections need to have same quantization scheme". Asymmetric packed
weights fail to load in transformers 5.23.0, and GPT-2's Conv1D is passed over without a word (both run).
"""

from quant_core.targets.base import Holds, Target, register

register(
    Target(
        name="compressed-tensors",
        title="compressed-tensors",
        help="Checkpoints for vLLM, SGLang and transformers.",
        source="vLLM, layers/quantization/compressed_tensors; compressed-tensors 0.20.0 in transformers 5.23.0",
        holds=(
            Holds(("int4", "int8"), ("channel", "group"), (32, 64, 128), ("sym",)),
            Holds(("fp8_e4m3",), ("channel",)),
            Holds(("fp8_e4m3",), ("tensor",), alone=True),
            Holds(("mxfp4",), multiple=32),
            Holds(("nvfp4",), multiple=16, alone=True),
        ),
        ties=("fused", "experts"),
        stays={
            "conv1d": "it knows nn.Linear only, and passes over GPT-2's Conv1D without a word",
            "embedding": "vLLM looks embeddings up in 16 bits",
            "head": "vLLM computes logits in 16 bits",
        },
    )
)
