"""A catalog that no registry has: pages must show a new family, method or scheme by what the catalog says alone."""

from __future__ import annotations

from quant_core.schema import Catalog, FamilyInfo, MethodInfo, Option

GROUPS = (32, 64, 128)


def _integer(bits: int) -> FamilyInfo:
    return FamilyInfo(
        f"int{bits}", f"INT{bits}", "Evenly spaced.", "Jacob et al. 2018, arXiv:1712.05877",
        ("group", "channel", "tensor"), GROUPS, ("asym", "sym"), "g{group}/asym", bits, 16, kind="Integer",
    )  # fmt: skip


SUPER = FamilyInfo(
    "q9_k", "Q9_K", "Blocks in blocks.", "", ("none",), (), (), "", 4, 16, kind="Super-blocks", block=256
)
TURBO = FamilyInfo(
    "turbo3", "Turbo 3", "Three bits, faster.", "Nobody 2031, arXiv:3101.01234", ("group", "block"), (16, 256),
    ("asym", "sym", "float"), "g{group}/sym", 3, 16, kind="Brand new", double=True,
)  # fmt: skip
ORIGINAL = FamilyInfo("original", "Original", "As it is.", "", ("none",), (), (), "", 0, 0, kind="Integer")
NF4 = FamilyInfo("nf4", "NF4", "A table.", "", ("group",), GROUPS, (), "g{group}", 4, 32, kind="Tables")
FP8 = FamilyInfo("fp8_e4m3", "FP8 E4M3", "Floats.", "", ("channel",), (), (), "channel", 8, 16, kind="Floats")

WIGGLE = MethodInfo(
    "wiggle", "Wiggle", "Tries both neighbours.", "Nobody 2030, arXiv:3001.01234",
    families=(*(f"int{bits}" for bits in (2, 3, 4, 5, 6, 8)), "turbo3"),
    except_for={"q9_k": "Its blocks lie in blocks.", "nf4": "It has a table.", "fp8_e4m3": "It floats."},
    needs=("inputs",), options=(Option("order", "Order", "Which columns first.", ("falling", "none")),),
)  # fmt: skip
CATALOG = Catalog(
    families=(FP8, SUPER, *(_integer(bits) for bits in (2, 3, 4, 5, 6, 8)), NF4, TURBO, ORIGINAL),
    methods=(WIGGLE, MethodInfo("fold", "Folding", "Folds.", "", families=("q9_k",))),
    transforms=(
        MethodInfo("smooth", "Smoothing", "Moves outliers.", ""),
        MethodInfo(
            "loosen", "Loosening", "Cuts the head loose.", "", families=("LlamaForCausalLM",), unties=True
        ),
        MethodInfo("narrow", "Narrowing", "For few.", "", families=("GPT2LMHeadModel",)),
        MethodInfo(
            "spin", "Spinning", "Turns.", "", except_for={"LlamaForCausalLM": "It has no room to turn."}
        ),
    ),
    activations=(MethodInfo("int8/token", "INT8 a token", "A scale a token.", ""),),
    kv_caches=(MethodInfo("int8", "INT8 KV cache", "A scale a head.", ""),),
)
