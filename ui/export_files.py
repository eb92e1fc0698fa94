"""Files for a runtime: which can hold the recipe and why not, writing one, and what reading it back found."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from quant_core.schema import Exported, ModelInfo, Problem, Recipe
from quant_core.targets import EXPORTS, TARGETS
from ui import entry, scores, state, words
from ui.jobs import request_result, workspace
from ui.widgets import Figure, figures, notes

_SAFE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
RUNTIME = state.choice_param("runtime", "the runtime", EXPORTS)
NAME = state.text_param("folder", "the folder's name", pattern=_SAFE)
USE = {
    "compressed-tensors": (
        ("vLLM", "vllm serve {folder}"),
        ("SGLang", "python -m sglang.launch_server --model-path {folder}"),
        ("transformers", 'AutoModelForCausalLM.from_pretrained("{folder}")'),
    ),
    "gguf": (
        ("llama.cpp", "llama-server -m {file}"),
        ("Ollama", "echo 'FROM {file}' > Modelfile && ollama create {name} -f Modelfile"),
    ),
    "gptq": (("vLLM", "vllm serve {folder}"), ("GPTQModel", 'GPTQModel.load("{folder}")')),
    "awq": (("vLLM", "vllm serve {folder}"),),
    "mlx": (("mlx-lm", "mlx_lm.generate --model {folder} --prompt 'Once upon a time'"),),
    "bitsandbytes": (("transformers", 'AutoModelForCausalLM.from_pretrained("{folder}")'),),
    "torchao": (("transformers", 'AutoModelForCausalLM.from_pretrained("{folder}")'),),
}
"""By runtime: programs that read its files, and how they are told to."""
_SHOWN = 12
"""Weights that a reason names."""


def panel(info: ModelInfo, recipe: Recipe, proposed: str) -> None:
    """Each runtime's fit; for the chosen one what is in the way, or the button that writes its files."""
    st.subheader("Files for a runtime", anchor=False)
    found = {name: workspace().problems(info, recipe, name) for name in EXPORTS}
    _fits(found)
    st.segmented_control(
        "Runtime", **RUNTIME.choice(list(EXPORTS)), required=True,
        format_func=lambda name: f":material/{'block' if found[name] else 'check'}: {TARGETS[name].title}",
        help="What is to read the files. A tick: it holds the recipe as it is.",
    )  # fmt: skip
    name = RUNTIME.get()
    if found[name]:
        in_the_way(info, TARGETS[name].title, name, found[name])
    else:
        _write(info, recipe, name, f"{proposed}-{name}")


def _weights(count: int) -> str:
    return "1 weight" if count == 1 else f"{count:,} weights"


def _fits(found: dict[str, tuple[Problem, ...]]) -> None:
    rows = []
    for name, problems in found.items():
        weights = len({unit for problem in problems for unit in problem.units})
        refused = f"No: {_weights(weights)}" if weights else "No"
        rows.append((TARGETS[name].title, TARGETS[name].help, refused if problems else "Yes"))
    frame = pd.DataFrame(rows, columns=["Runtime", "What it is", "Holds this recipe"])
    st.dataframe(
        frame, hide_index=True, width="content", alt="Which runtimes hold this recipe",
        column_config={
            "Runtime": st.column_config.TextColumn(width=160),
            "Holds this recipe": st.column_config.TextColumn(
                help="By what each runtime's own source takes: its formats, group sizes, and the weights that it "
                "fuses. Beside a no, how many weights are in the way."
            ),
        },
    )  # fmt: skip


def in_the_way(info: ModelInfo, title: str, target: str, problems: Sequence[Problem]) -> None:
    """Why a program cannot take the recipe, the weights it is about, and the way to one that ``target`` holds."""
    with st.container(border=True):
        st.markdown(f":material/block: **{title} cannot hold this recipe:**")
        for problem in problems:
            count = f" ({_weights(len(problem.units))})" if problem.units else ""
            st.markdown(f"- {problem.reason}{count}")
        named = [problem for problem in problems if problem.units]
        if named:
            with st.expander("Which weights", icon=":material/list:", key=f"export:which:{title}"):
                for problem in named:
                    more = len(problem.units) - _SHOWN
                    shown = ", ".join(f"`{unit}`" for unit in problem.units[:_SHOWN])
                    st.markdown(f"{problem.reason} {shown}" + (f" and {more:,} more" if more > 0 else ""))
        if target != "any":
            _solve_again(info, target)


