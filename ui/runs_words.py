"""What a run was asked and what it was made with, in words: a name and a value a line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

from quant_core import served
from quant_core.schema import (
    Calibration,
    Check,
    CheckRequest,
    ChoicesRequest,
    Divergence,
    Endpoint,
    EvaluateRequest,
    Finding,
    GenerateRequest,
    ImportRequest,
    ModelRef,
    Origin,
    PromptsRequest,
    ProveRequest,
    Request,
    Result,
    Run,
    RunLine,
    RuntimeSpeedRequest,
    SensitivityRequest,
    ServedRequest,
    ServedText,
    Setup,
    SpeedRequest,
    TailsRequest,
    TextSource,
    TrainRequest,
    VariantSpec,
    digest,
)
from ui import setup, words
from ui.format_names import format_name

UNRECORDED = "not recorded"
_MARKDOWN = re.compile(r"([!-/:-@\[-`{-~])")
_LIBRARIES = {
    "quantlens": "QuantLens",
    "python": "Python",
    "torch": "PyTorch",
    "transformers": "Transformers",
    "bitsandbytes": "bitsandbytes",
    "scipy": "SciPy",
}
_NOTHING = "nothing"
_FORMATS = 4
"""Formats of a list that are named."""


def plain(text: str) -> str:
    """Text as it is, for a place that reads Markdown: a run may come from somebody else."""
    return _MARKDOWN.sub(r"\\\1", text).replace("\n", " ")


def when(seconds: float) -> str:
    """A time on this machine's clock."""
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


def found(finding: Finding) -> str:
    """``measured KL 0.0344 nats/token``."""
    if finding.unit in ("tokens", "prompts", "questions"):
        return f"{finding.label} {_count(int(finding.value), finding.unit[:-1])}"
    return f"{finding.label} {words.significant(finding.value)} {finding.unit}"


def title(line: RunLine) -> str:
    """A run in a list to choose from."""
    note = f" · {line.note[:30]}" if line.note else ""
    return f"{line.title} · {found(line.finding)} · {line.model} · {when(line.created)}{note}"


