"""Pickers fed by the catalog: one number format, several of them, and the text to measure on."""

from __future__ import annotations

import streamlit as st

from quant_core.errors import QuantError
from quant_core.schema import CALIBRATION, EVALUATION, FamilyInfo, FormatSpec, Granularity, TextSource
from ui import state
from ui.jobs import workspace

_GRANULARITIES: dict[Granularity, str] = {
    "tensor": "one scale a tensor",
    "channel": "one scale a row",
    "group": "one scale a group",
    "none": "no scale",
}


def families() -> dict[str, FamilyInfo]:
    """The families of the catalog by name, without the original."""
    return {family.name: family for family in workspace().catalog.families if family.name != "original"}


def format_name(name: str) -> str:
    """A full format name for the screen: ``int4/g64/asym`` as ``INT4 g64 asym``."""
    family, _, rest = name.partition("/")
    known = families().get(family)
    shown = known.title if known else family
    return f"{shown} {rest.replace('/', ' ')}".strip()


def format_picker(param: state.Param[str] = state.FORMAT, key: str = "format") -> str:
    """Family, granularity, group size and symmetry, as the catalog offers them; gives and keeps the full
    name.

    Args:
        param: Where the choice lives, in memory and URL.
        key: Prefix of the widgets' keys, for a page with two pickers.
    """
    known = families()
    spec = _current(param, known)

    def change() -> None:
        taken = {
            part: st.session_state.get(f"{key}:{part}") for part in ("family", "scale", "group", "symmetry")
        }
        param.set(
            _combine(known[taken["family"] or spec.family], taken["scale"], taken["group"], taken["symmetry"])
        )

    family = known[spec.family]
    columns = st.columns([2, 2, 1.4, 1.4])
    for part, value in (("family", spec.family), ("scale", spec.granularity), ("group", spec.group_size)):
        st.session_state[f"{key}:{part}"] = value
    st.session_state[f"{key}:symmetry"] = spec.symmetry
    columns[0].selectbox(
        "Format",
        list(known),
        format_func=lambda name: known[name].title,
        key=f"{key}:family",
        on_change=change,
        help=family.help,
    )
    columns[1].selectbox(
        "Scales",
        family.granularities or ("none",),
        format_func=_GRANULARITIES.__getitem__,
        key=f"{key}:scale",
        on_change=change,
        help="How many weights share one scale: the fewer, the less error and the more bits.",
    )
    if spec.granularity == "group":
        columns[2].selectbox(
            "Group",
            family.group_sizes,
            key=f"{key}:group",
            on_change=change,
            help="Weights of one row, along the inputs, that share a scale.",
        )
    if family.symmetries:
        columns[3].selectbox(
            "Zero point",
            family.symmetries,
            key=f"{key}:symmetry",
            on_change=change,
            format_func={"asym": "asymmetric", "sym": "symmetric"}.__getitem__,
            help="An asymmetric grid stores a zero point with each scale, which fits skewed weights.",
        )
    return spec.name


def _current(param: state.Param[str], known: dict[str, FamilyInfo]) -> FormatSpec:
    """The chosen format; a name that the catalog lacks gives way to the default, with a sentence."""
    try:
        spec = workspace().parse_format(param.get())
        if spec.family not in known:
            raise QuantError(f"{param.get()} is no format to quantize to.")
    except QuantError as error:
        st.warning(f"{error.message} Showing {param.default} instead.", icon=":material/link_off:")
        param.set(param.default)
        spec = workspace().parse_format(param.default)
    return spec


def _combine(family: FamilyInfo, scale: str | None, group: int | None, symmetry: str | None) -> str:
    """The full name that the widgets describe; what the family does not offer becomes its default."""
    default = workspace().parse_format(family.name)
    parts = [family.name]
    if scale not in family.granularities:
        scale = default.granularity
    if scale == "group":
        size = group if group in family.group_sizes else default.group_size or family.group_sizes[0]
        parts.append(f"g{size}")
    elif scale not in (None, "none"):
        parts.append(str(scale))
    if family.symmetries:
        parts.append(symmetry if symmetry in family.symmetries else default.symmetry)
    return "/".join(parts)