def _solve_again(info: ModelInfo, name: str) -> None:
    """The way to the best recipe that the runtime holds, its formats scored on arrival."""
    sweep = scores.sweep(info)
    if sweep is None or not sweep.state:
        more = scores.ADDED.get()
    else:
        lacking = [form for form in workspace().suggested(info, name) if form not in sweep.formats]
        more = tuple(dict.fromkeys([*scores.ADDED.get(), *lacking]))
    title = TARGETS[name].title
    entry.link(
        "recipe",
        f"Solve for {title}: the best recipe that it holds",
        target=name,
        recipe="",
        more=",".join(more),
    )
    if len(more) > len(scores.ADDED.get()):
        st.caption("The formats that it holds are scored on the way, from what the sweep kept of its text.")


def _write(info: ModelInfo, recipe: Recipe, name: str, proposed: str) -> None:
    target = TARGETS[name]
    asked = NAME.get() or proposed
    if st.session_state.get("export:asked") != asked or "export:folder" not in st.session_state:
        st.session_state["export:asked"] = st.session_state["export:folder"] = asked
    chosen = st.text_input(
        "Name of the folder", key="export:folder", on_change=_rename, max_chars=100, width=420,
        help=f"It is made in {workspace().exports}, and never overwrites anything.",
    )  # fmt: skip
    if not re.fullmatch(_SAFE, chosen):
        st.error(
            "Use letters, digits, dots, dashes and underscores, a letter or digit first.",
            icon=":material/error:",
        )
        return
    for note in target.notes:
        st.caption(f":material/info: {note}")
    folder = workspace().exports / chosen
    request = workspace().export_request(info, recipe, name, str(folder))
    if folder.exists() and workspace().result(request) is None:
        st.warning(f"`{folder}` holds another export already: choose another name.", icon=":material/folder:")
        return
    done = request_result(
        request,
        start=f"Write for {target.title}",
        why=f"About {words.size(recipe.total_bytes)}, written weight by weight, read back, and compared with what "
        "was simulated before the folder gets its name.",
    )
    if done is not None:
        _written(done)


def _rename() -> None:
    asked = st.session_state["export:folder"]
    if re.fullmatch(_SAFE, asked):
        NAME.set(asked)


def _written(done: Exported) -> None:
    """What is there, what reading it back found, and how to use it."""
    same = done.exact == done.weights
    figures(
        [
            Figure("On disk", words.size(done.size), "All files of the folder: weights, configuration, tokenizer. "
                   "1 MB = 10⁶ bytes.", f"{len(done.files)} files"),
            Figure("Read back", f"{done.weights:,} weights", "Quantized matrices that were read from the files again, "
                   "by code apart from what packed them.",
                   "every value as simulated" if same else f"{done.exact:,} exactly as simulated"),
            Figure("Largest error", "0" if same else words.significant(done.error, 2),
                   "Of a matrix as it is read, against the one that was simulated: the norm of the difference over the "
                   "norm. Where it is not 0, the runtime keeps scales or offsets in another 16-bit form."),
        ]
    )  # fmt: skip
    st.markdown(f":material/folder: `{done.folder}`")
    main = next((file.name for file in done.files if file.name.endswith(".gguf")), "")
    folder = done.folder
    places = {"folder": folder, "file": f"{folder}/{main}", "name": folder.rpartition("/")[2]}
    for program, line in USE.get(done.runtime, ()):
        st.caption(program)
        st.code(line.format(**places), language=None, wrap_lines=True)
    notes(done.notes, "export")
    with st.expander("Files", icon=":material/description:", key="export:files"):
        frame = pd.DataFrame(
            [(file.name, file.size / 1e6, file.sha256) for file in done.files],
            columns=["File", "Size (MB)", "SHA-256"],
        )
        st.dataframe(
            frame, hide_index=True, width="stretch", alt="The files that were written",
            column_config={"Size (MB)": st.column_config.NumberColumn(format="%.3f")},
        )  # fmt: skip