def asked(request: Request | None) -> dict[str, str]:
    """What was asked, setting by setting; empty where it was not recorded."""
    match request:
        case SensitivityRequest():
            extra = {
                "Formats": _formats(request.formats),
                "Score": "Fisher score" if request.score == "fisher" else f"{request.score}, layer by layer",
                "Text": _text(request.text, request.tokens, request.sequence),
                "Stops at": f"{words.share(request.precision)} error" if request.precision else "one reading",
                "Embedding and head": "included" if request.embeddings else "left out",
                "Seed": str(request.seed),
            }
        case EvaluateRequest() | TailsRequest():
            extra = {
                "Recipe": assignment(request.assignment),
                "Text": _text(request.text, request.tokens, request.sequence),
            }
        case ProveRequest():
            each = [assignment(one) for one in request.assignments]
            extra = {
                "Recipes": f"{len(each)}: "
                + "; ".join(f"{place}. {one}" for place, one in enumerate(each, 1)),
                "Text": _text(request.text, request.tokens, request.sequence),
            }
        case GenerateRequest():
            other = request.other_checkpoint
            extra = {
                "Prompt": request.prompt,
                **({"Checkpoint": other.path} if other is not None else {}),
                "Recipe": "the original alone"
                if request.assignment is None
                else assignment(request.assignment),
                **_other(request),
                "Length": f"{request.tokens:,} tokens at most",
                "Temperature": f"{request.temperature:g}",
                "Top-p": f"{request.top_p:g}",
                "Chat template": "yes" if request.chat else "no",
                "Seed": str(request.seed),
            }
        case TrainRequest():
            extra = {
                "Recipe": assignment(request.assignment),
                "Text": _text(request.text, request.tokens, request.sequence),
                "Ends after": _end(request),
                "Batch": f"{request.batch} sequences a step",
                "Learning rate": f"{request.learning_rate:g} of a step size",
                "Rate of step sizes": f"{request.step_rate:g} of themselves",
                "What is learned": "all values"
                if request.mode == "full"
                else f"an update of rank {request.rank}",
                "Seed": str(request.seed),
            }
        case ChoicesRequest():
            extra = {
                "Recipe": assignment(request.assignment),
                "Questions": f"{len(request.questions):,}, hash {words.fingerprint(digest(request.questions))}",
            }
        case PromptsRequest():
            return {
                "Prompts": f"{len(request.prompts):,}, hash {words.fingerprint(digest(request.prompts))}",
                **_variants(request.variants),
                "Length": f"{request.tokens:,} tokens at most",
                "Temperature": f"{request.temperature:g}",
                "Top-p": f"{request.top_p:g}",
                "Chat template": "yes" if request.chat else "no",
                "Seed": str(request.seed),
                **_where(request.model),
            }
        case SpeedRequest():
            return {
                **_variants(request.variants),
                "Prompt": f"{request.prompt:,} tokens",
                "Length": f"{request.tokens:,} tokens",
                "Rounds": f"{request.repeats} and one to warm up",
                "Number of the measurement": str(request.take),
                **_where(request.model),
            }
        case RuntimeSpeedRequest():
            extra = {
                "Runtime": request.runtime,
                "Recipe": assignment(request.assignment),
                "Prompt": f"{request.prompt:,} tokens, read at once",
                "Length": f"{request.tokens:,} tokens, written one by one",
                "Rounds": f"{request.repeats} after a warm-up, measurement {request.take}",
            }
        case ImportRequest():
            beside = _where(request.model) if request.model is not None else {"Original": "none"}
            return {"Checkpoint": request.checkpoint, **beside}
        case CheckRequest():
            extra = {
                "Server": server(request.endpoint),
                "Approved": assignment(request.assignment),
                "Limit": words.nats(request.limit),
                "Named": f"the {request.k} likeliest tokens at a place",
                "Text": _text(request.text, request.tokens, request.sequence),
            }
        case ServedRequest():
            extra = {
                "Server": server(request.endpoint),
                "Prompt": request.prompt,
                "Approved": "the original alone"
                if request.assignment is None
                else assignment(request.assignment),
                "Length": f"{request.tokens:,} tokens at most",
                "Temperature": f"{request.temperature:g}",
                "Seed": str(request.seed),
            }
        case _:
            return {}
    return {**extra, **_setup(request.setup), **_where(request.model)}


def server(endpoint: Endpoint) -> str:
    """Which model of which server, and where its key came from."""
    key = f", key from {endpoint.key}" if endpoint.key else ""
    return f"{endpoint.address}, model {endpoint.model or 'its only one'}{key}"


def from_server(run: Run) -> dict[str, str]:
    """What a check found of a server, or how its text came, figure by figure; empty for other runs."""
    match run.request, run.result:
        case CheckRequest(), Check() as found:
            return {
                "Still what was approved?": served.answer(found, run.request.limit),
                "KL to the approved": _interval(found.approved, found.k),
                "KL to the original": _interval(found.original, found.k),
                "Same likeliest token": f"{words.share(found.top1_agreement)} as the approved",
                "Named": f"{words.share(found.coverage)} of the server's probability",
                "Model there": found.served,
                "Requests": f"{found.requests:,}",
            }
        case _, ServedText() as text:
            return {
                "Served text": "".join(text.served),
                "First text after": f"{1e3 * text.first:.0f} ms",
                "Writing": f"{words.significant(text.rate)} tokens/s" if text.rate else "too short to tell",
                "Written": f"{text.written:,} tokens",
                "Model there": text.name,
            }
    return {}


def _interval(found: Divergence, k: int) -> str:
    ends = f"{words.significant(found.low)} to {words.significant(found.high)}"
    return f"{words.nats(found.mean)}, top-{k} (95 % interval {ends})"


