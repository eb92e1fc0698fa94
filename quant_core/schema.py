"""Every value that crosses a folder: frozen, JSON-able, free of torch.

``dump`` turns a value into plain JSON data and ``load`` turns it back, refusing unknown or missing fields.
Sizes are in bits where a format is concerned and in bytes (1 MB = 10^6 bytes) where a file or memory is; KL
divergences and scores are in nats a token, natural logarithm throughout.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import cattrs

T = TypeVar("T")

ORIGINAL = "original"

Granularity = Literal["tensor", "channel", "group", "block", "none"]
Symmetry = Literal["asym", "sym", "float", "none"]
ScoreName = Literal["fisher", "measured", "output", "weight"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
TextKind = Literal["calibration", "evaluation", "inline", "dataset", "self"]
Side = Literal["original", "recipe", "other"]
"""Who writes: the model as it is, the recipe under work, or a further recipe."""

Plain = str | int | bool


def _plain(value: object, _: object) -> Plain:
    if not isinstance(value, str | int | bool):
        raise TypeError(f"{value!r} is no text, whole number, or truth value")
    return value


_converter = cattrs.Converter(forbid_extra_keys=True)
_converter.register_structure_hook_func(lambda kind: kind == Plain, _plain)


def dump(value: object) -> Any:
    """Plain JSON data (dicts, lists, numbers, strings) of a schema value."""
    return _converter.unstructure(value)


def load(kind: type[T], data: Any) -> T:
    """The schema value of type ``kind`` held in JSON ``data``; raises ``ValueError`` if it does not fit."""
    try:
        return _converter.structure(data, kind)
    except Exception as error:
        raise ValueError(f"not a {kind.__name__}: {'; '.join(cattrs.transform_error(error))}") from error


def digest(value: object) -> str:
    """A 24-digit content hash of a schema value or JSON data, independent of key order."""
    text = json.dumps(dump(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


# --- number formats -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FamilyInfo:
    """What a family of number formats offers; the catalog lists one a family.

    ``granularities`` names who shares a scale; ``symmetries`` is empty where the family has no such choice.
    ``default`` is the tail of the full name, with ``{group}`` for the group size (``"g{group}/asym"``).
    """

    name: str
    title: str
    help: str
    source: str
    granularities: tuple[Granularity, ...]
    group_sizes: tuple[int, ...]
    """How many values of a row may share a scale."""
    symmetries: tuple[Symmetry, ...]
    default: str
    value_bits: int
    """Bits a code takes; 0 for what a value takes in the checkpoint."""
    scale_bits: int
    """Bits the scale of a block takes, with all else that is stored a block but a zero point."""
    kind: str = "Integer"
    """The heading under which pickers list it."""
    pack: int = 1
    """Values that one code stands for (five ternary values fit 8 bits)."""
    block: int = 0
    """Values along a row in a block, for a family that leaves no choice (granularity ``none``)."""
    tensor_bits: int = 0
    """Bits stored once a weight."""
    double: bool = False
    """Whether its scales can themselves be quantized (``dq``)."""
    uniform: bool = False
    """Whether the values of a block are evenly spaced."""
    clips: bool = False
    """Whether the range of a block can be set below its largest value."""
    weighted: bool = False
    """Whether it can give some values of a block more weight than others when it chooses their grid."""
    details: Mapping[str, Plain] = field(default_factory=dict)
    """What a recipe adds for programs that know nothing of QuantLens (``scale_dtype``)."""


@dataclass(frozen=True)
class Option:
    """A choice that a method leaves open; the first of ``choices`` is the default."""

    name: str
    title: str
    help: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class MethodInfo:
    """A method in the catalog: how weights are rounded, rewritten, or activations treated."""

    name: str
    title: str
    help: str
    source: str
    families: tuple[str, ...] = ()
    """Families of number formats it works with; for a rewrite, architectures (``LlamaForCausalLM``)."""
    except_for: Mapping[str, str] = field(default_factory=dict)
    """Why it does not work with a family or an architecture."""
    needs: tuple[Literal["inputs", "gradients", "samples"], ...] = ()
    """What it learns from the calibration text: moments of a unit's inputs, of its output gradients, whole inputs."""
    options: tuple[Option, ...] = ()
    unties: bool = False
    """Whether it makes a head tied to the embedding a weight of its own (``costs.untied``)."""


@dataclass(frozen=True)
class FormatSpec:
    """One number format, and how weights are rounded to it; ``name`` and ``parse_format`` are each other's inverse.

    Names read ``family[/granularity][/symmetry][/dq][/keepP][@method]``: ``int4/g64/asym``, ``int8/channel/sym``,
    ``nf4/g64/dq``, ``fp8_e4m3/b128``, ``q4_k``, ``int3/g64/asym/keep0.5@gptq``, ``original``.
    """

    family: str
    granularity: Granularity = "none"
    group_size: int = 0
    symmetry: Symmetry = "none"
    double: bool = False
    """Whether the scales are quantized too."""
    keep: int = 0
    """Thousandths of the weights, the largest, that are kept in 16 bits."""
    method: str = ""
    """How to round, with what differs from the method's defaults (``gptq:order=none``); empty for to nearest."""

    @property
    def name(self) -> str:
        """The full name, which parses back to this spec."""
        return f"{self.format}@{self.method}" if self.method else self.format

    @property
    def format(self) -> str:
        """The name without the method."""
        parts = [self.family]
        if self.granularity in ("group", "block"):
            parts.append(f"{self.granularity[0]}{self.group_size}")
        elif self.granularity != "none":
            parts.append(self.granularity)
        if self.symmetry != "none":
            parts.append(self.symmetry)
        if self.double:
            parts.append("dq")
        if self.keep:
            parts.append(f"keep{self.keep / 10:.1f}")
        return "/".join(parts)


@dataclass(frozen=True)
class Storage:
    """What a weight costs in a format, in bits: its codes (padding included) and its metadata (scales, zero points)."""

    codes: int
    metadata: int
    padded: int = 0
    """Values added to fill the last group of a row."""

    @property
    def total(self) -> int:
        """All stored bits."""
        return self.codes + self.metadata


# --- models ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelRef:
    """Where a model is and how to load it.

    ``source`` is ``"bundled"``, a folder, or a hub id. ``dtype`` is the dtype to compute in (``"auto"``: float32 on
    a CPU, bfloat16 elsewhere); ``device`` is ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    """

    source: str
    revision: str = ""
    dtype: str = "auto"
    device: str = "auto"


