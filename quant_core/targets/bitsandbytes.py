"""bitsandbytes through transformers: one low precision, and 16 bits for what is skipped.

transformers 5.23.0, ``BitsAndBytesConfig``: ``load_in_4bit`` (NF4 or FP4, double quantization or not) or
``load_in_8bit``, never both, and no block size, so that blocks have bitsandbytes' own 64 values. They are cut from the
flattened weight: blocks that straddle rows would not be those that were scored. Linear layers and Conv1D are replaced
(``integrations/bitsandbytes.py``), embeddings, the head and experts in 3-D parameters are not.
"""

from quant_core.targets.base import Holds, Target, register

register(
    Target(
        name="bitsandbytes",
        title="bitsandbytes",
        help="Checkpoints for bitsandbytes in transformers.",
        source="transformers 5.23.0, integrations/bitsandbytes.py; bitsandbytes 0.50.2",
        holds=(Holds(("nf4", "fp4"), ("group",), (64,), double=True), Holds(("llm_int8",))),
        stays={
            "expert": "it replaces linear layers only, and experts are kept in 3-D parameters",
            "embedding": "it replaces linear layers only",
            "head": "transformers leaves the head out by default",
        },
        one_format=True,
    )
)
