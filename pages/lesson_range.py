"""The lesson on scale and zero point: one 4-bit grid drawn wider and closer, rounding error against clipping error."""

import streamlit as st

from quant_core.schema import ClipRequest
from ui import lesson, lesson_range, theme, words
from ui.jobs import request_result, workspace

here = lesson.begin("range")
unit = here.layer("down_proj")
roots = workspace().inspect_request(here.info.ref).roots
if here.guess("All of it", "Between three quarters and all", "Less than three quarters") and (
    found := request_result(ClipRequest(here.info.ref, here.info.fingerprint, unit.name, roots=roots))
):
    st.select_slider(
        "Range covered (%)", **lesson_range.COVERED.choice([round(100 * share) for share in found.shares]),
        help="The part of the range from the smallest weight to the largest that the 16 values are spread over.",
    )  # fmt: skip
    place, best = lesson_range.chosen(found), found.best
    covers = f"{100 * found.shares[best]:.0f} %"
    theme.chart(
        lesson_range.grid(found, place), "lesson-range-grid",
        f"Histogram of {unit.name} with the 16 values of the grid that you chose.",
    )  # fmt: skip
    st.markdown(lesson_range.told(found, place))
    theme.chart(
        lesson_range.errors(found, place), "lesson-range-errors",
        f"Rounding and clipping error of {unit.name} over the share of the range that the grid covers.",
    )  # fmt: skip
    st.button(
        f"Cover {covers}, where the error is least", key="range:best", icon=":material/my_location:",
        on_click=lesson_range.COVERED.set, args=(round(100 * found.shares[best]),), disabled=place == best,
    )  # fmt: skip
    least, full = lesson_range.total(found, best), lesson_range.total(found, -1)
    both = found.rounding[best] + found.clipping[best]
    here.happened(
        0 if found.shares[best] == 1 else 1 if found.shares[best] >= 0.75 else 2,
        {
            "share": covers,
            "least": lesson.percent(least),
            "full": lesson.percent(full),
            "outside": lesson.percent(100 * found.outside[best]),
            "part": lesson.percent(100 * found.clipping[best] / both if both else 0.0),
            "chosen": f"{100 * found.shares[place]:.0f} %",
            "error": lesson.percent(lesson_range.total(found, place)),
        },
    )
    narrow = 0
    more = "clipping" if found.clipping[narrow] > found.rounding[narrow] else "rounding"
    half = len(found.shares) // 2
    times = found.scales[-1] / found.scales[half]
    here.quiz(
        lesson.Quiz(
            f"The grid covers {100 * found.shares[narrow]:.0f} % of the range. Which error is larger on this layer?",
            ("rounding", "clipping"), ("rounding", "clipping").index(more),
            f"Clipping makes {lesson.percent(lesson_range.energy(found, found.clipping[narrow]))} of |W|², rounding "
            f"{lesson.percent(lesson_range.energy(found, found.rounding[narrow]))}.",
        ),
        lesson.Quiz(
            f"From all of the range to {100 * found.shares[half]:.0f} % of it: what happens to the step?",
            ("It stays", f"It shrinks {words.significant(times, 2)} times",
             f"It shrinks {words.significant(times**2, 2)} times"), 1,
            f"The step is the range divided by 15: {words.significant(found.scales[-1], 3)} becomes "
            f"{words.significant(found.scales[half], 3)}. The squared rounding error shrinks with its square.",
        ),
    )  # fmt: skip
here.end()