@dataclass(frozen=True)
class Unit:
    """One weight that is decided on: a full parameter name, with ``[e]`` for one expert of a 3-D parameter.

    ``rows`` are outputs, ``columns`` are inputs, whatever way the checkpoint stores them. ``fused`` names the group
    that some runtimes quantize as one (q/k/v, gate/up). ``decided`` is true for the linear layers of the blocks;
    embedding and head join on request. ``tied`` lists the further parameters that share this storage.
    """

    name: str
    block: int
    """Index of the transformer block, -1 outside the blocks."""
    role: str
    """Last part of the module's name (``q_proj``), with the expert's index for experts."""
    kind: Literal["linear", "conv1d", "expert", "embedding", "head"]
    rows: int
    columns: int
    bits: int
    """Bits a value in the checkpoint (16 for bfloat16)."""
    decided: bool
    fused: str = ""
    tied: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of values."""
        return self.rows * self.columns


@dataclass(frozen=True)
class ModelInfo:
    """What a model is: everything pages show before any analysis."""

    ref: ModelRef
    title: str
    fingerprint: str
    architecture: str
    parameters: int
    """All parameters, tied storage counted once."""
    other_bits: int
    """Stored bits of everything that is no unit: norms, biases, positions."""
    units: tuple[Unit, ...]
    blocks: int
    hidden_size: int
    vocabulary: int
    context_length: int
    kv_values: int
    """Values the KV cache holds a token (all layers, keys and values)."""
    dtype: str
    """The checkpoint's dtype."""
    compute_dtype: str
    device: str
    chat: bool
    """Whether the tokenizer brings a chat template."""
    notes: tuple[str, ...] = ()
    experts_per_token: int = 0
    """Experts of a block that a token is routed to; 0 without experts, or where the config does not say."""
    head_size: int = 0
    """Values that a head of keys or values has for a token; 0 if it is not known."""

    @property
    def original_bits(self) -> int:
        """Stored bits of the checkpoint's weights."""
        return self.other_bits + sum(unit.parameters * unit.bits for unit in self.units)


@dataclass(frozen=True)
class HubFile:
    """A file of a repository; ``blob`` is the name of its content in the hub's cache."""

    name: str
    bytes: int
    blob: str


# --- text -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextSource:
    """Which text: a bundled one, the user's own (``inline``), a hub dataset, or text the model writes itself.

    ``value`` is the text for ``inline`` and ``name[:config[:split[:column]]]`` for ``dataset``; ``seed`` is used by
    ``self``; ``label`` is what to call it on screen.
    """

    kind: TextKind
    value: str = ""
    label: str = ""
    seed: int = 0


CALIBRATION = TextSource("calibration", label="bundled calibration text")
EVALUATION = TextSource("evaluation", label="bundled evaluation text")


@dataclass(frozen=True)
class Calibration:
    """The text that methods learn from, cut into sequences."""

    text: TextSource = CALIBRATION
    tokens: int = 8192
    sequence: int = 256
    """Tokens a sequence."""


@dataclass(frozen=True)
class CheckpointRef:
    """A quantized checkpoint that was read: where it is, and what it held then."""

    path: str
    """A folder or a GGUF file, absolute."""
    content: str
    """Hash of its files of weights; see ``QuantizedCheckpoint.content``."""


@dataclass(frozen=True)
class Setup:
    """What is done to the model as a whole, beside the format of each weight."""

    transforms: tuple[str, ...] = ()
    """Rewrites that keep its function, in order (``awq``, ``rotate``)."""
    activations: str = ""
    """How the inputs of quantized layers are rounded (``int8/token``); empty for not at all."""
    kv_cache: str = ""
    """How keys and values are rounded (``int8``); empty for not at all."""
    trained: str = ""
    """Content key of the training whose weights are taken; empty for the checkpoint's."""
    calibration: Calibration = Calibration()


# --- requests: what a job is asked ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class InspectRequest:
    """Load a model and list what can be quantized. Answer: ``ModelInfo``."""

    model: ModelRef
    roots: tuple[str, ...] = ()
    """Folders a local path must lie in once links are resolved; empty allows any (the command line)."""
    signature: str = ""
    """Sizes and times of a local folder's files, so that a changed folder is inspected again."""


@dataclass(frozen=True)
class SensitivityRequest:
    """Score every unit in every format. Answer: ``ScoreTable``."""

    model: ModelRef
    fingerprint: str
    formats: tuple[str, ...]
    """Full format names."""
    text: TextSource = CALIBRATION
    tokens: int = 8192
    sequence: int = 256
    """Tokens a sequence."""
    score: ScoreName = "fisher"
    """``fisher`` also yields weight and output error; ``measured`` quantizes one unit at a time."""
    precision: float = 0.0
    """For ``fisher``: the relative standard error, as a share, at which no more labels are drawn; 0 draws one."""
    embeddings: bool = False
    seed: int = 0
    setup: Setup = Setup()
    """Its calibration is not used: methods learn from the text that is scored. Nor are activations and the KV cache:
    scores are of weights."""
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class RescoreRequest:
    """Score more formats from the state that a sweep left, without running the model. Answer: ``ScoreTable``."""

    model: ModelRef
    fingerprint: str
    state: str
    """Key of the state, from the sweep's table."""
    formats: tuple[str, ...]
    """Full format names."""
    units: tuple[str, ...] = ()
    """Units to score; empty for all of the sweep's."""
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerRequest:
    """Histogram of one or more units, and grid and error in some formats over it. Answer: ``LayerView``.

    A rewrite of the setup that searches takes every decided unit to be in the first of the formats.
    """

    model: ModelRef
    fingerprint: str
    units: tuple[str, ...]
    formats: tuple[str, ...]
    """Full format names."""
    bins: int = 120
    setup: Setup = Setup()
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class WindowRequest:
    """A rectangle of one unit's weights and of their error in a format, binned. Answer: ``Window``."""

    model: ModelRef
    fingerprint: str
    unit: str
    format: str
    rows: tuple[int, int] = (0, 0)
    """First output, and one past the last; (0, 0) for all. ``columns`` likewise of inputs."""
    columns: tuple[int, int] = (0, 0)
    cells: int = 128
    """At most so many bins in each direction."""
    setup: Setup = Setup()
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChannelsRequest:
    """How far the weights of each output and of each input of a unit reach. Answer: ``ChannelRanges``."""

    model: ModelRef
    fingerprint: str
    unit: str
    format: str = ""
    """What a rewrite that searches takes every decided unit to be in."""
    bins: int = 256
    setup: Setup = Setup()
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class InputsRequest:
    """What enters a unit while the model reads the setup's calibration text. Answer: ``LayerInputs``."""

    model: ModelRef
    fingerprint: str
    unit: str
    format: str = ""
    """What a rewrite that searches takes every decided unit to be in."""
    bins: int = 256
    """At most so many bins of values, and of channels."""
    setup: Setup = Setup()
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClipRequest:
    """A unit on one grid for the whole tensor, which covers more and less of its range. Answer: ``ClipSweep``."""

    model: ModelRef
    fingerprint: str
    unit: str
    format: str = "int4/tensor/asym"
    """Full name of a format with one grid for the tensor, whose range can be set."""
    shares: tuple[float, ...] = tuple(place / 100 for place in range(10, 101, 2))
    """Parts of the range that the grid covers, each in (0, 1]."""
    bins: int = 120
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class WeightsRequest:
    """Read statistics of all weights from the checkpoint's files, without loading the model. Answer:
    ``WeightStatistics``.
    """

    model: ModelRef
    roots: tuple[str, ...] = ()
    """Folders a local path must lie in once links are resolved; empty allows any (the command line)."""
    signature: str = ""
    """Sizes and times of a local folder's files, so that a changed folder is read again."""


