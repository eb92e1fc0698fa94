"""What is done to the model beside its weights' formats: rewrites, rounded activations, a rounded KV cache.

The choice lives in the URL and goes into every request that it matters to; a recipe carries it along, and a recipe
that is opened brings it back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import streamlit as st

from quant_core.errors import QuantError
from quant_core.names import method_options
from quant_core.schema import Calibration, MethodInfo, ModelInfo, Setup
from ui import state
from ui.format_names import method_text, source_text
from ui.jobs import workspace

TRANSFORMS = state.list_param("transforms", "the rewrites")
ACTIVATIONS = state.text_param("activations", "the rounding of activations", pattern=r"[\w/.:=-]{0,80}")
KV_CACHE = state.text_param("kv", "the rounding of the KV cache", pattern=r"[\w/.:=-]{0,80}")
TRAINED = state.TRAINED

_SEEN = "setup:recipe"
_KEPT = "kept as they are"


def current(info: ModelInfo) -> Setup:
    """The setup that is chosen and that this model and the catalog have."""
    _follow_recipe()
    catalog = workspace().catalog
    able = {method.name for method in catalog.transforms if not _refusal(method, info)}
    return Setup(
        transforms=tuple(text for text in TRANSFORMS.get() if text.split(":")[0] in able),
        activations=_known(ACTIVATIONS.get(), catalog.activations),
        kv_cache=_known(KV_CACHE.get(), catalog.kv_caches),
        trained=TRAINED.get(),
    )


def _known(text: str, offered: Sequence[MethodInfo]) -> str:
    return text if text.split(":", maxsplit=1)[0] in {method.name for method in offered} else ""


def _refusal(method: MethodInfo, info: ModelInfo) -> str:
    """Why a rewrite cannot be done to this model; empty if it can."""
    if method.families and info.architecture not in method.families:
        unknown = f"It does not know how the layers of {info.architecture} feed each other."
        return method.except_for.get(info.architecture, unknown)
    return method.except_for.get(info.architecture, "")


def rewritten(info: ModelInfo) -> ModelInfo:
    """The model as the chosen rewrites leave it: what other weights it then has, sizes and recipes must know."""
    return workspace().rewritten(info, current(info).transforms)


def take(setup: Setup, label: str = "the recipe") -> None:
    """Make a setup the chosen one."""
    TRANSFORMS.set(setup.transforms)
    ACTIVATIONS.set(setup.activations)
    KV_CACHE.set(setup.kv_cache)
    TRAINED.set(setup.trained)
    if setup.calibration != Calibration():
        text = setup.calibration.text
        state.note(
            f"The methods of {label} learned from {text.label or text.kind}; here they learn from the bundled text."
        )


def seen(recipe_id: str) -> None:
    """Note that the chosen setup is that of a recipe, which need not be asked for it again."""
    st.session_state[_SEEN] = recipe_id


def _follow_recipe() -> None:
    """Where a link names a recipe and nothing else, its setup is meant too."""
    recipe_id = state.RECIPE.get()
    if not recipe_id or st.session_state.get(_SEEN) == recipe_id:
        return
    seen(recipe_id)
    if any(param.get() for param in (TRANSFORMS, ACTIVATIONS, KV_CACHE, TRAINED)):
        return
    try:
        take(workspace().recipe(recipe_id).setup)
    except QuantError:
        return  # the page that needs the recipe says that it is not there


def summary(setup: Setup) -> str:
    """A setup in a few words: ``AWQ, then Rotation · activations INT8 a token``; empty if nothing is done."""
    catalog = workspace().catalog
    parts = [", then ".join(_title(text, catalog.transforms) for text in setup.transforms)]
    if setup.activations:
        parts.append(f"activations {_title(setup.activations, catalog.activations)}")
    if setup.kv_cache:
        parts.append(_title(setup.kv_cache, catalog.kv_caches))
    if setup.trained:
        parts.append("trained weights")
    return " · ".join(part for part in parts if part)


def _title(text: str, offered: Sequence[MethodInfo]) -> str:
    return method_text(text, {method.name: method for method in offered})


def panel(info: ModelInfo) -> Setup:
    """The choices, folded away under a line that sums them up; nothing where the catalog offers none."""
    setup = current(info)
    catalog = workspace().catalog
    if not (setup.trained or catalog.transforms or catalog.activations or catalog.kv_caches):
        return setup
    shown = summary(setup)
    with st.expander(
        f"Beyond weights: {shown}" if shown else "Beyond weights", icon=":material/layers:", key="setup"
    ):
        if setup.trained:
            _trained(info, setup.trained)
        if catalog.transforms:
            transforms_picker(info)
        with st.container(horizontal=True, gap="small"):
            _one(ACTIVATIONS, catalog.activations, "Inputs of quantized layers", "setup:activations",
                 "How the activations that enter a quantized layer are rounded while the model runs.")  # fmt: skip
            _one(KV_CACHE, catalog.kv_caches, "Keys and values", "setup:kv",
                 "How the KV cache, which attention looks back at, is rounded.")  # fmt: skip
        st.caption(
            "Measuring and writing do all of this. The predicted KL knows the rewrites, and nothing of activations, "
            "the KV cache and training: measure to see what those do."
        )
    return setup


def _trained(info: ModelInfo, key: str) -> None:
    """Which training's weights are in use, and how to do without them."""
    known = {training.key: training for training in workspace().trainings(info.fingerprint)}
    training = known.get(key)
    told = f"**Trained weights are in use**: training {key[:8]}"
    if training is not None:
        told += f", {len(training.assignment)} layers, {training.steps:,} steps"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            f":material/model_training: {told}. They stand in for layers in the format they were trained in."
        )
        st.button(
            "Drop the trained weights", key="setup:drop", icon=":material/close:", on_click=TRAINED.set, args=("",)
        )  # fmt: skip


