"""No runtime in particular: every format, and every weight on its own."""

from quant_core.targets.base import Target, register

register(
    Target(
        name="any",
        title="Any runtime",
        help="Every format and every mix; what reads the recipe has to manage.",
        source="",
        whole_groups=False,
    )
)