@dataclass(frozen=True)
class EvaluateRequest:
    """Measure a recipe against the original. Answer: ``Evaluation``."""

    model: ModelRef
    fingerprint: str
    assignment: Mapping[str, str]
    """Unit name to full format name; units not named keep the original weights."""
    text: TextSource = EVALUATION
    tokens: int = 4096
    sequence: int = 256
    setup: Setup = Setup()
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProveRequest:
    """Measure several recipes against the original, all on the same tokens. Answer: ``Proof``."""

    model: ModelRef
    fingerprint: str
    assignments: tuple[Mapping[str, str], ...]
    """Unit name to full format name, a mapping a recipe; units not named keep the original weights."""
    text: TextSource = EVALUATION
    tokens: int = 4096
    sequence: int = 256
    setup: Setup = Setup()
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class GenerateRequest:
    """Write from a prompt, with the original and up to two recipes; tokens stream as events. Answer: ``Generation``."""

    model: ModelRef
    fingerprint: str
    prompt: str
    assignment: Mapping[str, str] | None = None
    tokens: int = 60
    seed: int = 0
    temperature: float = 0.8
    """0 picks the likeliest token."""
    top_p: float = 0.95
    chat: bool = False
    """Whether to wrap the prompt in the tokenizer's chat template."""
    setup: Setup = Setup()
    roots: tuple[str, ...] = ()
    other: Mapping[str, str] | None = None
    """A further recipe; like ``assignment``."""
    other_setup: Setup = Setup()
    other_checkpoint: CheckpointRef | None = None
    """A quantized checkpoint that writes in the place of a further recipe; ``other`` is then empty."""


@dataclass(frozen=True)
class AttributionRequest:
    """Find which units' rounding moves the prediction behind some tokens. Answer: ``Attribution``."""

    model: ModelRef
    fingerprint: str
    ids: tuple[int, ...]
    """Token ids of all that stands before the place, at least one."""
    assignment: Mapping[str, str]
    """Unit name to full format name."""
    setup: Setup = Setup()
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainRequest:
    """Train the assigned weights through their rounding to predict what the original predicts. Answer: ``Training``.

    It ends at ``steps`` or ``seconds``, whichever comes first; 0 sets no limit, and one of them must.
    """

    model: ModelRef
    fingerprint: str
    assignment: Mapping[str, str]
    """Unit name to full format name; a method in the name says where training starts. Other units stay as they are."""
    setup: Setup = Setup()
    """``trained`` names a training to go on from."""
    text: TextSource = TextSource("self", label="text the model writes itself")
    tokens: int = 65536
    """Size of the text; it is gone through again and again."""
    sequence: int = 128
    steps: int = 0
    seconds: float = 300.0
    """Time in training steps alone: writing the text and measuring come on top."""
    batch: int = 4
    """Sequences a step."""
    learning_rate: float = 0.007
    """Of values, in parts of the unit's mean step; of a LoRA update, of its factors."""
    step_rate: float = 0.005
    """Of step sizes, in parts of themselves."""
    mode: Literal["full", "lora"] = "full"
    """Whether all values of a weight are trained, or an update of low rank."""
    rank: int = 32
    """Of the LoRA update."""
    seed: int = 0
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecommendRequest:
    """Score the layers, solve for a budget, and measure the finalists, in one job. Answer: ``Recommendation``."""

    model: ModelRef
    fingerprint: str
    budget: Budget
    formats: tuple[str, ...]
    """Full names of the formats to choose from, beside ``original``."""
    terms: Terms
    text: TextSource = CALIBRATION
    tokens: int = 8192
    """Tokens of ``text`` that scores are made on."""
    held_out: TextSource = EVALUATION
    held_out_tokens: int = 4096
    """Tokens of ``held_out`` that the finalists are measured on."""
    embeddings: bool = False
    """Whether recipes also decide on embedding and head."""
    roots: tuple[str, ...] = ()

    @property
    def sweep(self) -> SensitivityRequest:
        """The scores that it stands on, a request of their own."""
        return SensitivityRequest(
            self.model,
            self.fingerprint,
            self.formats,
            self.text,
            self.tokens,
            embeddings=self.embeddings,
            roots=self.roots,
        )


@dataclass(frozen=True)
class VariantSpec:
    """A variant of a model to write with or to time; the model as it is where nothing is named."""

    assignment: Mapping[str, str] = field(default_factory=dict)
    """Unit name to full format name; units not named keep the original weights."""
    setup: Setup = Setup()
    label: str = ""
    """What to call it on screen."""
    checkpoint: CheckpointRef | None = None
    """A quantized checkpoint whose values stand in for all weights, with nothing rounded; None for none."""


@dataclass(frozen=True)
class PromptsRequest:
    """Write from every prompt of a set with two variants, to be told apart blindly. Answer: ``PromptTexts``."""

    model: ModelRef
    fingerprint: str
    prompts: tuple[str, ...]
    variants: tuple[VariantSpec, VariantSpec]
    tokens: int = 60
    seed: int = 0
    """Prompt number i (from 0) is written with ``seed + i``, both variants with the same random numbers."""
    temperature: float = 0.8
    top_p: float = 0.95
    chat: bool = False
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """A question with choices, one of which is right."""

    context: str
    """What stands before a choice."""
    choices: tuple[str, ...]
    answer: int
    """Index of the right choice."""


@dataclass(frozen=True)
class ChoicesRequest:
    """Score the choices of questions by their likelihood, original and recipe. Answer: ``ChoiceScores``."""

    model: ModelRef
    fingerprint: str
    questions: tuple[Question, ...]
    assignment: Mapping[str, str]
    """Unit name to full format name; units not named keep the original weights."""
    setup: Setup = Setup()
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class TailsRequest:
    """Measure how a recipe's KL divergence is spread over the tokens of a text. Answer: ``KlTails``."""

    model: ModelRef
    fingerprint: str
    assignment: Mapping[str, str]
    """Unit name to full format name; units not named keep the original weights."""
    text: TextSource = EVALUATION
    tokens: int = 4096
    sequence: int = 256
    setup: Setup = Setup()
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class SpeedRequest:
    """Time variants reading a prompt and writing. Answer: ``Speeds``; unlike others its key holds the device."""

    model: ModelRef
    fingerprint: str
    variants: tuple[VariantSpec, ...]
    prompt: int = 128
    """Tokens that are read at once."""
    tokens: int = 32
    """Tokens that are written behind them."""
    repeats: int = 5
    """Measured rounds; one more before them warms up."""
    take: int = 1
    """Number of the measurement, so that it can be made again."""
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class LookRequest:
    """Read what the hub says of a model, before anything is downloaded. Answer: ``HubModel``."""

    source: str
    """Its hub id."""
    revision: str = ""
    asked: str = ""
    """When it was asked for, so that a repository that changed since is looked at again."""


@dataclass(frozen=True)
class DownloadRequest:
    """Download a model from the hub into the cache of its libraries. Answer: ``Downloaded``."""

    source: str
    """Its hub id."""
    revision: str
    commit: str
    """What the revision stood for when it was looked at."""
    files: tuple[HubFile, ...]


@dataclass(frozen=True)
class CatalogRequest:
    """List what the registries offer. Answer: ``Catalog``."""


