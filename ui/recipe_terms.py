"""What a recipe has to meet beside its budget, on the page: the target runtime, further limits, rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import streamlit as st

from quant_core.allocation.choose import FULL
from quant_core.allocation.terms import rule_text
from quant_core.contrast import main_score
from quant_core.schema import Limits, ModelInfo, Rule, ScoreTable, Solution, Terms
from quant_core.targets.hardware import Hardware
from ui import added_formats, state, terms, words
from ui import recipe_draft as drafts
from ui.format_names import families
from ui.jobs import workspace
from ui.widgets import Figure

_TARGET, _HARDWARE = "terms:target", "terms:hardware"
_PATTERN, _LEAST, _FAMILIES = "rules:pattern", "rules:least", "rules:families"


def panel(info: ModelInfo, table: ScoreTable) -> None:
    """The target and the limits, in a row, and a line on what the target rules out."""
    known = workspace().targets
    st.session_state[_TARGET] = terms.TARGET.get()
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small", key="terms"):
        st.selectbox(
            "Target runtime", list(known), format_func=lambda name: known[name].title, key=_TARGET, width=260,
            on_change=lambda: _ask(info, table, lambda: terms.TARGET.set(st.session_state[_TARGET])),
            help="The runtime that has to hold the recipe: it rules out formats, and ties layers that it computes as "
            "one.  \n" + "  \n".join(f"**{one.title}**: {one.help}" for one in known.values()),
        )  # fmt: skip
        chosen = _limits_text(terms.current(info).limits)
        with st.popover(f"Further limits: {chosen}" if chosen else "Further limits", icon=":material/speed:"):
            _limits(info, table)
    target = known[terms.TARGET.get()]
    told = workspace().target_summary(target.name, info, table.units, table.formats)
    if told:
        st.caption(" ".join([f":material/rule: {told}", *target.notes]))
        _offer(info, table, target.name)


def _offer(info: ModelInfo, table: ScoreTable, target: str) -> None:
    """Where the target holds next to nothing that was scored: one press that scores what it does hold."""
    desk = workspace()
    if len(desk.held(target, info, table.units, table.formats)) > 1:
        return
    texts = [
        name if symmetry == "" else f"{name}/{symmetry}"
        for name, family in families().items()
        for symmetry in ("", *family.symmetries)
    ]
    tried = dict.fromkeys(desk.parse_format(text, state.GROUP.get()).name for text in texts)
    missing = [
        name for name in desk.held(target, info, table.units, list(tried)) if name not in table.formats
    ]
    if missing:
        added_formats.add_button(missing, table, "terms:add")


def usage_figures(info: ModelInfo, table: ScoreTable, assignment: Mapping[str, str]) -> list[Figure]:
    """What the recipe takes while the model runs, where the user asked for anything that depends on it."""
    limits = terms.current(info).limits
    use = terms.use(info)
    if not (use.hardware or limits.memory or limits.active):
        return []
    found = workspace().usage(info, table, assignment, Terms(use=use))
    sequences = f" × {use.batch} sequences" if use.batch > 1 else ""
    shown = [
        Figure("Memory", words.size(found.memory), f"All weights {words.size(found.weights)}, KV cache "
               f"{words.size(found.cache)} at {use.context:,} tokens{sequences} and {use.cache_bits:.3g} bits a value, "
               f"activations {words.size(found.activations)}: in a pass of at most 2,048 tokens two copies of the "
               "residual stream and two of the widest layer's values at 2 bytes, and logits at 4.",
               _share(found.memory, limits.memory)),
        Figure("Read a token", words.size(found.active), "Weights that are read to write one token: all of them, of "
               "experts the share that a token is routed to, of an embedding its row.",
               _share(found.active, limits.active)),
    ]  # fmt: skip
    if found.milliseconds is not None:
        where = workspace().machines[use.hardware]
        shown.append(
            Figure("Time a token", f"{words.significant(found.milliseconds)} ms", f"Predicted on {where.title} by the "
                   "roofline model: each weight takes the longer of moving its bytes and of its arithmetic in 16 bits. "
                   "A format without a kernel there is read, written out in 16 bits and read again. Attention's "
                   "arithmetic and the runtime's overhead are left out: a lower bound. "
                   f"{_machine(where)}", _share(found.milliseconds, limits.milliseconds))
        )  # fmt: skip
    return shown


def _machine(where: Hardware) -> str:
    return (
        f"{where.bandwidth:,g} GB/s, {where.teraflops:,g} TFLOP/s in 16 bits, {where.memory:,g} GB "
        f"({where.source})."
    )


def _share(value: float, limit: float) -> str:
    return f"{words.share(value / limit)} of the limit" if limit else ""


def headroom(info: ModelInfo, table: ScoreTable, draft: drafts.Draft, solution: Solution) -> str:
    """Why a solved recipe leaves some of what binds it unused, as a sentence; empty if it does not."""
    budget = draft.budget
    used = solution.average_bits if budget.kind == "bits" else solution.total_bytes
    if draft.edited or (draft.terms.limits == Limits() and used >= FULL * budget.value):
        return ""
    score = main_score(table)
    return workspace().headroom(info, table, draft.budget, draft.pins, score, terms=draft.terms)


def _ask(info: ModelInfo, table: ScoreTable, change: Callable[[], None]) -> None:
    """Change what is asked for, and solve for it; what cannot be met is told by the page."""
    change()
    drafts.move_budget(info, table, drafts.BUDGET.get())


def _limits_text(limits: Limits) -> str:
    """The limits that are set, in a few words."""
    parts = [f"{limits.bits:g} bits"] if limits.bits else []
    parts += [words.size(limits.bytes)] if limits.bytes else []
    parts += [f"memory {words.size(limits.memory)}"] if limits.memory else []
    parts += [f"{words.size(limits.active)} a token"] if limits.active else []
    parts += [f"{limits.milliseconds:g} ms a token"] if limits.milliseconds else []
    return ", ".join(parts)


def _limits(info: ModelInfo, table: ScoreTable) -> None:
    """Limits that hold together with the budget, and how the model is to run."""
    st.caption("All hold at once, beside the budget; 0 sets none.")
    left, right = st.columns(2)
    with left:
        _number(info, table, "Average bits, at most", terms.MOST_BITS, 0.1)
        _number(info, table, "All weights, at most (MB)", terms.MOST_SIZE, 1.0)
        _number(info, table, "Memory, at most (MB)", terms.MEMORY, 1.0)
        _number(info, table, "Read a token, at most (MB)", terms.ACTIVE, 1.0)
        _number(info, table, "Time a token, at most (ms)", terms.MILLISECONDS, 0.01, not terms.HARDWARE.get())
    with right:
        _whole(info, table, "Context (tokens)", state.CONTEXT)
        _whole(info, table, "Sequences at once", terms.BATCH)
        known = workspace().machines
        st.session_state[_HARDWARE] = terms.HARDWARE.get()
        st.selectbox(
            "Hardware", ["", *known], key=_HARDWARE, format_func=lambda name: known[name].title if name else "none",
            on_change=lambda: _ask(info, table, lambda: terms.HARDWARE.set(st.session_state[_HARDWARE])),
            help="The machine that time a token is predicted for.",
        )  # fmt: skip
        if terms.HARDWARE.get():
            st.caption(_machine(known[terms.HARDWARE.get()]))


def _number(
    info: ModelInfo, table: ScoreTable, label: str, param: state.Param[float], step: float, off: bool = False
) -> None:
    key = f"terms:{param.name}"
    st.session_state[key] = float(param.get())
    st.number_input(
        label, min_value=0.0, step=step, format="%.3f", key=key, disabled=off,
        on_change=lambda: _ask(info, table, lambda: param.set(float(st.session_state[key] or 0.0))),
    )  # fmt: skip


def _whole(info: ModelInfo, table: ScoreTable, label: str, param: state.Param[int]) -> None:
    key = f"terms:{param.name}"
    st.session_state[key] = int(param.get())
    st.number_input(
        label, min_value=1, step=1, key=key,
        on_change=lambda: _ask(info, table, lambda: param.set(int(st.session_state[key] or 1))),
    )  # fmt: skip


# --- rules


def rules_editor(info: ModelInfo, table: ScoreTable) -> None:
    """The rules there are, each with a way to drop it, and a row to add one."""
    for place, rule in enumerate(terms.RULES.get()):
        with st.container(horizontal=True, vertical_alignment="center"):
            found = len(drafts.matches(table, rule.pattern))
            st.markdown(f"`{rule.pattern}`: {rule_text(rule).partition(': ')[2]} · {found} layers")
            st.button(
                "Drop", key=f"rules:drop:{place}", icon=":material/close:", type="tertiary",
                on_click=_ask, args=(info, table, lambda place=place: _drop(place)),
            )  # fmt: skip
    left, middle, right, end = st.columns([3, 1.4, 3, 1], vertical_alignment="bottom")
    pattern = left.text_input(
        "Layers whose name matches", value="*.down_proj*", key=_PATTERN, live=True, persist_state="session",
        help="* stands for any text, ? for one letter.",
    )  # fmt: skip
    least = middle.number_input(
        "never below (bits)", min_value=0.0, max_value=16.0, step=0.5, key=_LEAST, persist_state="session",
        help="Stored bits a weight, scales included; 0 for no bound.",
    )  # fmt: skip
    scored = {form.partition("@")[0].partition("/")[0] for form in table.formats}
    offered = [name for name in families() if name in scored] + ["original"]
    only = right.multiselect(
        "only these", offered, key=_FAMILIES, persist_state="session", placeholder="any family",
        format_func=lambda name: families()[name].title if name in families() else "Original",
        help="Families of formats they may take; the original only if it is named.",
    )  # fmt: skip
    matched = drafts.matches(table, pattern or "")
    added = Rule((pattern or "").strip(), float(least or 0.0), tuple(only))
    end.button(
        "Add", type="primary", key="rules:add", width="stretch",
        disabled=not matched or not (added.least_bits or added.families) or any(c in added.pattern for c in ";=>"),
        on_click=_ask, args=(info, table, lambda: terms.RULES.set((*terms.RULES.get(), *_split(added)))),
    )  # fmt: skip
    st.caption(
        f"{len(matched)} of {len(table.units)} layers match. Rules hold whatever the budget is, all of them at once."
    )


def _split(rule: Rule) -> list[Rule]:
    """A rule a statement, as the URL holds them."""
    parts = [Rule(rule.pattern, least_bits=rule.least_bits)] if rule.least_bits else []
    return parts + ([Rule(rule.pattern, families=rule.families)] if rule.families else [])


def _drop(place: int) -> None:
    rules = terms.RULES.get()
    terms.RULES.set((*rules[:place], *rules[place + 1 :]))