def transforms_picker(info: ModelInfo, key: str = "setup:transforms") -> tuple[str, ...]:
    """Rewrites that keep the function of the model, in the order they are chosen; gives those chosen."""
    offered = workspace().catalog.transforms
    if not offered:
        return ()
    known = {method.name: method for method in offered}
    able = [name for name, method in known.items() if not _refusal(method, info)]
    chosen = {text.split(":")[0]: text for text in TRANSFORMS.get() if text.split(":")[0] in able}
    st.session_state[key] = list(chosen)
    st.multiselect(
        "Rewrites before rounding", able, format_func=lambda name: known[name].title, key=key,
        on_change=lambda: TRANSFORMS.set(tuple(chosen.get(name, name) for name in st.session_state[key])),
        placeholder="None", wrap=True,
        help="Each leaves what the model computes as it is and makes its weights easier to round. They are done in "
        "this order.",
    )  # fmt: skip
    with st.container(horizontal=True, gap="small"):
        for name, text in chosen.items():
            _options(text, known[name], partial(_swap, text), f"{key}:{name}", f"{known[name].title}: ")
    lines = [_cited(known[name]) for name in chosen]
    lines += [f"Not for {info.architecture}: {method.title}. {reason}" for method in offered
              if (reason := _refusal(method, info))]  # fmt: skip
    if lines:
        st.caption("  \n".join(lines))
    return tuple(chosen.values())


def _swap(old: str, new: str) -> None:
    TRANSFORMS.set(tuple(new if text == old else text for text in TRANSFORMS.get()))


def _one(param: state.Param[str], offered: Sequence[MethodInfo], label: str, key: str, help: str) -> None:
    """At most one scheme of several."""
    if not offered:
        return
    known = {method.name: method for method in offered}
    chosen = param.get().split(":")[0]
    st.session_state[key] = chosen if chosen in known else ""
    with st.container(width=320, gap="xsmall"):
        st.selectbox(
            label, ["", *known], format_func=lambda name: known[name].title if name else _KEPT, key=key, help=help,
            on_change=lambda: param.set(st.session_state[key]),
        )  # fmt: skip
        if chosen in known:
            _options(param.get(), known[chosen], param.set, key)
            st.caption(_cited(known[chosen]))


def _options(
    text: str, method: MethodInfo, change: Callable[[str], None], key: str, prefix: str = ""
) -> None:
    """What a method leaves open; ``change`` takes its new text, in which defaults are left out."""
    try:
        values = method_options(text, method)
    except QuantError:
        values = method_options(method.name, method)
    for option in method.options:
        field = f"{key}:{option.name}"
        st.session_state[field] = values[option.name]

        def changed(name: str = option.name, field: str = field) -> None:
            now = {**values, name: st.session_state[field]}
            parts = [f"{o.name}={now[o.name]}" for o in method.options if now[o.name] != o.choices[0]]
            change(":".join([method.name, *parts]))

        st.selectbox(
            f"{prefix}{option.title}",
            option.choices,
            key=field,
            on_change=changed,
            help=option.help,
            width=320,
        )


def _cited(method: MethodInfo) -> str:
    source = f" ({source_text(method.source)})" if method.source else ""
    return f"**{method.title}**: {method.help}{source}"
