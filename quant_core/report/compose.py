"""The document that a report is: a first page for who decides, an appendix for who checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import stdev

from quant_core.ballots import tally, verdict
from quant_core.plots import INTERVAL, number, short_formats
from quant_core.quantities import size
from quant_core.report.document import (
    Bars,
    Block,
    CellMap,
    Curve,
    Document,
    Fact,
    Listing,
    Section,
    Span,
    Spans,
    Table,
    Text,
    Verbatim,
)
from quant_core.report.facts import Measured, Report
from quant_core.schema import (
    ORIGINAL,
    ChoiceScores,
    ChoicesRequest,
    Evaluation,
    Exported,
    GenerateRequest,
    Generation,
    KlTails,
    PromptsRequest,
    PromptTexts,
    Proof,
    ProveRequest,
    Recipe,
    Run,
    RuntimeSpeed,
    RuntimeSpeeds,
    ScoreTable,
    Speeds,
    Training,
)
from quant_core.significance import paired
from quant_core.store.runs import KINDS, TITLES
from quant_core.targets import TARGETS

KL = "nats/token"
SHOWN = 12
"""Digits of a hash."""
_SENSITIVE = 10
"""Layers in the chart of the most sensitive ones."""


def compose(report: Report) -> Document:
    """The document of a report; what is not stored is named as not measured."""
    info, recipe = report.info, report.recipe
    return Document(
        title=f"{info.title} in {recipe.average_bits:.2f} bits a weight",
        question=_question(report),
        answer=_answer(report),
        facts=_facts(report),
        unknown=(*_missing(report), *_limits(report)),
        appendix=_filled(
            Section("Model", (_model(report),)),
            Section("Method", _method(report)),
            Section("Texts", (_texts(report),)),
            Section("Recipe", _recipe(report)),
            Section("Sensitivity", _sensitivity(report)),
            Section("Predicted and measured", _measurements(report)),
            Section("Tokens far from the original", _tails(report)),
            Section("Multiple choice", _choices(report)),
            Section("What they write", _generations(report)),
            Section("Blind vote", _votes(report)),
            Section("Training", _trainings(report)),
            Section("Speed", (*_runtimes(report), *_speeds(report))),
            Section("Files", _files(report)),
            Section("Where each result comes from", _origins(report)),
            Section("The same again", _commands(report)),
        ),
        made_by=f"QuantLens {report.version}",
    )


def _filled(*sections: Section) -> tuple[Section, ...]:
    """Those with something in them; what was not measured stands on the first page."""
    return tuple(section for section in sections if section.blocks)


# --- the first page


def _question(report: Report) -> str:
    recipe, name = report.recipe, report.info.title
    runtime = TARGETS.get(recipe.terms.target)
    runs = f" for {runtime.title}" if runtime and recipe.terms.target != "any" else ""
    if recipe.budget is None:
        return f"What does this recipe save and cost {name}{runs}?"
    limit = (
        f"{recipe.budget.value:.2f} bits a weight"
        if recipe.budget.kind == "bits"
        else size(recipe.budget.value)
    )
    return f"Which format for each layer keeps {name} closest to the original within {limit}{runs}?"


def _answer(report: Report) -> str:
    recipe, measured = report.recipe, report.evaluation
    sizes = f"{size(recipe.total_bytes)} instead of {size(recipe.original_bytes)}"
    if measured is not None:
        return (
            f"{sizes}; it loses {_pm(measured.kl_mean, measured.kl_stderr)} {KL}, measured on {measured.tokens:,} "
            f"tokens of {measured.text_label}, and finds the same next token likeliest "
            f"{100 * measured.top1_agreement:.1f} % of the time."
        )
    if recipe.predicted_kl is not None:
        predicted = _pm(recipe.predicted_kl, recipe.predicted_stderr or 0.0)
        return f"{sizes}; it is predicted to lose {predicted} {KL}. That was not measured."
    return f"{sizes}; what it loses was not measured."


def _facts(report: Report) -> tuple[Fact, ...]:
    recipe, measured = report.recipe, report.evaluation
    smaller = recipe.original_bytes / recipe.total_bytes if recipe.total_bytes else 0.0
    facts = [
        Fact("All weights", size(recipe.total_bytes), f"of {size(recipe.original_bytes)}, {smaller:.1f} times smaller"),
        Fact("Average bits", f"{recipe.average_bits:.2f} bits", "a decided weight, scales included"),
    ]  # fmt: skip
    if recipe.predicted_kl is not None:
        error = f"± {number(INTERVAL * (recipe.predicted_stderr or 0), 2)} (95 %), from scores on {recipe.calibration}"
        facts.append(Fact("Predicted KL", f"{number(recipe.predicted_kl)} {KL}", error))
    if measured is not None:
        where = f"{measured.tokens:,} tokens of {measured.text_label}"
        error = f"± {number(INTERVAL * measured.kl_stderr, 2)} (95 %), on {where}"
        perplexity = f"± {number(INTERVAL * measured.perplexity_stderr, 2)} (95 %), original "
        facts += [
            Fact("Measured KL", f"{number(measured.kl_mean)} {KL}", error),
            Fact("Same next token", f"{100 * measured.top1_agreement:.1f} %", f"of {where}"),
            Fact(
                "Perplexity",
                number(measured.perplexity),
                f"{perplexity}{number(measured.perplexity_original)}, on {measured.text_label}",
            ),
        ]
    return tuple(facts)


def _missing(report: Report) -> tuple[str, ...]:
    there: Sequence[tuple[str, object]] = (
        ("KL and perplexity on a text", report.evaluation),
        ("a calibrated interval of the prediction", report.interval),
        ("the spread of KL over tokens", report.results(KlTails)),
        ("multiple-choice questions", report.results(ChoiceScores)),
        ("text written by both", report.results(Generation)),
        ("blind votes", [votes for votes in report.votes.values() if votes]),
        ("speed in a runtime", report.results(RuntimeSpeeds)),
        ("files for a runtime", report.results(Exported)),
    )
    missing = [name for name, found in there if not found]
    return (f"Not measured: {', '.join(missing)}.",) if missing else ()


def _limits(report: Report) -> tuple[str, ...]:
    recipe, measured = report.recipe, report.evaluation
    found = ["Weights were rounded as their formats say and computed with in floating point: a runtime's own "
             "arithmetic adds errors that are not in these figures."]  # fmt: skip
    if measured is not None:
        found.append(
            "What was measured holds for that text; other languages and tasks may lose more or less."
        )
        if measured.text_hash == recipe.calibration_hash:
            found.append("It was measured on the text that the recipe was made from, which flatters it.")
    if report.table is None:
        found.append("The scores behind the recipe are not stored here, so layers have no predictions.")
    notes = measured.notes if measured else ()
    return (*found, *notes, *report.info.notes)


# --- the appendix


def _model(report: Report) -> Table:
    info = report.info
    rows = (
        ("Model", report.recipe.model),
        ("Revision", report.recipe.revision or "not named"),
        ("Fingerprint of the weights", info.fingerprint),
        ("Licence", report.licence or "not known"),
        ("Architecture", info.architecture),
        ("Parameters", f"{info.parameters:,}"),
        ("Blocks", f"{info.blocks:,}"),
        ("Checkpoint", f"{info.dtype}, {size(info.original_bits / 8)}"),
        ("Computed in", f"{info.compute_dtype} on {info.device}"),
    )
    return Table(("What", "Value"), rows)


def _method(report: Report) -> tuple[Block, ...]:
    recipe, table, terms = report.recipe, report.table, report.recipe.terms
    sentences = [
        "KL(original || recipe) is how far the quantized model's prediction of the next token is from the original's, "
        "in nats a token; 0 is the same.",
        "Each layer is scored alone in each format; a recipe's prediction is the sum over its layers.",
        "The recipe is the choice of formats with the least predicted KL within all limits."
        if report.solved
        else "The stored scores and the recipe's budget alone do not lead to it: formats were chosen by hand, "
        "by rule, or by measuring several.",
    ]
    if table is not None:
        if table.fisher:
            sentences.append(
                f"Scores are Fisher's: second order, from gradients of sampled labels, seed {table.seed}."
            )
        else:
            sentences.append("Scores were measured with one layer quantized at a time.")
    setup = recipe.setup
    rows = [
        ("Budget", f"{recipe.budget.value:,g} {recipe.budget.kind}" if recipe.budget else "none"),
        ("Runtime", TARGETS[terms.target].title if terms.target in TARGETS else terms.target),
        ("Rewrites", ", then ".join(setup.transforms) or "none"),
        ("Activations", setup.activations or "as they are"),
        ("KV cache", setup.kv_cache or "as it is"),
        ("Trained weights", setup.trained or "none"),
        ("Seed", str(recipe.seed)),
        *((f"Pin {pattern}", form) for pattern, form in sorted(recipe.pins.items())),
        *((f"Rule {rule.pattern}", f"{rule.least_bits:g} bits at least; {', '.join(rule.families) or 'all families'}")
          for rule in terms.rules),
    ]  # fmt: skip
    return Listing(tuple(sentences)), Table(("What", "Value"), tuple(rows))


def _texts(report: Report) -> Table:
    seen: dict[tuple[str, str, str], int] = {}
    recipe = report.recipe
    if recipe.calibration:
        tokens = report.table.tokens if report.table else 0
        seen["scores", recipe.calibration, recipe.calibration_hash] = tokens
    if recipe.measured is not None:
        measured = recipe.measured
        seen["measurement", measured.text_label, measured.text_hash] = measured.tokens
    for run in report.runs:
        result = run.result
        if isinstance(result, Evaluation | Proof | KlTails):
            use = {"evaluate": "measurement", "prove": "side by side", "tails": "spread of KL"}[run.kind]
            seen.setdefault((use, result.text_label, result.text_hash), result.tokens)
    rows = tuple((*key, f"{tokens:,}" if tokens else "not recorded") for key, tokens in seen.items())
    return Table(("Used for", "Text", "Content hash", "Tokens"), rows, (3,))


def _bits(recipe: Recipe) -> dict[str, float]:
    """Formats by rising bits a weight, averaged over the units that have them."""
    each: dict[str, list[float]] = {}
    for entry in recipe.units.values():
        each.setdefault(entry.format, []).append(entry.bits)
    means = {form: sum(found) / len(found) for form, found in each.items()}
    return dict(sorted(means.items(), key=lambda pair: (pair[1], pair[0])))


def _recipe(report: Report) -> tuple[Block, ...]:
    recipe = report.recipe
    units = {unit.name: unit for unit in report.info.units}
    bits = _bits(recipe)
    counts = Counter(entry.format for entry in recipe.units.values())
    weights, stored = Counter[str](), Counter[str]()
    for name, entry in recipe.units.items():
        if name in units:
            weights[entry.format] += units[name].parameters
            stored[entry.format] += round(units[name].parameters * entry.bits)
    shares = tuple(
        (form, f"{counts[form]:,}", f"{weights[form]:,}", number(bits[form]), size(stored[form] / 8))
        for form in bits
    )
    rows = []
    for name, entry in recipe.units.items():
        kl, error = report.scores.get(name, (None, None))
        known = kl is not None and error is not None
        rows.append((
            name, entry.format, number(entry.bits, 4), f"{units[name].parameters:,}" if name in units else "–",
            _pm(kl, error) if known else "–" if entry.format != ORIGINAL else "0",
        ))  # fmt: skip
    return (
        *_map(report, tuple(bits)),
        Bars("Stored size by format", tuple((form, stored[form] / 8e6, size(stored[form] / 8)) for form in bits)),
        Table(("Format", "Layers", "Weights", "Bits a weight", "Stored"), shares, (1, 2, 3, 4)),
        Table(("Weight", "Format", "Bits", "Weights", f"Predicted KL ± 95 % ({KL})"), tuple(rows), (2, 3, 4)),
    )  # fmt: skip


def _map(report: Report, forms: tuple[str, ...]) -> tuple[Block, ...]:
    units = [unit for unit in report.info.units if unit.block >= 0 and unit.name in report.recipe.units]
    roles = tuple(dict.fromkeys(unit.role for unit in units))
    blocks = sorted({unit.block for unit in units})
    found = {(unit.role, unit.block): report.recipe.units[unit.name].format for unit in units}
    short = dict(zip(forms, short_formats(forms), strict=True))
    cells = tuple(tuple(short.get(found.get((role, block), ""), "") for block in blocks) for role in roles)
    title = "Format of each layer, by role and block"
    return (CellMap(title, roles, tuple(map(str, blocks)), cells, tuple(short.values())),) if units else ()


def _sensitivity(report: Report) -> tuple[Block, ...]:
    table, recipe = report.table, report.recipe
    if table is None:
        return (Text("The scores are not stored here."),)
    blocks: list[Block] = []
    worst = sorted(report.scores.items(), key=lambda pair: (-pair[1][0], pair[0]))[:_SENSITIVE]
    if worst:
        rows = tuple(
            Span(name.removesuffix(".weight"), kl, max(kl - INTERVAL * error, 0), kl + INTERVAL * error)
            for name, (kl, error) in worst
        )
        blocks.append(Spans("Layers that cost most in this recipe", rows, KL))
    points = tuple((point.total_bytes / 1e6, point.predicted_kl) for point in report.front)
    if len(points) > 1 and recipe.predicted_kl:
        mark = (recipe.total_bytes / 1e6, recipe.predicted_kl)
        blocks.append(Curve("Least predicted KL at every size", points, mark, "this recipe"))
        ends = [report.front[0], report.front[-1]]
        rows_ = tuple(
            (name, f"{point.average_bits:.2f}", size(point.total_bytes), number(point.predicted_kl))
            for name, point in zip(("smallest", "largest"), ends, strict=True)
        )
        blocks.append(Table(("Possible with these formats", "Average bits", "All weights", f"Predicted KL ({KL})"),
                            rows_, (1, 2, 3)))  # fmt: skip
    formats = ", ".join(table.formats)
    blocks.append(Text(f"{len(table.units):,} weights were scored on {table.tokens:,} tokens in: {formats}."))
    return (*blocks, *([Listing(table.notes)] if table.notes else []))


def _measured(report: Report) -> list[Measured]:
    """Every measurement of the recipe's KL, the one that it carries first."""
    evaluations = [result for _, result in report.results(Evaluation)]
    found = [
        Measured(one.kl_mean, one.kl_stderr, one.tokens, one.text_label, one.text_hash, "alone")
        for one in dict.fromkeys([*filter(None, [report.recipe.measured]), *evaluations])
    ]
    for run, proof in report.results(Proof):
        if not isinstance(run.request, ProveRequest):
            continue
        for asked, row in zip(run.request.assignments, proof.kl, strict=True):
            if dict(asked) == report.recipe.assignment() and row:
                error = stdev(row) / len(row) ** 0.5 if len(row) > 1 else 0.0
                mean, how = sum(row) / len(row), f"side by side, {len(proof.kl)} recipes"
                found.append(Measured(mean, error, proof.tokens, proof.text_label, proof.text_hash, how))
    return found


