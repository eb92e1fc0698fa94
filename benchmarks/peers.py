"""Recipes at equal bytes: ours against NVIDIA ModelOpt's auto_quantize and AutoRound's AutoScheme.

All read the same calibration tokens and choose for every layer of the bundled model's blocks. "same choice": ours picks
among the very formats that they have, symmetric integers with one scale for 64 weights, within the bytes that their
recipe takes, so that only scores and solver differ. "free choice": ours picks any format and way to round. Every
recipe is rounded here, by the same code, and measured on the same evaluation tokens, apart from the calibration text;
the error is that of the difference by sequence. ModelOpt lets q, k and v share a format, and gate and up, as the
kernels that it exports to want; ``--fused`` has ours do so too.

The peers are installed into environments of their own, in a folder that stays.

    make benchmark NAME=peers
    make benchmark NAME=peers ARGS="--peers modelopt --bits 3,4,8 --budgets 4.5 --tokens 2048"
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.fisher import Silent
from quant_core.allocation.proof import ranking
from quant_core.calibration.text import tokenize
from quant_core.evaluation.proof import prove
from quant_core.formats import find
from quant_core.models.loading import load
from quant_core.models.sources import BUNDLED
from quant_core.schema import (
    CALIBRATION,
    Budget,
    ModelRef,
    ProveRequest,
    ScoreTable,
    SensitivityRequest,
    Solution,
    Terms,
)
from quant_core.sensitivity.run import run
from quant_core.workspace import Workspace

PEERS = {
    "modelopt": (
        "nvidia-modelopt==0.47.*",
        "torch==2.13.*",
        "transformers==5.23.*",
        "accelerate",
        "requests",
    ),
    "autoscheme": ("auto-round==0.16.*", "torch==2.13.*", "transformers==5.23.*", "accelerate"),
}
GROUP = 64
FREE = (
    "int2,int3,int4,int5,int6,int8,int2@gptq,int3@gptq,int4@gptq,int5@gptq,int6@gptq,q2_k@imatrix,q3_k@imatrix,"
    "q4_k@imatrix,q5_k@imatrix,q6_k@imatrix,iq4_nl@imatrix"
)


def main() -> None:
    """Score by all, solve at every budget, measure everything, print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--bits", default="2,3,4,5,6,8", help="of the symmetric integers to choose among")
    parser.add_argument("--budgets", default="3.0,3.5,4.0,4.5,5.0", help="average bits, scales counted")
    parser.add_argument("--free", default=FREE, help="formats of the free choice, comma-separated")
    parser.add_argument(
        "--tokens", type=int, default=8192, help="of calibration text, and of evaluation text"
    )
    parser.add_argument("--fused", action="store_true", help="let ours share formats as ModelOpt does")
    parser.add_argument("--environments", default=str(Path(tempfile.gettempdir()) / "quantlens-peers"))
    options = parser.parse_args()
    bits = [int(part) for part in options.bits.split(",")]
    budgets = [float(part) for part in options.budgets.split(",")]

    loaded = load(ModelRef("bundled", dtype="float32", device="cpu"))
    context = Silent(loaded)
    tokens = tokenize(context, loaded, CALIBRATION, options.tokens, 256)
    same = tuple(f"int{width}/g{GROUP}/sym" for width in bits)
    warm = SensitivityRequest(loaded.info.ref, loaded.info.fingerprint, same[:1], tokens=2048)
    run(context, warm)
    table = _score(context, same, options.tokens)
    print(f"{torch.get_num_threads()} threads, {tokens.count:,} calibration tokens, {len(bits)} formats")
    print(f"our scores: {table.seconds:.1f} s", flush=True)
    free = _score(context, tuple(find(name, GROUP).name for name in options.free.split(",")), options.tokens)
    print(f"our scores of {len(free.formats)} formats of free choice: {free.seconds:.1f} s", flush=True)

    asked = {
        "model": str(BUNDLED), "ids": tokens.ids.tolist(), "bits": bits, "budgets": budgets, "group": GROUP,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    terms = Terms(target="compressed-tensors") if options.fused else Terms()
    desk = Workspace(Path(tempfile.mkdtemp()))
    rows = []
    for peer in options.peers.split(","):
        answer = _ask(peer, Path(options.environments), asked)
        print(f"{peer}: {answer['seconds']:.1f} s, {answer['seconds'] / table.seconds:.1f}x ours", flush=True)
        for budget, chosen in zip(budgets, answer["recipes"], strict=True):
            assignment = {
                unit: f"int{width}/g{GROUP}/sym" if width < 16 else "original"
                for unit, width in chosen.items()
            }
            theirs = desk.price(loaded.info, table, assignment)
            limit = Budget("bytes", theirs.total_bytes)
            ours = desk.solve(loaded.info, table, limit, terms=terms)
            best = desk.solve(loaded.info, free, limit)
            rows.append(_row(context, options.tokens, peer, budget, (theirs, ours, best)))
            print(f"  {rows[-1]}", flush=True)
    desk.close()
    print("\n| asked | peer | bits | KL, peer | KL, same choice | ratio | KL, free choice | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows))


def _score(context: Silent, formats: tuple[str, ...], tokens: int) -> ScoreTable:
    info = context.model.info
    return run(context, SensitivityRequest(info.ref, info.fingerprint, formats, tokens=tokens))


def _row(context: Silent, tokens: int, peer: str, budget: float, recipes: tuple[Solution, ...]) -> str:
    """Measured KL of the peer's recipe and ours, and the ratios with the error of the difference in its parts."""
    info = context.model.info
    request = ProveRequest(
        info.ref, info.fingerprint, tuple(_changed(recipe.assignment) for recipe in recipes), tokens=tokens
    )
    kl = prove(context, request).kl
    theirs = sum(kl[0]) / len(kl[0])
    cells = [f"{budget:.1f}", peer, f"{recipes[0].average_bits:.3f}", f"{theirs:.4f}"]
    for values in kl[1:]:
        mean = sum(values) / len(values)
        error = max(place.behind_stderr for place in ranking([kl[0], values]))
        cells += [f"{mean:.4f}", f"{mean / theirs:.3f} ± {error / theirs:.3f}"]
    return f"| {' | '.join(cells)} |"


def _changed(assignment: Mapping[str, str]) -> dict[str, str]:
    return {unit: name for unit, name in assignment.items() if name != "original"}


def _ask(peer: str, environments: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a peer answers, from its own environment, which is made if it is not there."""
    python = environments / peer / "bin" / "python"
    if not python.exists():
        begun = time.monotonic()
        subprocess.run([sys.executable, "-m", "venv", environments / peer], check=True)
        subprocess.run([python, "-m", "pip", "--quiet", "install", *PEERS[peer]], check=True)
        print(f"installed {peer} in {time.monotonic() - begun:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "asked.json", Path(folder) / "answer.json"
        question.write_text(json.dumps(asked))
        script = Path(__file__).with_name(f"_{peer}.py")
        # -P: the folder of the script holds files named like libraries that the peers import.
        done = subprocess.run(
            [python, "-P", script, question, answer], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{peer} failed:\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(answer.read_text())
    return found


if __name__ == "__main__":
    main()
