"""The lesson on who shares a scale: one layer at 4 bits, per tensor, channel and group, with and without zero point."""

from quant_core import plots
from quant_core.schema import LayerRequest
from ui import lesson, theme, words
from ui.format_names import format_name
from ui.jobs import request_result, workspace

SIZES = {"tensor": "whole tensor", "channel": "channel", "g128": "128", "g64": "64", "g32": "32"}
KINDS = {"sym": "symmetric", "asym": "asymmetric"}

here = lesson.begin("groups")
unit = here.layer("down_proj")
names = [workspace().parse_format(f"int4/{size}/{kind}").name for kind in KINDS for size in SIZES]
roots = workspace().inspect_request(here.info.ref).roots
if here.guess("It hardly changes", "About a third less", "It halves or better") and (
    view := request_result(
        LayerRequest(here.info.ref, here.info.fingerprint, (unit.name,), tuple(names), roots=roots)
    )
):
    error = {each.format: lesson.relative_error(each) for each in view.formats}
    bits = {each.format: each.bits_per_weight for each in view.formats}
    lines = [names[: len(SIZES)], names[len(SIZES) :]]
    curves = [
        plots.Curve(
            title,
            tuple(bits[name] for name in line),
            tuple(error[name] for name in line),
            tuple(SIZES.values()) if title == "asymmetric" else (),
        )
        for title, line in zip(KINDS.values(), lines, strict=True)
    ]
    theme.chart(
        plots.draw_curves(curves, theme.palette(), "Error of 4-bit weights",
                          plots.Axis("Everything stored", "bits a weight"),
                          plots.Axis("Squared error", "% of |W|²", log=True)),
        "lesson-groups", f"Squared error of {unit.name} against bits a weight, for five block sizes.",
    )  # fmt: skip
    tensor, group, asym = names[0], names[3], names[len(SIZES) + 3]
    times = error[tensor] / error[group]
    better = error[group] / error[asym]
    here.happened(
        0 if times < 1.2 else 1 if times < 2 else 2,
        {
            "tensor": lesson.percent(error[tensor]),
            "group": lesson.percent(error[group]),
            "times": words.significant(times, 2),
            "price": words.significant(bits[group] - bits[tensor], 2),
            "asymmetric": f"{words.significant(better, 2)} times less again" if better > 1 else
            f"{words.significant(1 / better, 2)} times more",
        },
    )  # fmt: skip
    least = min(names, key=lambda name: error[name])
    options = tuple(format_name(name) for name in (tensor, group, least))
    here.quiz(
        lesson.Quiz(
            "Which of these leaves the least error on this layer?", tuple(dict.fromkeys(options)),
            tuple(dict.fromkeys(options)).index(format_name(least)),
            f"{format_name(least)} leaves {lesson.percent(error[least])} of |W|².",
        ),
        lesson.Quiz(
            "A 16-bit scale for every 64 weights: how many bits does it add to a weight?",
            ("1/64 bit", "1/4 bit", "4 bits"), 1,
            f"16 / 64 = 0.25 bits, so {words.bits(bits[group])} a weight in all.",
        ),
    )  # fmt: skip
here.end()