@dataclass(frozen=True)
class ExportRequest:
    """Write a quantized model for a runtime and read it back. Answer: ``Exported``."""

    model: ModelRef
    fingerprint: str
    recipe: Recipe
    runtime: str
    """Name of the exporter."""
    folder: str
    """Absolute path of the folder to be made."""
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class RuntimeSpeedRequest:
    """Run an exported recipe in its runtime, and the original beside it. Answer: ``RuntimeSpeeds``.

    As for ``SpeedRequest`` the key holds the device; where the files lie is left out of it.
    """

    model: ModelRef
    fingerprint: str
    runtime: str
    """Name in ``quant_core.runtimes``."""
    export: ExportRequest
    """What is run; it is written first where it is not there."""
    original: ExportRequest | None = None
    """The original for the same runtime; None where that runs the checkpoint itself."""
    prompt: int = 128
    """Tokens that are read at once."""
    tokens: int = 32
    """Tokens that are written behind them."""
    repeats: int = 5
    """Measured rounds; one more before them warms up."""
    take: int = 1
    """Number of the measurement, so that it can be made again."""
    roots: tuple[str, ...] = ()

    @property
    def assignment(self) -> dict[str, str]:
        """Of the recipe that is run."""
        return self.export.recipe.assignment()

    @property
    def setup(self) -> Setup:
        """Of the recipe that is run."""
        return self.export.recipe.setup


@dataclass(frozen=True)
class ImportRequest:
    """Say what a quantized checkpoint holds, and how far it is from an original. Answer: ``QuantizedCheckpoint``."""

    checkpoint: str
    """A folder or a GGUF file, absolute."""
    signature: str
    """Sizes and times of its files, so that a changed one is read again."""
    model: ModelRef | None = None
    """The original; None to compare with none."""
    fingerprint: str = ""
    """The original's."""
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class Endpoint:
    """A model behind a server that speaks OpenAI's API."""

    address: str
    """Up to and including the version: ``http://127.0.0.1:8080/v1``."""
    model: str = ""
    """What the server calls it; empty for the only one it has."""
    key: str = ""
    """Name of the environment variable that holds the key, never the key; empty where none is needed."""


@dataclass(frozen=True)
class CheckRequest:
    """Compare what an endpoint predicts with what the approved variant does. Answer: ``Check``."""

    model: ModelRef
    fingerprint: str
    endpoint: Endpoint
    assignment: Mapping[str, str]
    """Of the approved variant: unit name to full format name; units not named keep the original weights."""
    limit: float = 0.05
    """Nats a token up to which the endpoint counts as what was approved."""
    asked: str = ""
    """When it was asked for, since every check is a new one."""
    k: int = 20
    """How many likeliest next tokens the endpoint is asked for."""
    text: TextSource = EVALUATION
    tokens: int = 1024
    sequence: int = 128
    setup: Setup = Setup()
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServedRequest:
    """Write from a prompt with an endpoint, the original, and the approved variant. Answer: ``ServedText``."""

    model: ModelRef
    fingerprint: str
    endpoint: Endpoint
    prompt: str
    assignment: Mapping[str, str] | None = None
    """Of the approved variant; None for the original alone."""
    tokens: int = 60
    seed: int = 0
    temperature: float = 0.0
    """0 picks the likeliest token, which alone can be compared word for word."""
    top_p: float = 0.95
    asked: str = ""
    """When it was asked for: what an endpoint writes may change."""
    setup: Setup = Setup()
    roots: tuple[str, ...] = ()


Request = (
    InspectRequest
    | SensitivityRequest
    | RescoreRequest
    | LayerRequest
    | WindowRequest
    | ChannelsRequest
    | InputsRequest
    | ClipRequest
    | WeightsRequest
    | EvaluateRequest
    | ProveRequest
    | GenerateRequest
    | AttributionRequest
    | TrainRequest
    | RecommendRequest
    | PromptsRequest
    | ChoicesRequest
    | TailsRequest
    | SpeedRequest
    | LookRequest
    | DownloadRequest
    | CatalogRequest
    | ExportRequest
    | RuntimeSpeedRequest
    | ImportRequest
    | CheckRequest
    | ServedRequest
)


# --- results: what a job answers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Catalog:
    """What the registries offer."""

    families: tuple[FamilyInfo, ...]
    methods: tuple[MethodInfo, ...] = ()
    """Ways to round weights to a format."""
    transforms: tuple[MethodInfo, ...] = ()
    activations: tuple[MethodInfo, ...] = ()
    kv_caches: tuple[MethodInfo, ...] = ()


Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ScoreTable:
    """Scores of units (rows) by formats (columns).

    ``fisher`` and ``measured`` are KL in nats a token; ``weight`` is |dW|^2/|W|^2 and ``output`` is
    mean |dW x|^2 / mean |W x|^2, both without unit. ``*_stderr`` are standard errors of the mean over the
    calibration sequences. A score that was not asked for is an empty tuple.
    """

    fingerprint: str
    units: tuple[str, ...]
    formats: tuple[str, ...]
    storage_bits: tuple[tuple[int, ...], ...]
    """All stored bits of the unit in the format."""
    padded: tuple[tuple[int, ...], ...]
    """Values added to fill groups that do not divide the row."""
    tokens: int
    sequences: int
    text_hash: str
    text_label: str
    seed: int
    seconds: float
    weight: Matrix = ()
    output: Matrix = ()
    fisher: Matrix = ()
    fisher_stderr: Matrix = ()
    measured: Matrix = ()
    measured_stderr: Matrix = ()
    notes: tuple[str, ...] = ()
    """What went otherwise than asked (an expert that saw no token), a sentence each."""
    transforms: tuple[str, ...] = ()
    """Rewrites that the model had gone through before it was scored."""
    labels: int = 0
    """Labels drawn at each token for ``fisher``: how often the text was read; 0 where it is not told."""
    precision: float = 0.0
    """The request's."""
    state: str = ""
    """Key of the score state that the pass left, from which further formats are scored; empty if it left none."""
    rescored: tuple[str, ...] = ()
    """Those of ``formats`` that were scored from the state, without running the model."""

    def scores(self, score: ScoreName) -> Matrix:
        """The matrix of one score (units x formats); empty if it was not computed."""
        return {
            "fisher": self.fisher,
            "measured": self.measured,
            "output": self.output,
            "weight": self.weight,
        }[score]


@dataclass(frozen=True)
class Histogram:
    """Counts between ``edges`` (one more than ``counts``)."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class FormatView:
    """What a format does to the weights of a ``LayerView``; values are in the weight's own unit."""

    format: str
    dequantized: Histogram
    """Of the weights after quantization, on the edges of ``LayerView.weights``."""
    errors: Histogram
    """Of dequantized minus original, on edges that all formats of the view share."""
    grid: tuple[float, ...]
    """Every value that the block of median scale can hold."""
    clip_low: float
    """Lowest and highest value that block can hold."""
    clip_high: float
    block_values: int
    """How many weights share that block's scale."""
    blocks: int
    outside: float
    """Share of the weights outside the range of their own block, in 0..1."""
    sqnr_db: float | None
    """10 log10(|W|^2 / |dW|^2); None where nothing changed."""
    mean_square: float
    """Mean squared error of a weight."""
    largest_error: float
    """Largest |dequantized - original|."""
    bits_per_weight: float
    padded: int
    kept: float = 0.0
    """Share of the weights that the format keeps in 16 bits, in 0..1."""
    kept_from: float = 0.0
    """The smallest |w| among them; 0 if there are none."""