def _measurements(report: Report) -> tuple[Block, ...]:
    recipe = report.recipe
    spans, rows = [], []
    if recipe.predicted_kl is not None:
        reach = INTERVAL * (recipe.predicted_stderr or 0.0)
        spans.append(Span("predicted: sum of scores", recipe.predicted_kl, max(recipe.predicted_kl - reach, 0.0),
                          recipe.predicted_kl + reach))  # fmt: skip
        rows.append((spans[-1], recipe.calibration, "sampling error of the scores alone"))
    if report.interval is not None:
        spans.append(Span("predicted: calibrated", *report.interval))
        rows.append((spans[-1], "texts of the calibration", "holds 95 of 100 measurements"))
    for one in _measured(report):
        reach = INTERVAL * one.stderr
        spans.append(Span(f"measured {one.how}", one.kl, max(one.kl - reach, 0.0), one.kl + reach))
        rows.append((spans[-1], f"{one.tokens:,} tokens of {one.text}", "error of the mean over sequences"))
    if not spans:
        return (Text("Neither predicted nor measured."),)
    cells = tuple(
        (span.label, number(span.value), f"{number(span.low)} to {number(span.high)}", text, meaning)
        for span, text, meaning in rows
    )
    return (
        Spans("KL to the original with 95 % intervals", tuple(spans), KL),
        Table(("KL", KL, "95 % interval", "On", "The interval is"), cells, (1, 2)),
    )


