"""compressed-tensors checkpoints, as vLLM, SGLang and transformers read them.

vLLM, ``compressed_tensors.py`` and ``schemes/compressed_tensors_wNa16.py``: weights alone in 4 or 8 bits, symmetric,
by channel or group; FP8 by tensor or channel; NVFP4 and MXFP4. ``marlin_utils.py``: groups of 32, 64 or 128, which
have to divide the row. q/k/v and gate/up are one layer there with one scheme, whose per-tensor scales are merged to the
largest. ``compressed_tensors_moe/compressed_tensors_moe.py``: "All MoE projections need to have same quantization
scheme". transformers would load 2, 3, 5, 6 and 7 bits too, but compressed-tensors packs 3, 5, 6 and 7 otherwise since
0.20, and vLLM has no kernel (``WNA16_SUPPORTED_BITS``). The newest vLLM looks packed embeddings up
(``compressed_tensors_embedding.py``); older ones do not.

What transformers 5.23.0 does (run): asymmetric packed weights fail to load; GPT-2's Conv1D is passed over without a
word; the experts of a model are read by one scheme, the first whose targets say "experts", and then all of them have to
be quantized (``integrations/compressed_tensors.py``, ``get_experts_scheme``); NVFP4 experts are read without the scale
of their tensor, without a word.
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
            Holds(
                ("fp8_e4m3",),
                ("tensor",),
                alone=True,
                stays={"expert": "gate and up of an expert are stored apart, each with a scale of its own"},
            ),
            Holds(("mxfp4",), multiple=32),
            Holds(
                ("nvfp4",),
                multiple=16,
                alone=True,
                stays={"expert": "transformers reads them without the scale of their tensor"},
            ),
        ),
        ties=("fused", "routed"),
        needs={
            "expert": "transformers reads all experts as quantized where anything is, and these stay as they are."
        },
        stays={
            "conv1d": "it knows nn.Linear only, and passes over GPT-2's Conv1D without a word",
            "embedding": "only the newest vLLM looks packed embeddings up",
            "head": "vLLM computes logits in 16 bits",
        },
    )
)