@dataclass(frozen=True)
class LayerView:
    """One or more units and what formats do to them, binned for drawing; values are in the weight's own unit."""

    units: tuple[str, ...]
    parameters: int
    weights: Histogram
    kurtosis: float
    """Excess kurtosis of the weights; 0 for a normal distribution."""
    outlier_share: float
    """Share of weights beyond 4 standard deviations, in 0..1 (0.00006 for a normal distribution)."""
    minimum: float
    maximum: float
    standard_deviation: float
    formats: tuple[FormatView, ...]
    notes: tuple[str, ...] = ()
    """What went otherwise than asked, a sentence each."""

    @property
    def absolute_maximum(self) -> float:
        """Largest |w|."""
        return max(-self.minimum, self.maximum)


@dataclass(frozen=True)
class Spot:
    """One weight: where it is, what it is, and what it becomes."""

    row: int
    """Output."""
    column: int
    """Input."""
    weight: float
    quantized: float

    @property
    def error(self) -> float:
        """Quantized minus original."""
        return self.quantized - self.weight


@dataclass(frozen=True)
class Window:
    """A rectangle of a unit's weights and of their error in a format, each cell a bin of weights or a single one.

    A cell shows the value of its bin that is largest in size, with its sign, to three significant digits.
    """

    unit: str
    format: str
    row_edges: tuple[int, ...]
    """First output of each bin, and one past the last bin's last; ``column_edges`` likewise of inputs."""
    column_edges: tuple[int, ...]
    weights: Matrix
    """(row bins, column bins)."""
    errors: Matrix
    largest: Spot
    """The weight of the rectangle that is largest in size."""
    worst: Spot
    """The weight of the rectangle with the largest error."""


@dataclass(frozen=True)
class Channels:
    """Ranges of values along the outputs or the inputs of a unit, in bins of neighbouring channels."""

    edges: tuple[int, ...]
    """First channel of each bin, and one past the last bin's last."""
    minimum: tuple[float, ...]
    low: tuple[float, ...]
    """1 % of the bin's values lie below; likewise above ``high``."""
    high: tuple[float, ...]
    maximum: tuple[float, ...]
    furthest: int
    """The channel that holds the value largest in size."""
    reach: float
    """Size of that value."""
    median: float
    """Of the channels' largest sizes."""


@dataclass(frozen=True)
class ChannelRanges:
    """How far the weights of each output and of each input of a unit reach, in the weight's own unit."""

    unit: str
    outputs: Channels
    inputs: Channels


@dataclass(frozen=True)
class ClipSweep:
    """Rounding against clipping: the squared error of a tensor on grids that cover some share of its range.

    ``rounding`` and ``clipping`` are sums over the weights within and beyond the grid's ends, divided by the number of
    all weights, so that both together are the mean squared error.
    """

    unit: str
    format: str
    weights: Histogram
    mean_square: float
    """Of the weights, in their own unit squared, as the errors are."""
    shares: tuple[float, ...]
    rounding: tuple[float, ...]
    """By share, as all that follows."""
    clipping: tuple[float, ...]
    outside: tuple[float, ...]
    """Share of the weights beyond the grid's ends, in 0..1."""
    grids: tuple[tuple[float, ...], ...]
    """The values that the grid holds, ascending."""
    scales: tuple[float, ...]
    zero_points: tuple[float, ...]
    """Codes that stand for zero; 0 where the format has no zero point."""
    best: int
    """Place of the least error, the first where several are equal."""


@dataclass(frozen=True)
class LayerInputs:
    """What entered a unit over a text, in the activation's own unit."""

    unit: str
    values: Histogram
    edges: tuple[int, ...]
    """First input of each bin, and one past the last bin's last, as in ``ChannelRanges.inputs``."""
    largest: tuple[float, ...]
    """Largest |x| of each bin over the text."""
    mean: tuple[float, ...]
    """Mean |x| of each bin."""
    furthest: int
    """The input that holds the value largest in size."""
    reach: float
    """Size of that value."""
    median: float
    """Of the inputs' largest sizes."""
    tokens: int
    """Tokens whose inputs were seen: fewer than were read for an expert."""
    text_hash: str
    text_label: str
    seconds: float


@dataclass(frozen=True)
class UnitStatistics:
    """What the stored values of one unit are like; those that are not finite are counted and otherwise left out."""

    unit: Unit
    minimum: float
    maximum: float
    mean: float
    standard_deviation: float
    kurtosis: float
    """Excess kurtosis; 0 for a normal distribution."""
    outlier_share: float
    """Share of weights further than 4 standard deviations from the mean, in 0..1 (0.00006 for a normal
    distribution)."""
    zero_share: float
    """Share of weights that are 0, in 0..1."""
    row_spread: float
    """The largest |w| of an output over its median over outputs; 1 where all outputs reach as far, 0 if unknown."""
    column_spread: float
    """The same of inputs."""
    counts: tuple[int, ...]
    """Histogram: weights in equal bins from ``minimum`` to ``maximum``, around it where the two are the same."""
    not_finite: int = 0
    """Infinite or undefined values."""

    @property
    def absolute_maximum(self) -> float:
        """Largest |w|."""
        return max(abs(self.minimum), abs(self.maximum))


@dataclass(frozen=True)
class WeightStatistics:
    """Statistics of a checkpoint's units, in the model's order."""

    title: str
    units: tuple[UnitStatistics, ...]
    unread: tuple[str, ...]
    """Units that the files do not hold as they are used: transformers makes them when it loads the model."""
    bytes: int
    """Read from the files."""
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """A recipe measured against the original; KL in nats a token, perplexity by the text's own next token."""

    kl_mean: float
    kl_stderr: float
    kl_median: float
    kl_p99: float
    perplexity: float
    perplexity_stderr: float
    perplexity_original: float
    perplexity_original_stderr: float
    top1_agreement: float
    """Share of positions where both models find the same token likeliest, in 0..1."""
    tokens: int
    """Predicted positions that were measured."""
    sequences: int
    text_hash: str
    text_label: str
    seconds: float
    notes: tuple[str, ...] = ()
    """What went otherwise than asked, a sentence each."""


@dataclass(frozen=True)
class Proof:
    """Recipes measured on the same tokens, in the order in which they were asked for."""

    fingerprint: str
    kl: Matrix
    """KL in nats a token, a row a recipe and a column a sequence of the text."""
    tokens: int
    """Predicted positions that were measured."""
    text_hash: str
    text_label: str
    seconds: float
    notes: tuple[str, ...] = ()
    """What went otherwise than asked, a sentence each."""


@dataclass(frozen=True)
class Recommendation:
    """The finalists for a budget, measured side by side."""

    fingerprint: str
    recipes: tuple[Solution, ...]
    """In the order of the rows of ``proof``."""
    forms: tuple[str, ...]
    """The format of a recipe that has one for all layers; empty for one that was solved for."""
    proof: Proof