def _tails(report: Report) -> tuple[Block, ...]:
    for _, tails in report.results(KlTails):
        values = (("mean", tails.mean), ("median", tails.median), ("90th percentile", tails.p90),
                  ("99th percentile", tails.p99), ("99.9th percentile", tails.p999),
                  ("largest", tails.maximum))  # fmt: skip
        worst = tuple(
            (one.before[-60:] + "▸" + one.token, number(one.kl), _guess(one.original), _guess(one.recipe))
            for one in tails.worst[:5]
        )
        return (
            Text(f"On {tails.tokens:,} tokens of {tails.text_label}; {100 * tails.over:.1f} % of them are above "
                 "0.1 nats."),
            Table(("KL of a token", "nats"), tuple((name, number(value)) for name, value in values), (1,)),
            Table(("Place (▸ token)", "KL (nats)", "Original expects", "Recipe expects"), worst, (1,)),
        )  # fmt: skip
    return ()


def _guess(guesses: Sequence[object]) -> str:
    for guess in guesses:
        text, chance = getattr(guess, "text", ""), getattr(guess, "probability", 0.0)
        return f"{text} ({100 * chance:.0f} %)"
    return "–"


def _choices(report: Report) -> tuple[Block, ...]:
    for run, scored in report.results(ChoiceScores):
        if not isinstance(run.request, ChoicesRequest):
            continue
        rows = []
        for name, per_byte in (("likeliest choice", False), ("likeliest per byte", True)):
            pair = paired(run.request.questions, scored.original, scored.recipe, per_byte)
            sides = [
                f"{100 * one.share:.1f} % ({100 * one.interval[0]:.1f} to {100 * one.interval[1]:.1f} %)"
                for one in (pair.original, pair.recipe)
            ]
            rows.append((name, *sides, str(pair.lost), str(pair.won), f"{pair.p:.2g}"))
        head = ("Right", "Original (95 %)", "Recipe (95 %)", "Lost", "Won", "p (McNemar)")
        return (
            Text(f"{len(run.request.questions):,} questions of the user's."),
            Table(head, tuple(rows), (1, 2, 3, 4, 5)),
        )
    return ()


