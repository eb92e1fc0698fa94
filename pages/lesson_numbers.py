"""The lesson on what a number costs: a number in floats and integers of 32 to 2 bits, and its bits."""

import streamlit as st

from quant_core import plots
from quant_core.schema import LayerRequest
from ui import lesson, lesson_numbers, theme, words
from ui.jobs import request_result, workspace
from ui.lesson_numbers import TYPES, as_float, as_integer

INTEGERS = {"INT8": "int8/tensor/sym", "INT4": "int4/tensor/sym", "INT2": "int2/tensor/sym"}

here = lesson.begin("numbers")
unit = here.layer("down_proj")
roots = workspace().inspect_request(here.info.ref).roots
if here.guess("FP16", "BF16", "Both are equally near") and (
    view := request_result(
        LayerRequest(
            here.info.ref, here.info.fingerprint, (unit.name,), tuple(INTEGERS.values()), roots=roots
        )
    )
):
    number = st.number_input(
        "A number", -lesson_numbers.LARGEST, lesson_numbers.LARGEST, format="%.7g",
        help="Any number; each type below shows the nearest that it holds.", **lesson_numbers.NUMBER.widget(),
    )  # fmt: skip
    held = [as_float(kind, number) for kind in TYPES.values()]
    held += [as_integer(each, name, number) for name, each in zip(INTEGERS, view.formats, strict=True)]
    theme.chart(
        plots.draw_bits([each.row for each in held], theme.palette(), f"The bits of {number:.7g}"),
        "lesson-numbers", f"The bits of the number nearest to {number:.7g} in eight types.",
    )  # fmt: skip
    st.dataframe(
        lesson_numbers.table(held, number), hide_index=True, alt="What each type holds, and how near it comes"
    )
    st.caption(
        f"The integers are scaled to the largest weight of `{unit.name}`, one scale for all of it; their step is the "
        "same everywhere. Beyond its range a type gives its end."
    )
    half, brain = (as_float(TYPES[name], 0.1) for name in ("FP16", "BF16"))
    missed = abs(half.value - 0.1), abs(brain.value - 0.1)
    nearer = 2 if missed[0] == missed[1] else missed.index(min(missed))
    four = as_integer(view.formats[1], "INT4", 0.1)
    here.happened(
        nearer,
        {
            "nearer": ("FP16", "BF16", "Neither")[nearer],
            "half": words.significant(missed[0], 2),
            "brain": words.significant(missed[1], 2),
            "half_end": f"{half.high:,.0f}",
            "brain_end": words.significant(brain.high),
            "step": words.significant(four.step),
            "largest": words.significant(max(-view.minimum, view.maximum)),
        },
    )
    eight = ("FP8 E4M3", "FP8 E5M2")
    ends = [TYPES[name].largest for name in eight]
    floats = ("BF16", "FP16", "FP8 E4M3")
    steps = [TYPES[name].step for name in floats]
    here.quiz(
        lesson.Quiz(
            "Which of the two 8-bit floats reaches further?", eight, ends.index(max(ends)),
            f"{eight[0]} ends at {ends[0]:,.0f}, {eight[1]} at {ends[1]:,.0f}: one more exponent bit.",
        ),
        lesson.Quiz(
            "Which has the finest steps near 1?", floats, steps.index(min(steps)),
            "Its mantissa is the longest: "
            + ", ".join(f"{name} {words.significant(step)}" for name, step in zip(floats, steps, strict=True)) + ".",
        ),
    )  # fmt: skip
here.end()