@dataclass(frozen=True)
class HubModel:
    """What the hub says of a model."""

    source: str
    commit: str
    files: tuple[HubFile, ...]
    """Those that are needed to open it."""
    parameters: Mapping[str, int]
    """Number of values by dtype, by safetensors' name (``BF16``); empty where the hub does not know."""
    licence: str
    """As the repository states it; empty if it states none."""
    gated: bool
    """Whether its authors restrict access."""
    problem: str = ""
    """Why it cannot be opened, a sentence; empty if nothing speaks against it."""

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True)
class Downloaded:
    """A model that is in the cache."""

    source: str
    commit: str
    bytes: int


@dataclass(frozen=True)
class TokenReading:
    """A side's own text as it saw it; an entry a token, all at temperature 1 over the whole vocabulary."""

    ids: tuple[int, ...]
    probability: tuple[float, ...]
    """What it gave the token that it wrote."""
    kl: tuple[float, ...]
    """KL(original || side) of what both predict for the place, after the same tokens; in nats."""


@dataclass(frozen=True)
class Generation:
    """Continuations of a prompt, token by token, without the prompt."""

    original: tuple[str, ...]
    recipe: tuple[str, ...]
    """Empty without a recipe."""
    divergence: int
    """Index of the first token in which recipe and original differ, -1 if none differs."""
    seed: int
    seconds: float
    other: tuple[str, ...] = ()
    """Empty without a further recipe."""
    other_divergence: int = -1
    prompt: tuple[int, ...] = ()
    """The prompt's token ids; like ``readings``, texts that were stored before these were kept lack them."""
    readings: Mapping[Side, TokenReading] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenEvent:
    """One generated token, streamed while a generation runs."""

    side: Side
    index: int
    text: str


@dataclass(frozen=True)
class ReadingEvent:
    """What was measured of a side's tokens, once its text has ended."""

    side: Side
    reading: TokenReading


@dataclass(frozen=True)
class Attribution:
    """How far each unit's rounding alone moves one prediction, KL(original || rounded) in nats."""

    units: tuple[str, ...]
    """The units that the recipe rounds, in the model's order."""
    kl: tuple[float, ...]
    """Of each of them rounded alone."""
    whole: float
    """Of all that the recipe and its setup do together."""
    tokens: int
    """How many stand before the place."""
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptTexts:
    """What two variants wrote: a row a prompt, a column a variant, without the prompts."""

    texts: tuple[tuple[str, str], ...]
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChoiceScores:
    """Log-likelihood in nats of every choice behind its context: a row a question, a column a choice."""

    original: Matrix
    recipe: Matrix
    cut: int
    """Questions whose context was shortened from its beginning to fit the model."""
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Guess:
    """A token and the probability that a model gave it, in 0..1."""

    text: str
    probability: float


@dataclass(frozen=True)
class WorstToken:
    """A place where a recipe's prediction is far from the original's."""

    before: str
    """The text up to the place."""
    token: str
    """What stands there."""
    kl: float
    """In nats."""
    original: tuple[Guess, ...]
    """What the original finds likeliest, the likeliest first."""
    recipe: tuple[Guess, ...]
    original_chance: float
    """The probability that the original gives to what stands there."""
    recipe_chance: float


@dataclass(frozen=True)
class KlTails:
    """How KL(original || recipe) is spread over the tokens of a text, in nats a token."""

    edges: tuple[float, ...]
    """Bounds of bins, rising by equal factors."""
    counts: tuple[int, ...]
    """Tokens a bin; the first bin holds all that are lower too, the last all that are higher."""
    mean: float
    median: float
    p90: float
    p99: float
    p999: float
    maximum: float
    over: float
    """Share of tokens above 0.1 nats, in 0..1."""
    worst: tuple[WorstToken, ...]
    """The farthest first."""
    tokens: int
    """Predicted positions that were measured."""
    text_hash: str
    text_label: str
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Speed:
    """How fast a variant ran, medians over repeats; each median with the least and the most."""

    first: tuple[float, float, float]
    """Seconds from the prompt to the first token: median, least, most."""
    prompt: tuple[float, float, float]
    """Prompt tokens a second."""
    decode: tuple[float, float, float]
    """Written tokens a second, behind the first."""
    peak: int
    """Bytes: on a GPU the most that PyTorch had allocated, on a CPU the most of the process that was seen."""
    joules: tuple[float, float] | None
    """A written token: of the whole GPU, and above what it takes when idle; None where it cannot be measured."""


@dataclass(frozen=True)
class Speeds:
    """Variants timed in turns on one machine."""

    variants: tuple[Speed, ...]
    prompt: int
    tokens: int
    repeats: int
    dtype: str
    hardware: str
    """Name of the GPU or CPU; empty where the system does not tell."""
    device: str
    """``cpu``, ``cuda:0``."""
    threads: int
    """That PyTorch computed with on the CPU."""
    idle: float | None
    """Watts before the measurement; None where it cannot be measured."""
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Training:
    """What a training did; KL(original || trained) in nats a token, over all positions.

    ``kl_before`` and ``kl_after`` are of sequences of the training text that were held out: they tell that it learned,
    and are no evaluation.
    """

    fingerprint: str
    key: str
    """Goes into ``Setup.trained``; the weights are found by it, and it says what they are."""
    assignment: Mapping[str, str]
    """Units that were trained, with their full format names."""
    mode: str
    curve: tuple[tuple[int, float], ...]
    """Steps done, and the mean loss of the steps up to there from the point before."""
    steps: int
    tokens: int
    """Tokens seen, repetitions counted."""
    seconds: float
    """In training steps."""
    kl_before: float
    """Of the assigned formats, rounded as their names say."""
    kl_after: float
    held_out: int
    """Tokens that were held out."""
    learned: int
    """Numbers that were trained."""
    text_hash: str
    text_label: str
    notes: tuple[str, ...] = ()
    """What the user should know of it, a sentence each."""


@dataclass(frozen=True)
class LossEvent:
    """How a running training does: the mean loss since the last event, in nats a token."""

    step: int
    """Steps done."""
    loss: float
    tokens: int
    """Tokens seen so far."""
    seconds: float
    """In training steps so far."""


@dataclass(frozen=True)
class ScoresEvent:
    """What a running sweep knows so far: first errors of the weights alone, then scores over the tokens read."""

    table: ScoreTable


Event = TokenEvent | ReadingEvent | LossEvent | ScoresEvent


def load_event(data: Any) -> Event:
    """The event held in JSON ``data``; raises ``ValueError`` if it is none."""
    if "table" in data:
        return load(ScoresEvent, data)
    if "reading" in data:
        return load(ReadingEvent, data)
    return load(LossEvent, data) if "loss" in data else load(TokenEvent, data)