def formats_picker(
    param: state.Param[tuple[str, ...]], label: str = "Formats", key: str = "formats"
) -> tuple[str, ...]:
    """Several families at one group size; gives their full names and keeps the families in ``param``."""
    known = families()
    chosen = [name for name in param.get() if name in known] or [
        name for name in param.default if name in known
    ]
    left, right = st.columns([5, 1.4], vertical_alignment="bottom")
    st.session_state[f"{key}:families"] = chosen
    picked = left.pills(
        label,
        list(known),
        selection_mode="multi",
        format_func=lambda name: known[name].title,
        key=f"{key}:families",
        on_change=lambda: param.set(tuple(st.session_state[f"{key}:families"])),
        help="Number formats that each layer is tried in.",
    )
    right.selectbox(
        "Group size",
        **state.GROUP.choice([32, 64, 128], f"{key}:group"),
        help="How many weights share a scale where a format works in groups; fewer is more exact "
        "and takes more bits.",
    )
    names = [workspace().parse_format(name, state.GROUP.get()).name for name in known if name in picked]
    return tuple(names)


_TEXT_CHOICES = {
    "bundled": "Bundled",
    "paste": "Paste",
    "upload": "Upload",
    "dataset": "Dataset",
    "self": "Written by the model",
}
MAX_TEXT = 2_000_000
"""Letters of the user's own text that are taken."""


def text_picker(key: str, purpose: str = "calibration") -> TextSource | None:
    """Which text to measure on; None, with a sentence, as long as the choice is not complete.

    Args:
        key: Prefix of the widgets' keys.
        purpose: ``calibration`` or ``evaluation``; says which bundled text is meant.
    """
    bundled = CALIBRATION if purpose == "calibration" else EVALUATION
    kind = st.segmented_control(
        "Text",
        list(_TEXT_CHOICES),
        format_func=_TEXT_CHOICES.__getitem__,
        default="bundled",
        required=True,
        key=f"{key}:kind",
        persist_state="session",
        help="Scores and measurements hold for text like this one. The bundled calibration and evaluation texts "
        "are disjoint.",
    )
    readers = {"paste": _paste, "upload": _upload, "dataset": _dataset, "self": _self}
    return readers[kind](key) if kind in readers else bundled


def _paste(key: str) -> TextSource | None:
    text = st.text_area(
        "Your text", height=160, key=f"{key}:paste", persist_state="session", max_chars=MAX_TEXT
    )
    return _own(text or "", "pasted text")


def _upload(key: str) -> TextSource | None:
    file = st.file_uploader("A plain text file (UTF-8, up to 5 MB)", type=["txt", "md"], key=f"{key}:upload")
    if file is None:
        st.caption(":material/info: Choose a file, or another kind of text.")
        return None
    try:
        return _own(file.getvalue().decode("utf-8-sig"), file.name)
    except UnicodeDecodeError:
        st.error(
            f"{file.name} is no UTF-8 text. Save it as UTF-8 and upload it again.", icon=":material/error:"
        )
        return None


def _dataset(key: str) -> TextSource | None:
    name = st.text_input(
        "Hugging Face dataset",
        placeholder="wikitext:wikitext-2-raw-v1:test:text",
        key=f"{key}:dataset",
        persist_state="session",
        help="name[:config[:split[:column]]]; needs the `datasets` package and the hub.",
    )
    if not (name or "").strip():
        st.caption(":material/info: Name a dataset, or choose another kind of text.")
        return None
    return TextSource("dataset", name.strip(), name.strip())


def _self(key: str) -> TextSource | None:
    seed = int(st.number_input("Seed", 0, 2**31 - 1, 0, key=f"{key}:seed", persist_state="session") or 0)
    return TextSource("self", label=f"text the model wrote itself (seed {seed})", seed=seed)


def _own(text: str, label: str) -> TextSource | None:
    if not text.strip():
        st.caption(":material/info: Paste some text, a page or more, or choose another kind of text.")
        return None
    return TextSource("inline", text[:MAX_TEXT], label)
