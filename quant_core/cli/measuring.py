"""Recipes measured from the command line: finalists proved, and the prediction calibrated."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from quant_core import schema
from quant_core.allocation.calibration import Calibration, Interval
from quant_core.allocation.proof import CLEAR, Place, ranking, verdict
from quant_core.allocation.references import Reference
from quant_core.cli.terminal import number, say, say_json, say_table, warn
from quant_core.cli.work import UsageError, chosen_setup, read_text, run, score_model
from quant_core.schema import (
    Budget,
    ModelInfo,
    Proof,
    ProveRequest,
    ScoreTable,
    Setup,
    Solution,
    Terms,
    TextSource,
)
from quant_core.workspace import Workspace

KL_SCORES = ("fisher", "measured")
COUNT = 4
"""Finalists unless told otherwise."""


@dataclass(frozen=True)
class Scored:
    """What a recipe is predicted and measured from."""

    workspace: Workspace
    options: argparse.Namespace
    info: ModelInfo
    table: ScoreTable
    setup: Setup
    held_out: TextSource

    def request(self, assignments: Sequence[Mapping[str, str]]) -> ProveRequest:
        """The job that measures recipes on the held-out text."""
        tokens = self.options.held_out_tokens
        return self.workspace.prove_request(self.info, assignments, self.setup, self.held_out, tokens)

    def calibration_request(self) -> ProveRequest:
        """The job that measures the recipes to calibrate on."""
        return self.request(self.workspace.calibration_recipes(self.info, self.table, self.options.score))

    @cached_property
    def _learned(self) -> Calibration | None:
        request = self.calibration_request()
        return self.workspace.calibrated(self.info, self.table, request, self.options.score)

    def interval(self, solution: Solution) -> dict[str, Any] | None:
        """The prediction with its 95 % interval and whether it is calibrated; None where no KL is predicted.

        Calibrated once ``calibrate`` has run for these scores; else the interval is their sampling error alone.
        """
        if self.options.score not in KL_SCORES:
            return None
        if self._learned is not None:
            args = (self.info, self.table, self._learned, solution.assignment, self.options.score)
            return self.workspace.interval(*args)._asdict() | {"calibrated": True}
        reach = CLEAR * solution.predicted_stderr
        kl = solution.predicted_kl
        return Interval(kl, max(kl - reach, 0.0), kl + reach)._asdict() | {"calibrated": False}


@dataclass(frozen=True)
class Contender:
    """A recipe that is measured."""

    name: str
    solution: Solution
    place: Place | None
    """None for one that breaks a limit, and cannot win."""
    kl: float
    stderr: float


@dataclass(frozen=True)
class Proved:
    """Who won; the contenders come by their place, those that cannot win last."""

    contenders: list[Contender]
    proof: Proof

    @property
    def winner(self) -> Solution:
        """The measured best that keeps all limits."""
        return self.contenders[0].solution

    @property
    def verdict(self) -> str:
        """Whether the winner is ahead by more than the uncertainty."""
        return verdict([one.place for one in self.contenders if one.place])


def prove(
    scored: Scored, budget: Budget, pins: Mapping[str, str], formats: list[str], terms: Terms
) -> Proved:
    """Measure the best recipes by prediction side by side with those by rule; raises like ``Workspace.solve``."""
    desk, options, info, table = scored.workspace, scored.options, scored.info, scored.table
    asked = {"pins": pins, "score": options.score, "formats": formats, "terms": terms}
    best = desk.finalists(info, table, budget, **asked, count=options.prove)
    names = [f"predicted number {place + 1}" if place else "predicted best" for place in range(len(best))]
    rules = desk.references(info, table, best[0].average_bits, options.score)
    kept = desk.keeping(info, table, [one.solution.assignment for one in rules], budget, **asked)
    uniform = [
        place
        for place, one in enumerate(rules)
        if one.kind == "uniform" and (kept[place] or one.solution.total_bytes <= best[0].total_bytes)
    ]
    shown = min(
        uniform, key=lambda place: (not kept[place], rules[place].solution.predicted_kl), default=None
    )
    fits = [True] * len(best)
    for place, one in enumerate(rules):
        known = any(one.solution.assignment == other.assignment for other in best)
        if not known and (one.kind != "uniform" or place == shown):
            best.append(one.solution)
            names.append(_called(one))
            fits.append(kept[place])
    proof: Proof = run(desk, scored.request([one.assignment for one in best]))
    if proof.text_hash == table.text_hash:
        warn("This is the text the scores were made on; measure on another one for an honest figure.")
    every = {place.recipe: place for place in ranking(proof.kl)}
    inside = [index for index, fit in enumerate(fits) if fit]
    places = [
        place._replace(recipe=inside[place.recipe])
        for place in ranking([proof.kl[index] for index in inside])
    ]
    order = [*places, *(every[index] for index, fit in enumerate(fits) if not fit)]
    return Proved(
        [
            Contender(
                names[place.recipe],
                best[place.recipe],
                place if fits[place.recipe] else None,
                place.kl,
                place.stderr,
            )
            for place in order
        ],
        proof,
    )


def _called(one: Reference) -> str:
    """A recipe by rule in words."""
    if one.kind == "uniform":
        return f"{one.form} everywhere"
    return f"edges {one.edge}, rest {one.form}" if one.kind == "edges" else one.form


def as_json(scored: Scored, proved: Proved) -> dict[str, Any]:
    """The proof for JSON; the first of the recipes has won."""
    return {
        "tokens": proved.proof.tokens,
        "text": proved.proof.text_label,
        "verdict": proved.verdict,
        "recipes": [
            {
                "name": one.name,
                "place": index + 1 if one.place else None,
                "within_limits": one.place is not None,
                "average_bits": one.solution.average_bits,
                "bytes": one.solution.total_bytes,
                "predicted": scored.interval(one.solution),
                "measured_kl": one.kl,
                "measured_stderr": one.stderr,
                "behind": one.place.behind if one.place else None,
                "behind_stderr": one.place.behind_stderr if one.place else None,
                "tied": one.place.tied if one.place else None,
                "assignment": dict(one.solution.assignment),
            }
            for index, one in enumerate(proved.contenders)
        ],
        "notes": proved.proof.notes,
    }


def say_predicted(summed: float | None, predicted: Mapping[str, Any]) -> None:
    """The prediction in a line: the sum of scores, and its interval or what calibration makes of it."""
    low, high = number(predicted["low"], 2), number(predicted["high"], 2)
    if predicted["calibrated"]:
        say(f"predicted KL {number(predicted['kl'])} nats a token, {low} to {high} (95 %), calibrated; "
            f"sum of scores {number(summed)}")  # fmt: skip
    else:
        say(
            f"predicted KL {number(summed)} nats a token, {low} to {high} (95 %, sampling error of the scores alone)"
        )


def say_proof(scored: Scored, proved: Proved) -> None:
    """Who won, in a table."""
    say(
        f"measured on {proved.proof.tokens:,} tokens of {proved.proof.text_label}; KL in nats a token, ± 95 %"
    )
    rows = []
    for index, one in enumerate(proved.contenders):
        found = scored.interval(one.solution)
        behind = (
            f"+{number(one.place.behind, 3)} ± {number(CLEAR * one.place.behind_stderr, 2)}"
            if one.place
            else "-"
        )
        rows.append(
            (
                f"{index + 1}. {one.name}" if one.place else f"   {one.name} (breaks a limit)",
                f"{one.solution.average_bits:.3f}",
                f"{number(found['kl'])} ({number(found['low'], 2)} to {number(found['high'], 2)})"
                if found
                else "-",
                f"{number(one.kl)} ± {number(CLEAR * one.stderr, 2)}",
                behind if index else "-",
                "tied" if index and one.place and one.place.tied else "",
            )
        )
    say_table(("recipe", "bits", "predicted KL", "measured KL", "behind the first", ""), rows)
    say(f"measured best: {proved.contenders[0].name}. {proved.verdict}".rstrip())


def calibrate(workspace: Workspace, options: argparse.Namespace) -> int:
    """Measure the recipes that calibrate the prediction, and say what it is corrected by."""
    if options.score not in KL_SCORES:
        raise UsageError(f"--score {options.score} predicts no KL; calibrate with {' or '.join(KL_SCORES)}")
    setup = chosen_setup(workspace, options, Setup())
    held_out = read_text(options.held_out, schema.EVALUATION)
    info, table, _ = score_model(workspace, options)
    scored = Scored(workspace, options, info, table, setup, held_out)
    request = scored.calibration_request()
    proof: Proof = run(workspace, request)
    found = workspace.calibrated(info, table, request, options.score)
    assert found is not None, "it was measured just now"
    points: list[dict[str, Any]] = []
    for assignment, row in zip(request.assignments, proof.kl, strict=True):
        solution = workspace.price(info, table, assignment, options.score)
        place = ranking([row])[0]
        points.append(
            {"average_bits": solution.average_bits, "summed_kl": solution.predicted_kl, "measured_kl": place.kl,
             "measured_stderr": place.stderr, "calibrated": scored.interval(solution)}
        )  # fmt: skip
    effects = np.exp(found.effects)
    factors = dict(zip(table.formats, effects[1:].tolist(), strict=False))
    if options.json:
        say_json(
            {"model": info.ref.source, "fingerprint": info.fingerprint, "score": options.score}
            | {
                "tokens": proof.tokens,
                "text": proof.text_label,
                "recipes": points,
                "common_factor": effects[0],
            }
            | {"format_factors": factors, "damage_exponent": found.effects[-1], "noise": found.noise}
            | {"notes": proof.notes}
        )
        return 0
    say(f"{info.title}: calibrated on {len(points)} recipes, {proof.tokens:,} tokens of {proof.text_label}")
    rows = [
        (f"{point['average_bits']:.3f} bits", number(point["summed_kl"]),
         f"{number(point['measured_kl'])} ± {number(CLEAR * point['measured_stderr'], 2)}",
         f"{number(point['calibrated']['kl'])} ({number(point['calibrated']['low'], 2)} to "
         f"{number(point['calibrated']['high'], 2)})")
        for point in points
    ]  # fmt: skip
    say_table(("recipe", "sum of scores", "measured KL, ± 95 %", "calibrated (95 %)"), rows)
    say(
        f"common factor {effects[0]:.3f}; "
        + ", ".join(f"{form} {value:.2f}" for form, value in factors.items())
    )
    return 0
