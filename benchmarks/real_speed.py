"""How fast the bundled model's exported files run in their runtimes, beside the original's, in one run.

Uniform recipes of one format each, written, then run in turns with the original in llama.cpp (xllamacpp), bitsandbytes
and torchao, each in a process of its own. Ratios are of medians: the recipe's over the original's.

    make benchmark NAME=real_speed ARGS="--repeats 5"
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from quant_core.runtimes import RUNTIMES
from quant_core.schema import ModelRef, RuntimeSpeed, RuntimeSpeeds, Setup, replace
from quant_core.workspace import Workspace
from tests.workers import end_worker

FORMATS = {
    "llama.cpp": ("q4_0", "q5_0", "q8_0", "mxfp4"),
    "bitsandbytes": ("nf4/g64", "llm_int8"),
    "torchao": ("int8/channel/sym", "fp8_e4m3/channel"),
}
HEAD = ("runtime", "format", "read", "ratio", "written", "ratio", "memory", "ratio", "weights", "ratio")


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count")
    parser.add_argument("--device", default="auto", help="where the model is: auto, cpu or cuda")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        workspace = Workspace(Path(home))
        try:
            _all(workspace, options.repeats, options.device)
        finally:
            end_worker(Path(home))
            workspace.close()


def _all(workspace: Workspace, repeats: int, device: str) -> None:
    info = workspace.run(workspace.inspect_request(ModelRef("bundled", device=device)))
    print(f"| {' | '.join(HEAD)} |")
    print(f"|{' --- |' * len(HEAD)}")
    last: RuntimeSpeeds | None = None
    for name, forms in FORMATS.items():
        found = RUNTIMES[name].found()
        if not found.version:
            print(f"{found.why} {found.remedy}")
            continue
        for form in forms:
            assignment = {unit.name: form for unit in info.units if unit.decided}
            recipe = workspace.measured_recipe(info, assignment, None, Setup())
            request = workspace.runtime_speed_request(info, recipe, name)
            last = workspace.run(replace(request, repeats=repeats))
            assert last.original is not None
            print(f"| {last.version} | {form} | {_row(last.recipe, last.original)} |")
    if last is not None:
        where = f"{last.hardware or last.device}, {last.threads} threads"
        print(f"{where}; {last.prompt} tokens read, {last.tokens} written, {last.repeats} rounds")


def _row(recipe: RuntimeSpeed, original: RuntimeSpeed) -> str:
    pairs = (
        (recipe.prompt[0], original.prompt[0], "tokens/s", 1.0),
        (recipe.decode[0], original.decode[0], "tokens/s", 1.0),
        (recipe.resident, original.resident, "MB", 1e6),
        (recipe.size, original.size, "MB", 1e6),
    )
    return " | ".join(f"{ours / per:,.1f} {unit} | {ours / theirs:.2f}" for ours, theirs, unit, per in pairs)


if __name__ == "__main__":
    main()
