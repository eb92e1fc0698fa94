"""What a run found, in figures that can be set beside another's: a name and a value with its unit a line."""

from __future__ import annotations

import numpy as np

from quant_core.ballots import tally
from quant_core.contrast import main_score
from quant_core.schema import (
    Check,
    ChoiceScores,
    ChoicesRequest,
    EvaluateRequest,
    Evaluation,
    Generation,
    KlTails,
    PromptTexts,
    Proof,
    Result,
    Run,
    ScoreTable,
    ServedText,
    Speeds,
    Training,
)
from quant_core.significance import Accuracy, paired
from quant_core.store.runs import seconds_of
from ui import runs_words, words
from ui.compare_speed import measured
from ui.jobs import workspace


def figures(run: Run) -> dict[str, str]:
    """The figures of a run's answer, how long it took, and the text that was read."""
    found = _found(run)
    return {**found, "Took": words.duration(seconds_of(run.result)), **_text(run.result)} if found else {}


def _found(run: Run) -> dict[str, str]:
    result = run.result
    match result:
        case ScoreTable():
            values = result.scores(main_score(result)) or ((0.0,),)
            return {
                "Layers": f"{len(result.units):,}",
                "Formats": f"{len(result.formats)}",
                "Largest KL of a layer": words.nats(max(map(max, values))),
                "Median KL of a layer": words.nats(float(np.median(np.array(values)))),
            }
        case Evaluation():
            return {
                "KL, mean": _spread(result.kl_mean, result.kl_stderr, "nats/token"),
                "KL, 99th percentile": words.nats(result.kl_p99),
                "Perplexity": _spread(result.perplexity, result.perplexity_stderr, "tokens"),
                "Perplexity of the original": _spread(
                    result.perplexity_original, result.perplexity_original_stderr, "tokens"
                ),
                "Same likeliest token": words.share(result.top1_agreement),
                "All weights": _size(run),
            }
        case Check() | ServedText():
            return runs_words.from_server(run)
        case Proof():
            means = [sum(row) / len(row) for row in result.kl if row]
            return {
                "Recipes": f"{len(means)}",
                "Least KL": words.nats(min(means)),
                "Largest KL": words.nats(max(means)),
            }
        case Generation():
            alike = result.divergence if result.divergence >= 0 else len(result.original)
            return {
                "Written": f"{len(result.original):,} tokens",
                "Same from the start": f"{alike:,} tokens",
            }
        case Training():
            return {
                "KL before": words.nats(result.kl_before),
                "KL after": words.nats(result.kl_after),
                "Steps": f"{result.steps:,}",
                "Tokens read": words.count(result.tokens),
            }
        case PromptTexts():
            return _vote(run, result)
        case ChoiceScores() if isinstance(run.request, ChoicesRequest):
            return _choices(run.request, result)
        case KlTails():
            return _tails(result)
        case Speeds():
            return {
                f"{name}, variant {number}": value
                for number, one in enumerate(result.variants, 1)
                for name, value in measured(one).items()
            }
        case _:
            return {}


def _vote(run: Run, result: PromptTexts) -> dict[str, str]:
    """How it was voted; the texts stay with the vote, where nobody sees whose they are."""
    same = sum(first == second for first, second in result.texts)
    votes = workspace().votes(run.key)
    found = {
        "Prompts": f"{len(result.texts):,}",
        "Written alike": f"{same:,} prompts, letter for letter",
        "Votes": f"{len(votes):,}, of {len({vote.voter for vote in votes}):,} voters",
    }
    if not votes:
        return found
    count = tally(votes)
    return {
        **found,
        "Votes for variant 1": words.share(count.first / len(votes)),
        "Votes for variant 2": words.share(count.second / len(votes)),
        "Votes for no difference": words.share(count.same / len(votes)),
        "Prompts won by variant 1": f"{count.first_prompts:,}",
        "Prompts won by variant 2": f"{count.second_prompts:,}",
        "Chance of such a split": f"p = {count.p:.2g} (sign test)",
    }


def _choices(request: ChoicesRequest, result: ChoiceScores) -> dict[str, str]:
    found = {"Questions": f"{len(request.questions):,}", "Shortened to fit": f"{result.cut:,} questions"}
    for name, per_byte in (("likeliest", False), ("likeliest per byte", True)):
        pair = paired(request.questions, result.original, result.recipe, per_byte)
        found |= {
            f"Right, {name}: original": _accuracy(pair.original),
            f"Right, {name}: recipe": _accuracy(pair.recipe),
            f"Lost and won, {name}": f"{pair.lost:,} and {pair.won:,} (McNemar, p = {pair.p:.2g})",
        }
    return found


def _accuracy(found: Accuracy) -> str:
    low, high = found.interval
    return f"{words.share(found.share)} ({words.share(low)} to {words.share(high)})"


def _tails(result: KlTails) -> dict[str, str]:
    found = {
        "Mean": words.nats(result.mean),
        **{
            name: f"{words.significant(value)} nats"
            for name, value in (
                ("Median", result.median), ("90 % below", result.p90), ("99 % below", result.p99),
                ("99.9 % below", result.p999), ("Largest", result.maximum),
            )
        },
        "Over 0.1 nats": f"{words.share(result.over)} of the tokens",
    }  # fmt: skip
    if result.worst:
        worst = result.worst[0]
        found["Worst token"] = f"“{worst.token.strip() or '␣'}” after “… {worst.before[-40:].strip()}”"
    return found


def _text(result: Result) -> dict[str, str]:
    """What was read, by its name, with its hash, which is the same for the same text; nothing where none was."""
    label, hashed = getattr(result, "text_label", ""), getattr(result, "text_hash", "")
    return {"Text": f"{label}, hash {words.fingerprint(hashed)}"} if hashed else {}


def _spread(value: float, stderr: float, unit: str) -> str:
    return f"{words.significant(value, 4)} ± {words.significant(stderr, 2)} {unit}"


def _size(run: Run) -> str:
    """Size of all weights under the recipe that was measured; where the model is not known, that."""
    info = workspace().known_model(run.fingerprint)
    if info is None or not isinstance(run.request, EvaluateRequest):
        return "the model is not known here"
    info = workspace().rewritten(info, run.request.setup.transforms)
    return words.size(workspace().assigned_bytes(info, run.request.assignment))
