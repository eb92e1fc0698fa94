"""A home folder with a run of every kind, arrays included, made by hand."""

from __future__ import annotations

from pathlib import Path

import torch

from quant_core.formats import Codes, Grid
from quant_core.methods.trained import Header, write_tensors, write_trained
from quant_core.schema import (
    ChoicesRequest,
    EvaluateRequest,
    GenerateRequest,
    ModelInfo,
    Origin,
    PromptsRequest,
    Proof,
    ProveRequest,
    Request,
    Result,
    SensitivityRequest,
    SpeedRequest,
    TailsRequest,
    TrainRequest,
    VariantSpec,
    digest,
    replace,
)
from quant_core.store import Store
from quant_core.store.arrays import array_file
from quant_core.store.keys import request_key
from tests import made_results
from tests.served_pages import MEASURED, WRITTEN

ORIGIN = Origin(
    {"python": "3.11", "quantlens": "0.1.0", "torch": "2.9.0"}, "cpu", "A made CPU", 2, "Linux, x86_64"
)
UNIT = "model.layers.0.mlp.down_proj.weight"
LOW, HIGH = {UNIT: "int2/g64/asym"}, {UNIT: "int8/g64/asym"}
PAIR = (VariantSpec(label="Original"), VariantSpec(LOW, label="Recipe at 2.28 bits"))


def requests(info: ModelInfo) -> dict[str, Request]:
    """A request of every kind of run, by what it is called here."""
    model, mark = info.ref, info.fingerprint
    sweep = SensitivityRequest(model, mark, made_results.FORMATS, roots=("/srv/someone",))
    return {
        "scores": sweep,
        "again": replace(sweep, seed=1),
        "measured": replace(sweep, score="measured"),
        "low": EvaluateRequest(model, mark, LOW),
        "high": EvaluateRequest(model, mark, HIGH),
        "proof": ProveRequest(model, mark, (LOW, HIGH)),
        "text": GenerateRequest(model, mark, "Once <b>upon</b>", LOW),
        "training": TrainRequest(model, mark, LOW),
        "vote": PromptsRequest(model, mark, made_results.PROMPTS, PAIR),
        "choices": ChoicesRequest(model, mark, made_results.ASKED, LOW),
        "tails": TailsRequest(model, mark, LOW),
        "speed": SpeedRequest(model, mark, PAIR),
    }


def fill(home: Path, info: ModelInfo) -> dict[str, str]:
    """Store a run of every kind with its arrays; the keys by what they are called here."""
    asked = requests(info)
    folder = home / "arrays"
    folder.mkdir(parents=True, exist_ok=True)
    states = [_state(folder, seed) for seed in range(2)]
    codes = Codes(torch.ones(2, 8, dtype=torch.uint8), Grid(torch.ones(2, 1), None, {}))
    trained = write_trained(folder, Header(info.fingerprint, (), LOW), {UNIT: (codes, None)})
    training = asked["training"]
    assert isinstance(training, TrainRequest)
    answers: dict[str, Result] = {
        "scores": replace(made_results.table(info), state=states[0]),
        "again": replace(made_results.table(info, seed=1), seed=1, state=states[1]),
        "measured": made_results.table(info, measured=True),
        "low": MEASURED,
        "high": replace(MEASURED, kl_mean=0.001, perplexity=43.2, top1_agreement=0.99),
        "proof": Proof(
            info.fingerprint, ((0.3, 0.5), (0.1, 0.2)), 4080, "e" * 24, "bundled evaluation text", 9.0
        ),
        "text": WRITTEN,
        "training": made_results.training(training, trained),
        "vote": made_results.WROTE,
        "choices": made_results.SCORED,
        "tails": made_results.SPREAD,
        "speed": made_results.TIMED,
    }
    store = Store(home)
    for place, (name, request) in enumerate(asked.items()):
        store.results.put(request, answers[name], origin=ORIGIN, created=1_000_000.0 + place)
    store.close()
    return {name: request_key(request) for name, request in asked.items()}


def _state(folder: Path, seed: int) -> str:
    """A file named as score states are: by the digest of its head and its tensors."""
    from hashlib import sha256

    tensor = torch.full((3,), float(seed))
    head = {"seed": seed}
    key = digest({"head": head, "tensors": {"a": sha256(tensor.numpy().tobytes()).hexdigest()}})
    write_tensors(array_file(folder, "state", key), {"a": tensor}, head)
    return key