@dataclass(frozen=True)
class Problem:
    """Why a runtime cannot take a recipe as it is, one sentence, and the weights it is about."""

    reason: str
    units: tuple[str, ...] = ()
    """Empty for the recipe as a whole."""


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written: its name in the folder, its size in bytes, and the SHA-256 of its content."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Exported:
    """What was written, and what reading it back found."""

    runtime: str
    folder: str
    files: tuple[ExportedFile, ...]
    weights: int
    """Quantized matrices that were read back."""
    exact: int
    """Of those, how many hold every value that was simulated, to the last bit of float32."""
    error: float
    """Largest relative error of a matrix, |W' - W| / |W|, W as simulated and W' as read; 0 if all are exact."""
    seconds: float
    notes: tuple[str, ...] = ()
    """What to know of it, a sentence each."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class RuntimeSpeed:
    """How fast files ran in a runtime; each median over rounds with the least and the most."""

    prompt: tuple[float, float, float]
    """Prompt tokens a second."""
    decode: tuple[float, float, float]
    """Written tokens a second, behind the first."""
    size: int
    """Bytes of the files that hold the weights."""
    libraries: int
    """Resident bytes of the runtime's process before it loaded the model."""
    resident: int
    """The most that it ever held."""
    gpu: int = 0
    """The most bytes that were allocated on a GPU; 0 on a CPU."""


@dataclass(frozen=True)
class RuntimeSpeeds:
    """An exported recipe and the original, run in turns in one runtime, each in a process of its own."""

    runtime: str
    version: str
    """``xllamacpp 2026.10.11549``."""
    recipe: RuntimeSpeed
    original: RuntimeSpeed | None
    """None where both do not fit into memory."""
    prompt: int
    tokens: int
    repeats: int
    dtype: str
    """Of most of the original's values."""
    hardware: str
    """Name of the GPU or CPU; empty where the system does not tell."""
    device: str
    """``cpu``, ``cuda:0``."""
    threads: int
    """That it computed with on the CPU."""
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class HeldWeight:
    """A matrix of a quantized checkpoint."""

    name: str
    """As its files name it, with ``[e]`` for one expert of a tensor that holds several."""
    unit: str
    """The original's unit that it is; empty where it is none, or no original was named."""
    holds: str
    """What it holds, in words."""
    format: str
    """Full name of our format that holds the same; empty where none does."""
    quantized: bool
    rows: int
    columns: int
    bits: int
    """All stored bits, scales counted."""
    error: float | None
    """|W' - W| / |W|, W the original's; None where it was not compared."""
    rescaled: bool = False
    """Whether its inputs or outputs are rescaled, as AWQ does; the error is then of what is left once it is undone."""

    @property
    def bits_per_weight(self) -> float:
        """Stored bits a weight."""
        return self.bits / (self.rows * self.columns)

    @property
    def sqnr_db(self) -> float | None:
        """10 log10(|W|^2 / |W' - W|^2); None where nothing changed or nothing was compared."""
        return -20 * math.log10(self.error) if self.error else None


@dataclass(frozen=True)
class Unmatched:
    """A weight of a checkpoint or of its original that has no counterpart or cannot be read, and why, a sentence."""

    name: str
    reason: str


@dataclass(frozen=True)
class QuantizedCheckpoint:
    """What a quantized checkpoint holds, in the order of its files."""

    title: str
    method: str
    """How it is packed (``GPTQ``, ``GGUF``)."""
    content: str
    """A 24-digit hash of its files of weights."""
    fingerprint: str
    """The original's; empty without one."""
    original: str
    """What to call the original; empty without one."""
    weights: tuple[HeldWeight, ...]
    other_bits: int
    """Stored bits of all that is no matrix."""
    bytes: int
    """Of its files of weights."""
    error: float | None
    """Over all quantized weights that were compared: the root of the summed |W' - W|^2 over the summed |W|^2."""
    unmatched: tuple[Unmatched, ...]
    seconds: float
    notes: tuple[str, ...] = ()
    """What to know of it, a sentence each."""

    @property
    def quantized(self) -> tuple[HeldWeight, ...]:
        """The matrices that are not plain floats."""
        return tuple(weight for weight in self.weights if weight.quantized)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits a quantized weight, scales counted; 0 without any."""
        values = sum(weight.rows * weight.columns for weight in self.quantized)
        return sum(weight.bits for weight in self.quantized) / values if values else 0.0

    @property
    def compared(self) -> int:
        """How many matrices were compared with the original's."""
        return sum(weight.error is not None for weight in self.weights)


@dataclass(frozen=True)
class Divergence:
    """A mean KL in nats a token, its standard error over sequences, and its 95 % interval."""

    mean: float
    stderr: float
    low: float
    high: float


@dataclass(frozen=True)
class Check:
    """How far an endpoint's predictions are from the approved variant's and from the original's, by top-k KL.

    KL(reference || endpoint) over the tokens that the endpoint named and the rest as one: at most the whole KL.
    """

    approved: Divergence
    original: Divergence
    top1_agreement: float
    """Share of positions where the endpoint finds the same token likeliest as the approved variant, in 0..1."""
    k: int
    """Most tokens that the endpoint named at a position."""
    coverage: float
    """Mean share of the endpoint's probability that lies on the tokens it named, in 0..1."""
    served: str
    """What the server calls its model."""
    tokens: int
    """Predicted positions that were compared."""
    sequences: int
    requests: int
    """That were sent to the endpoint."""
    text_hash: str
    text_label: str
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServedText:
    """Continuations of a prompt, and how fast the endpoint's came, measured where it was read."""

    original: tuple[str, ...]
    """Text by token; ``approved`` likewise, empty where there is none."""
    approved: tuple[str, ...]
    served: tuple[str, ...]
    """Text by piece as it came."""
    first: float
    """Seconds from the request to the first piece of text."""
    rate: float | None
    """Tokens a second behind the first piece; None for too short a text."""
    written: int
    """Tokens of the endpoint's text."""
    counted: bool
    """Whether the server told how many tokens it wrote; else every piece counts as one."""
    name: str
    """What the server calls its model."""
    seconds: float
    notes: tuple[str, ...] = ()


Result = (
    Catalog
    | ModelInfo
    | ScoreTable
    | LayerView
    | Window
    | ChannelRanges
    | LayerInputs
    | ClipSweep
    | WeightStatistics
    | Evaluation
    | Proof
    | Generation
    | Attribution
    | Training
    | Recommendation
    | PromptTexts
    | ChoiceScores
    | KlTails
    | Speeds
    | HubModel
    | Downloaded
    | Exported
    | RuntimeSpeeds
    | QuantizedCheckpoint
    | Check
    | ServedText
)


# --- runs: results with what they come from --------------------------------------------------------------------------


@dataclass(frozen=True)
class Origin:
    """What a result was made with: recorded beside it, and no part of its key."""

    libraries: Mapping[str, str]
    """Versions by name: QuantLens, Python, and the libraries whose arithmetic it rests on."""
    device: str
    """What the model was on (``cpu``, ``cuda:0``); empty where none was needed."""
    hardware: str
    """Name of that CPU or GPU; empty where the system does not tell."""
    threads: int
    """That PyTorch computed with on the CPU; 0 where it was not needed."""
    system: str
    """Operating system and architecture."""


@dataclass(frozen=True)
class Run:
    """A stored result with what it comes from."""

    key: str
    """Content key of its request."""
    kind: str
    """Of the job that answered it; see ``quant_core.store.kinds``."""
    fingerprint: str
    """The model's."""
    created: float
    """Seconds since the epoch."""
    request: Request | None
    """None where an older QuantLens did not record it."""
    result: Result
    origin: Origin | None
    """None where an older QuantLens did not record it."""
    note: str
    """The user's own words."""


