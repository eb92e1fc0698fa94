"""GGUF files, as llama.cpp and its kin read them.

ggml, ``ggml-common.h``: blocks of 32, and super-blocks of 256, which have to divide the row; where 256 do not,
``llama-quant.cpp`` (``tensor_type_fallback``) takes a type in blocks of 32, and 16 bits where 32 do not. A type a
tensor: q, k, v, gate and up are tensors of their own, and one weight of all experts of a block is one tensor
(``ffn_down_exps``); transformers keeps gate and up of an expert as one weight, so that both take its type.
"""

from quant_core.targets.base import Holds, Target, register

register(
    Target(
        name="gguf",
        title="GGUF",
        help="Files for llama.cpp, Ollama and LM Studio.",
        source="llama.cpp, src/llama-quant.cpp and ggml/src/ggml-common.h; gguf 0.19.0",
        holds=(
            Holds(
                ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k"),
                multiple=256,
                instead={"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"},
            ),
            Holds(("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4"), multiple=32),
        ),
        ties=("stacked",),
        writes=(
            "LlamaForCausalLM",
            "MistralForCausalLM",
            "MixtralForCausalLM",
            "Qwen2ForCausalLM",
            "Qwen3ForCausalLM",
            "GPT2LMHeadModel",
        ),
        refuses={"OPTForCausalLM": "llama.cpp does not run OPT"},
    )
)
