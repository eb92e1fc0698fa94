"""The kinds of jobs: what each is asked, what it answers, and whether somebody sits and waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quant_core import schema
from quant_core.schema import ModelRef, Request, Result


@dataclass(frozen=True)
class Kind:
    """One kind of job. ``interactive`` ones go first and are served in the middle of long ones."""

    name: str
    request: type[Request]
    result: type[Result]
    interactive: bool
    title: str
    """What to call such a job on screen; ``{model}`` is filled in."""


_ALL = (
    Kind("inspect", schema.InspectRequest, schema.ModelInfo, True, "Open {model}"),
    Kind("rescore", schema.RescoreRequest, schema.ScoreTable, True, "Score more formats of {model}"),
    Kind("layer", schema.LayerRequest, schema.LayerView, True, "Look at a layer of {model}"),
    Kind("window", schema.WindowRequest, schema.Window, True, "Look at weights of {model}"),
    Kind("channels", schema.ChannelsRequest, schema.ChannelRanges, True, "Look at channels of {model}"),
    Kind("inputs", schema.InputsRequest, schema.LayerInputs, True, "Read inputs of a layer of {model}"),
    Kind("clip", schema.ClipRequest, schema.ClipSweep, True, "Set the range of a layer of {model}"),
    Kind("generate", schema.GenerateRequest, schema.Generation, True, "Write with {model}"),
    Kind(
        "attribute", schema.AttributionRequest, schema.Attribution, True, "Find what moved a token of {model}"
    ),
    Kind("catalog", schema.CatalogRequest, schema.Catalog, True, "List what there is"),
    Kind("look", schema.LookRequest, schema.HubModel, True, "Look up {model}"),
    Kind(
        "recommend", schema.RecommendRequest, schema.Recommendation, False, "Recommend a recipe for {model}"
    ),
    Kind("download", schema.DownloadRequest, schema.Downloaded, False, "Download {model}"),
    Kind("sensitivity", schema.SensitivityRequest, schema.ScoreTable, False, "Sensitivity of {model}"),
    Kind("weights", schema.WeightsRequest, schema.WeightStatistics, False, "Weight statistics of {model}"),
    Kind("train", schema.TrainRequest, schema.Training, False, "Train {model}"),
    Kind("prove", schema.ProveRequest, schema.Proof, False, "Measure recipes on {model}"),
    Kind("export", schema.ExportRequest, schema.Exported, False, "Export {model}"),
    Kind(
        "prompts",
        schema.PromptsRequest,
        schema.PromptTexts,
        False,
        "Write from a set of prompts with {model}",
    ),
    Kind("choices", schema.ChoicesRequest, schema.ChoiceScores, False, "Multiple choice with {model}"),
    Kind("tails", schema.TailsRequest, schema.KlTails, False, "Spread of KL of {model}"),
    Kind("speed", schema.SpeedRequest, schema.Speeds, False, "Time {model}"),
    Kind(
        "runtime_speed",
        schema.RuntimeSpeedRequest,
        schema.RuntimeSpeeds,
        False,
        "Run {model} in its runtime",
    ),
    Kind("import", schema.ImportRequest, schema.QuantizedCheckpoint, False, "Read the checkpoint {model}"),
    Kind("evaluate", schema.EvaluateRequest, schema.Evaluation, False, "Measure a recipe on {model}"),
    Kind("check", schema.CheckRequest, schema.Check, False, "Check what is served of {model}"),
    Kind("served", schema.ServedRequest, schema.ServedText, True, "Write with what is served of {model}"),
)
KINDS = {kind.name: kind for kind in _ALL}
_BY_REQUEST = {kind.request: kind for kind in _ALL}


def kind_of(request: Request) -> Kind:
    """The kind of job that answers ``request``."""
    return _BY_REQUEST[type(request)]


def load_request(kind: str, data: object) -> Request:
    """The request of a job of ``kind`` held in JSON ``data``; raises ``ValueError`` if it does not fit."""
    return schema.load(KINDS[kind].request, data)


def load_result(kind: str, data: object) -> Result:
    """The result of a job of ``kind`` held in JSON ``data``; raises ``ValueError`` if it does not fit."""
    return schema.load(KINDS[kind].result, data)


Modelless = schema.CatalogRequest | schema.LookRequest | schema.DownloadRequest
"""Requests that name no model."""


def model_of(request: Request) -> ModelRef | None:
    """The model that has to be loaded for a request; None where it needs none."""
    return None if isinstance(request, Modelless | schema.ImportRequest) else request.model


def trained_by(request: Request) -> tuple[str, ...]:
    """Content keys of the trained weights that a request takes."""
    setups = [getattr(request, name, None) for name in ("setup", "other_setup")]
    setups += [variant.setup for variant in getattr(request, "variants", ())]
    return tuple(dict.fromkeys(setup.trained for setup in setups if setup and setup.trained))


def fingerprint_of(request: Request) -> str:
    """The content of the model a request is about, empty where the request does not know it."""
    unknown = Modelless | schema.InspectRequest | schema.WeightsRequest
    return "" if isinstance(request, unknown) else request.fingerprint


def without_paths(request: Request) -> Request:
    """A request that names quantized checkpoints by their last part alone: where they are is nobody else's concern.

    Nothing is opened by such a name, so that a run that comes from elsewhere leads to no file here.
    """
    if isinstance(request, schema.ImportRequest):
        return schema.replace(request, checkpoint=Path(request.checkpoint).name)
    if isinstance(request, schema.GenerateRequest):
        return schema.replace(request, other_checkpoint=_named(request.other_checkpoint))
    if isinstance(request, schema.PromptsRequest | schema.SpeedRequest):
        variants = tuple(schema.replace(one, checkpoint=_named(one.checkpoint)) for one in request.variants)
        return schema.replace(request, variants=variants)
    return request


def _named(ref: schema.CheckpointRef | None) -> schema.CheckpointRef | None:
    return None if ref is None else schema.replace(ref, path=Path(ref.path).name)


def title_of(request: Request) -> str:
    """What to call the job of ``request`` on screen."""
    if isinstance(request, schema.LayerRequest):
        more = f" and {len(request.units) - 1} more" if len(request.units) > 1 else ""
        return f"Look at {request.units[0]}{more} in {', '.join(request.formats)}"
    if isinstance(request, schema.LookRequest | schema.DownloadRequest):
        source = request.source
    elif isinstance(request, schema.ImportRequest):
        source = request.checkpoint
    else:
        source = "" if isinstance(request, schema.CatalogRequest) else request.model.source
    if isinstance(request, schema.RuntimeSpeedRequest):
        return f"Run {model_name(source)} in {request.runtime}"
    return kind_of(request).title.format(model=model_name(source))


def model_name(source: str) -> str:
    """What to call a model on screen: a folder by its last part, a hub id as it is."""
    if source == "bundled":
        return "the bundled model"
    return Path(source).name if Path(source).is_absolute() else source
