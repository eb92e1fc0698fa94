"""Speed, memory and energy: what was timed here, and what a runtime with real kernels is estimated to do."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from quant_core.schema import ModelInfo, Recipe, Speed, SpeedRequest, Speeds, Use, VariantSpec, replace
from ui import compare_other, compare_runtime, state, terms, words
from ui.compare_variants import roots, specs
from ui.jobs import request_result, submit, workspace
from ui.widgets import notes

TAKE = state.integer_param("take", "the number of the measurement", 1, 1, 999)


def speed_request(info: ModelInfo, variants: Mapping[str, VariantSpec], take: int) -> SpeedRequest:
    """The measurement of all variants that there are, as short as the model's context asks."""
    limit = info.context_length or 1024
    prompt = min(SpeedRequest.prompt, limit // 2)
    tokens = min(SpeedRequest.tokens, limit - prompt)
    return SpeedRequest(
        info.ref, info.fingerprint, tuple(variants.values()), prompt, tokens, take=take, roots=roots(info)
    )


def show(info: ModelInfo, recipe: Recipe | None) -> None:
    """What was measured in a runtime and in the simulation, or the buttons that measure; below them the estimates."""
    compare_runtime.show(info, recipe)
    st.subheader("In the simulation", anchor=False)
    compare_other.picker(info)
    variants: dict[str, VariantSpec] = {str(side): spec for side, spec in specs(info, recipe).items()}
    request = speed_request(info, variants, TAKE.get())
    st.caption(
        ":material/info: The simulation has no speed of its own: weights are rounded and computed with in 16 or 32 "
        "bits, so no variant is faster than the original, and both sets of weights are in memory. What counts is the "
        "runtime, above. This tells how long QuantLens takes, and on a GPU what a token takes in energy."
    )
    found = request_result(
        request, start="Measure speed",
        why=f"Each variant reads a prompt of {request.prompt} tokens and writes {request.tokens}, in turns, "
        f"{request.repeats} times after a round to warm up.",
    )  # fmt: skip
    if found is not None:
        names = [spec.label for spec in variants.values()]
        st.table(speed_frame(found, names).set_index("Variant"), border="horizontal")
        st.caption(how(found))
        st.button(
            "Measure again",
            icon=":material/refresh:",
            key="speed:again",
            on_click=_again,
            args=(info, variants),
        )
        notes(found.notes, "speed")
    _estimates(info, variants)


def _again(info: ModelInfo, variants: Mapping[str, VariantSpec]) -> None:
    TAKE.set(min(TAKE.get() + 1, 999))
    submit(speed_request(info, variants, TAKE.get()))


def speed_frame(found: Speeds, names: list[str]) -> pd.DataFrame:
    """Medians with the least and the most in brackets."""
    rows = [{"Variant": name, **measured(one)} for name, one in zip(names, found.variants, strict=True)]
    return pd.DataFrame(rows)


def measured(one: Speed) -> dict[str, str]:
    """What was timed of one variant, by name."""
    first = tuple(1e3 * seconds for seconds in one.first)
    return {
        "First token": _range(first, "ms"),
        "Reading the prompt": _range(one.prompt, "tokens/s"),
        "Writing": _range(one.decode, "tokens/s"),
        "Peak memory": words.size(one.peak),
        "Energy a token": "–" if one.joules is None else _energy(*one.joules),
    }


def _energy(whole: float, above: float) -> str:
    """Joules a token; what is above idle is told where it stands out from the noise of the idle power."""
    told = f"{words.significant(above, 2)} J above idle" if above > 0.05 * whole else "no more than idle"
    return f"{words.significant(whole)} J ({told})"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else words.significant(value)


def _range(values: tuple[float, ...], unit: str) -> str:
    middle, low, high = (_rate(value) for value in values)
    return f"{middle} {unit} ({low} to {high})"


def how(found: Speeds) -> str:
    """What the figures were measured on."""
    where = found.hardware or "an unnamed processor"
    cpu = found.device == "cpu"
    threads = f", {found.threads} thread{'s' if found.threads != 1 else ''} at low priority" if cpu else ""
    memory = (
        "the most of the whole worker process that was seen, PyTorch included"
        if cpu
        else "the most that PyTorch had allocated on the GPU"
    )
    if found.idle is not None:
        energy = (
            " Energy of the whole GPU by its own counter (NVML) while writing; idle it took "
            f"{words.significant(found.idle)} W. None is given where writing took under a second."
        )
    else:
        energy = " Energy is measured on NVIDIA GPUs only; below is an estimate."
    return (
        f"Medians of {found.repeats} rounds (least to most in brackets): {found.prompt} tokens read, {found.tokens} "
        f"written one by one, in {found.dtype} on {where} ({found.device}{threads}). Peak memory: {memory}.{energy}"
    )


def _estimates(info: ModelInfo, variants: Mapping[str, VariantSpec]) -> None:
    st.subheader("Estimated with real kernels", anchor=False)
    machines = workspace().machines
    st.selectbox(
        "Hardware", **terms.HARDWARE.choice(["", *machines]), width=420,
        format_func=lambda name: machines[name].title if name else "None: bytes and energy alone",
        help="Predicts the time of a token from memory bandwidth and arithmetic (roofline).",
    )  # fmt: skip
    frame = estimate_frame(info, variants, terms.use(info))
    st.table(frame.set_index("Variant"), border="horizontal")
    st.caption(
        f"Estimates, not measured: bytes are what the recipe's weights and a KV cache of {state.CONTEXT.get():,} "
        "tokens take. Writing is the roofline's upper bound, as on the Recipe page. Energy: bytes from memory × 160 to "
        "325 pJ and weights × 1.5 pJ for a 16-bit multiplication and addition (Horowitz, ISSCC 2014, 45 nm, processor "
        "and DRAM alone): to compare variants, newer machines take less."
    )


def estimate_frame(info: ModelInfo, variants: Mapping[str, VariantSpec], use: Use) -> pd.DataFrame:
    """Bytes a token, writing by the roofline and energy a token, a row a variant."""
    rows = []
    for side, spec in variants.items():
        whole = workspace().rewritten(info, spec.setup.transforms)
        cache = workspace().cache_bits(whole, spec.setup)
        running = workspace().running(whole, spec.assignment, replace(use, batch=1, cache_bits=cache))
        low, high = workspace().token_joules(whole, running)
        speed = f"{_rate(1e3 / running.milliseconds)} tokens/s" if running.milliseconds else "–"
        rows.append((spec.label or side, words.size(running.active + running.cache), speed,
                     f"{words.significant(1e3 * low)} to {words.significant(1e3 * high)} mJ"))  # fmt: skip
    return pd.DataFrame(
        rows,
        columns=["Variant", "Read for a token", "Writing at most (estimate)", "Energy a token (estimate)"],
    )