def _generations(report: Report) -> tuple[Block, ...]:
    for run, texts in report.results(Generation):
        if not isinstance(run.request, GenerateRequest):
            continue
        asked = run.request
        place = texts.divergence
        same = (
            "the same throughout"
            if place < 0
            else f"the same for {place:,} tokens"
            if place
            else "never the same"
        )
        return (
            Text(f"Seed {texts.seed}, temperature {asked.temperature:g}; {same}."),
            Verbatim("Prompt", asked.prompt, code=False),
            Verbatim("Original", "".join(texts.original), code=False),
            Verbatim("Recipe", "".join(texts.recipe), code=False),
        )
    return ()


def _votes(report: Report) -> tuple[Block, ...]:
    for run, _ in report.results(PromptTexts):
        votes = report.votes.get(run.key, ())
        if not votes or not isinstance(run.request, PromptsRequest):
            continue
        asked, found = run.request, tally(votes)
        first, second = (spec.label or f"variant {place}" for place, spec in enumerate(asked.variants, 1))
        undecided = len({vote.prompt for vote in votes}) - found.first_prompts - found.second_prompts
        rows = (
            (first, f"{found.first:,}", f"{found.first_prompts:,}"),
            (second, f"{found.second:,}", f"{found.second_prompts:,}"),
            ("no difference", f"{found.same:,}", f"{undecided:,}"),
        )
        return (
            Text(f"{verdict(found, (first, second))} {found.voters:,} voted on {len(asked.prompts):,} prompts, without "
                 f"knowing who wrote what: {asked.tokens} tokens each, temperature {asked.temperature:g}."),
            Table(("Preferred", "Votes", "Prompts by majority"), rows, (1, 2)),
        )  # fmt: skip
    return ()