def made_with(origin: Origin | None) -> dict[str, str]:
    """Versions and hardware, line by line."""
    if origin is None:
        return {"Versions": UNRECORDED, "Hardware": UNRECORDED}
    versions = [f"{_LIBRARIES.get(name, name)} {version}" for name, version in origin.libraries.items()]
    return {
        "Versions": ", ".join(versions) or UNRECORDED,
        "Hardware": origin.hardware or UNRECORDED,
        "Device": origin.device or "none was needed",
        "Threads": f"{origin.threads} on the CPU" if origin.threads else "none of PyTorch's",
        "System": origin.system or UNRECORDED,
    }


def identity(run: Run, line: RunLine) -> dict[str, str]:
    """Which run it is: model, text as it was read, when and how long, and its key."""
    facts = {
        "Model": f"{line.model}, fingerprint {run.fingerprint}",
        "Text that was read": read_text(run.result),
        "When": f"{when(run.created)}, took {words.duration(line.seconds)}",
        "Run": run.key,
        "Ran in": getattr(run.result, "version", ""),
    }
    return {name: value for name, value in facts.items() if value}


def read_text(result: Result) -> str:
    """Text, tokens and hash that an answer names; empty where it names none."""
    label, hashed = getattr(result, "text_label", ""), getattr(result, "text_hash", "")
    return f"{label}, {result.tokens:,} tokens, hash {hashed}" if hashed and hasattr(result, "tokens") else ""


def assignment(formats: Mapping[str, str]) -> str:
    """A recipe in a few words: ``INT4 g64 asym × 40, INT8 g64 asym × 16``; other layers keep the original weights."""
    counts = Counter(formats.values()).most_common()
    named = [f"{format_name(name)} × {count}" for name, count in counts[:_FORMATS]]
    more = [f"{len(counts) - _FORMATS} more formats"] if len(counts) > _FORMATS else []
    changed = f"{_count(len(formats), 'layer')} changed"
    return f"{changed}: {', '.join([*named, *more])}" if formats else "no layer changed"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _formats(names: tuple[str, ...]) -> str:
    return ", ".join(format_name(name) for name in names)


def _text(text: TextSource, tokens: int, sequence: int) -> str:
    name = text.label or text.kind
    seed = f" (seed {text.seed})" if text.kind == "self" else ""
    return f"{tokens:,} tokens of {name}{seed} in sequences of {sequence:,}"


def _end(request: TrainRequest) -> str:
    ends = [f"{request.steps:,} steps"] if request.steps else []
    ends += [f"{words.duration(request.seconds)} of training"] if request.seconds else []
    return " or ".join(ends)


def _setup(chosen: Setup) -> dict[str, str]:
    summary = setup.summary(chosen)
    learned = chosen.calibration
    facts = {"Beyond weights": summary or _NOTHING}
    if chosen.trained:
        facts["Trained weights"] = chosen.trained
    if learned != Calibration():
        facts["Methods learned from"] = _text(learned.text, learned.tokens, learned.sequence)
    return facts


def _other(request: GenerateRequest) -> dict[str, str]:
    """The further recipe of a generation, if there was one."""
    if request.other is None:
        return {}
    return {"Another": _variants((VariantSpec(request.other, request.other_setup),))["Variant 1"]}


def _variants(variants: Iterable[VariantSpec]) -> dict[str, str]:
    """Each variant's recipe, and what else is done to the model for it."""
    found = {}
    for number, one in enumerate(variants, 1):
        beyond = {name: value for name, value in _setup(one.setup).items() if value != _NOTHING}
        parts = [assignment(one.assignment), *(f"{name.lower()}: {value}" for name, value in beyond.items())]
        label = f"{one.label}: " if one.label else ""
        found[f"Variant {number}"] = label + "; ".join(parts)
    return found


def _where(ref: ModelRef) -> dict[str, str]:
    revision = f", revision {ref.revision}" if ref.revision else ""
    return {
        "Loaded from": f"{ref.source}{revision}",
        "Computed in": f"dtype {ref.dtype}, device {ref.device}",
    }