@dataclass(frozen=True)
class Finding:
    """What a run found, in one number."""

    label: str
    value: float
    unit: str


@dataclass(frozen=True)
class RunLine:
    """A run in a list."""

    key: str
    kind: str
    title: str
    """Its kind in the user's words (``Measured sweep``)."""
    model: str
    """What to call the model."""
    fingerprint: str
    created: float
    """Seconds since the epoch."""
    seconds: float
    """It took."""
    finding: Finding
    note: str
    recorded: bool
    """Whether it was recorded what was asked, without which it cannot be handed on."""


@dataclass(frozen=True)
class Belongings:
    """What goes when a run is deleted, beside its answer, its request and its note."""

    files: tuple[str, ...]
    """Names of the arrays that belong to it alone."""
    bytes: int
    """That these take."""
    added: int
    """Score tables of further formats that rest on its state."""


@dataclass(frozen=True)
class Imported:
    """What an imported file brought: titles of the runs that are new, and the keys of all it holds."""

    added: tuple[str, ...]
    keys: tuple[str, ...]
    votes: int = 0
    """Blind votes that are new, those on runs that were here already included."""


Agreement = Literal["identical", "close", "different"]
"""How a figure that was worked out anew agrees with the stored one; ``close``: within the tolerance."""


@dataclass(frozen=True)
class FigurePair:
    """A figure of a result, or a table of them, stored and worked out anew."""

    name: str
    stored: str
    now: str
    share: float | None
    """The largest share by which a number differs; None where they cannot be compared."""
    agreement: Agreement


@dataclass(frozen=True)
class Reproduction:
    """A stored result and the same request worked out anew."""

    key: str
    """Of the run."""
    title: str
    agreement: Agreement
    """Of the figure that agrees least."""
    tolerance: float
    """Share of a figure by which it may differ and still be close."""
    figures: tuple[FigurePair, ...]
    changes: tuple[str, ...]
    """What differs of versions and machine, a line each."""
    origin: Origin
    """What it was worked out with anew."""
    created: float
    """Seconds since the epoch."""


# --- allocation and recipes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """A limit on size: ``bits`` = average stored bits a decided weight; ``bytes`` = all the model's weights."""

    kind: Literal["bits", "bytes"]
    value: float


@dataclass(frozen=True)
class Rule:
    """What the weights may take whose name matches ``pattern`` (``*`` and ``?`` stand for any text)."""

    pattern: str
    least_bits: float = 0.0
    """Stored bits a weight that a format must have; 0 sets no bound."""
    families: tuple[str, ...] = ()
    """Families of formats they may take, ``original`` only if it is named; empty for all."""


@dataclass(frozen=True)
class Use:
    """How the model is to run: what memory and time are predicted for."""

    context: int = 2048
    """Tokens of a sequence whose keys and values are kept."""
    batch: int = 1
    """Sequences that are written at once."""
    cache_bits: float = 16.0
    """Bits a cached key or value takes."""
    hardware: str = ""
    """Name of a hardware profile; empty for none, and then no time is predicted."""


@dataclass(frozen=True)
class Limits:
    """Limits that a recipe keeps beside its budget, all at once; 0 sets none."""

    bits: float = 0.0
    """Average stored bits a decided weight."""
    bytes: float = 0.0
    """Of all the model's weights."""
    memory: float = 0.0
    """Bytes in use while the model writes: weights, KV cache, activations."""
    active: float = 0.0
    """Bytes of weights that are read for a token."""
    milliseconds: float = 0.0
    """Predicted time for a token of every sequence."""


@dataclass(frozen=True)
class Terms:
    """What a recipe has to meet beside its budget and pins."""

    target: str = "any"
    """The runtime that has to hold it; see ``quant_core.targets``."""
    rules: tuple[Rule, ...] = ()
    limits: Limits = Limits()
    use: Use = Use()


@dataclass(frozen=True)
class Solution:
    """A format a unit, with what it costs and what it is predicted to do."""

    assignment: Mapping[str, str]
    """Decided unit to full format name, ``original`` included."""
    average_bits: float
    """Stored bits of the decided weights / their number."""
    total_bytes: float
    """All weights of the model, undecided ones and norms included."""
    predicted_kl: float
    predicted_stderr: float


@dataclass(frozen=True)
class ParetoPoint:
    """The smallest predicted KL at a size."""

    average_bits: float
    total_bytes: float
    predicted_kl: float


@dataclass(frozen=True)
class RecipeEntry:
    """A weight's format by name, spelled out, and its cost in bits a weight."""

    format: str
    parameters: Mapping[str, Plain]
    bits: float


@dataclass(frozen=True)
class Recipe:
    """A mixed-precision recipe as data; see ``quant_core.recipes`` for its files."""

    version: int
    model: str
    """Source as given: ``bundled``, a folder's name, a hub id."""
    revision: str
    fingerprint: str
    units: Mapping[str, RecipeEntry]
    """Every weight that can be quantized, by full parameter name."""
    average_bits: float
    total_bytes: float
    original_bytes: float
    predicted_kl: float | None
    predicted_stderr: float | None
    calibration: str
    """What the calibration text is called."""
    calibration_hash: str
    seed: int
    budget: Budget | None
    pins: Mapping[str, str]
    measured: Evaluation | None
    libraries: Mapping[str, str]
    setup: Setup = Setup()
    """What is done beside the weights' formats; a user's own text is named but not held."""
    terms: Terms = Terms()
    """What it had to meet beside budget and pins; files of before there were any lack it."""

    def assignment(self) -> dict[str, str]:
        """Unit name to full format name, without the weights that stay as they are."""
        return {name: entry.format for name, entry in self.units.items() if entry.format != ORIGINAL}


@dataclass(frozen=True)
class IncomingRecipe:
    """A recipe that was read from a file, QuantLens' own or settings of another tool."""

    recipe: Recipe
    tool: str = ""
    """Whose settings they were (``llm-compressor``); empty for a recipe of QuantLens'."""
    notes: tuple[str, ...] = ()
    """What was not understood or has no equal here, a sentence each."""


# --- jobs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A piece of work in the store; times are seconds since the epoch, 0 if not reached."""

    id: str
    kind: str
    title: str
    key: str
    """Content key under which the result is stored."""
    state: JobState
    progress: float
    """0..1."""
    message: str
    error: str
    hint: str
    created: float
    started: float
    finished: float
    updated: float = field(default=0.0)

    @property
    def active(self) -> bool:
        """Whether it is waiting or running."""
        return self.state in ("queued", "running")

    def time_left(self, now: float) -> float | None:
        """Seconds to go by linear extrapolation; None before 3 % are done."""
        if self.state != "running" or self.progress < 0.03:
            return None
        return (now - self.started) * (1.0 - self.progress) / self.progress


def replace(value: T, **changes: Any) -> T:
    """A copy of a frozen schema value with some fields changed."""
    return dataclasses.replace(value, **changes)  # type: ignore[type-var]  # T is a dataclass by contract