def _trainings(report: Report) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for _, done in report.results(Training):
        own = done.key == report.recipe.setup.trained
        blocks.append(
            Text(
                f"{'The recipe has the weights of this training' if own else 'From this recipe'}: {done.steps:,} steps "
                f"({done.mode}), {done.tokens:,} tokens of {done.text_label}, {done.seconds:.0f} s. KL on "
                f"{done.held_out:,} tokens of that text that were held out, which is no evaluation:"
            )
        )
        ends = [done.curve[0][1], done.curve[-1][1]] if done.curve else []
        rows = [("rounded, not trained", number(done.kl_before)), ("trained", number(done.kl_after))]
        rows += [
            (f"loss {name}", number(loss)) for name, loss in zip(("at first", "at last"), ends, strict=False)
        ]
        blocks.append(Table(("", KL), tuple(rows), (1,)))
    return tuple(blocks)


def _runtimes(report: Report) -> tuple[Block, ...]:
    """The newest run in each runtime."""
    newest = {found.runtime: found for _, found in reversed(report.results(RuntimeSpeeds))}
    blocks: list[Block] = []
    for found in newest.values():
        threads = f", {found.threads} threads" if found.device == "cpu" else ""
        blocks.append(
            Text(f"The exported file in {found.version}, medians of {found.repeats} rounds (least to most) on "
                 f"{found.hardware or found.device}{threads}: {found.prompt} tokens read and {found.tokens} written. "
                 "Memory: the most that the process held, libraries included.")
        )  # fmt: skip
        sides = (("original", found.original), ("recipe", found.recipe))
        rows = tuple((name, *_runtime_row(one)) for name, one in sides if one is not None)
        head = ("", "Read (tokens/s)", "Written (tokens/s)", "Resident memory", "Weights on disk")
        blocks.append(Table(head, rows, (1, 2, 3, 4)))
    return tuple(blocks)


def _runtime_row(one: RuntimeSpeed) -> tuple[str, ...]:
    rates = (
        f"{number(middle)} ({number(low)} to {number(high)})"
        for middle, low, high in (one.prompt, one.decode)
    )
    return (*rates, size(one.resident), size(one.size))


def _speeds(report: Report) -> tuple[Block, ...]:
    for _, found in report.results(Speeds):
        rows = tuple(
            ("original" if place == 0 else f"variant {place}", number(one.first[0]), number(one.prompt[0]),
             number(one.decode[0]), size(one.peak))
            for place, one in enumerate(found.variants)
        )  # fmt: skip
        return (
            Text(f"Medians of {found.repeats} rounds on {found.hardware or found.device}, {found.prompt} tokens "
                 f"read and {found.tokens} written in {found.dtype}. Rounding is simulated here: this is no runtime's "
                 "speed."),
            Table(("", "First token (s)", "Read (tokens/s)", "Written (tokens/s)", "Peak memory"), rows, (1, 2, 3, 4)),
        )  # fmt: skip
    return ()


def _files(report: Report) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for _, done in report.results(Exported):
        runtime = TARGETS[done.runtime].title if done.runtime in TARGETS else done.runtime
        exact = f"{done.exact:,} of {done.weights:,} quantized weights hold every value that was simulated"
        blocks.append(
            Text(
                f"For {runtime}: {size(done.size)}. Read back, {exact}; largest relative error {done.error:.2g}."
            )
        )
        rows = tuple((file.name, size(file.size), file.sha256) for file in done.files)
        blocks.append(Table(("File", "Size", "SHA-256"), rows, (1,)))
    return tuple(blocks)


def _origins(report: Report) -> tuple[Block, ...]:
    rows = tuple(
        (run.key[:SHOWN], _title(run), _when(run), _machine(run), run.note.strip() or "–")
        for run in report.runs
    )
    versions: dict[str, set[str]] = {}
    sources = [run.origin.libraries for run in report.runs if run.origin] + [report.recipe.libraries]
    for libraries in sources:
        for name, version in libraries.items():
            versions.setdefault(name, set()).add(version)
    found = tuple((name, ", ".join(sorted(versions[name]))) for name in sorted(versions, key=str.lower))
    first: Block = Text("No stored results: all figures are the recipe's own.")
    if rows:
        first = Table(("Run", "What", "When (UTC)", "On", "Note"), rows)
    return (first, Table(("Library", "Versions in use"), found)) if found else (first,)


def _title(run: Run) -> str:
    if run.kind == "sensitivity" and isinstance(run.result, ScoreTable) and not run.result.fisher:
        return TITLES["measured"]
    return TITLES.get(
        run.kind, {"rescore": "Scores of more formats", "export": "Export"}.get(run.kind, run.kind)
    )


def _when(run: Run) -> str:
    return f"{datetime.fromtimestamp(run.created, UTC):%Y-%m-%d %H:%M}"


def _machine(run: Run) -> str:
    origin = run.origin
    if origin is None:
        return "not recorded"
    threads = f"{origin.threads} thread{'s' if origin.threads > 1 else ''}" if origin.threads else ""
    return ", ".join(part for part in (origin.hardware, origin.device, threads, origin.system) if part)


def _commands(report: Report) -> tuple[Block, ...]:
    blocks: list[Block] = [Verbatim("", command) for command in report.commands]
    if not report.solved:
        blocks.insert(
            0, Text("Start from the recipe's file: no budget with the stored scores alone leads to it.")
        )
    again = [run.key for run in report.runs if run.kind in KINDS and run.kind != "speed"]
    if again:
        blocks.append(Text("A stored result is worked out anew, and compared figure by figure, by its run:"))
        blocks.append(Verbatim("", f"python -m quant_core reproduce {again[-1][:8]}"))
    if report.table is not None and not report.table.text_label.startswith("bundled"):
        blocks.append(Text(f"Scores are from {report.table.text_label}: add --text FILE with that text."))
    return tuple(blocks)


def _pm(value: float | None, error: float | None) -> str:
    """A value with its 95 % interval."""
    return "–" if value is None else f"{number(value)} ± {number(INTERVAL * (error or 0.0), 2)}"
