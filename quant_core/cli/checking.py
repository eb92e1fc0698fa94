"""The command that asks a server whether it still serves what was approved; for cron, a systemd timer, or by itself."""

from __future__ import annotations

import argparse
import time

from quant_core import schema, served
from quant_core.cli.terminal import complain, number, say, say_json
from quant_core.cli.work import open_model, read_recipe, read_text, run
from quant_core.errors import QuantError
from quant_core.schema import Check, CheckRequest, ModelInfo, Recipe
from quant_core.workspace import Workspace

ABOVE = 3
"""Exit code where the mean KL is above the limit; 1 says that it could not be measured."""


def check(workspace: Workspace, options: argparse.Namespace) -> int:
    """Compare an endpoint with a recipe, or with the original; once, or again and again until it is interrupted."""
    endpoint = served.endpoint(options.endpoint, options.served, options.key_variable)
    text = read_text(options.text, schema.EVALUATION)
    info = open_model(workspace, options)
    recipe = read_recipe(workspace, options.recipe, info) if options.recipe else None
    request = CheckRequest(
        info.ref, info.fingerprint, endpoint, recipe.assignment() if recipe else {}, options.limit, k=options.k,
        text=text, tokens=options.tokens, setup=recipe.setup if recipe else schema.Setup(),
    )  # fmt: skip
    while True:
        request = schema.replace(request, asked=served.now())
        try:
            code = _once(workspace, options, info, recipe, request)
        except QuantError as error:
            if not options.every:
                raise
            complain(error.message, error.hint)  # a server that is down now may be up next time
        else:
            if not options.every:
                return code
        time.sleep(options.every)


def _once(
    workspace: Workspace,
    options: argparse.Namespace,
    info: ModelInfo,
    recipe: Recipe | None,
    request: CheckRequest,
) -> int:
    found: Check = run(workspace, request)
    above = found.approved.mean > request.limit
    if options.json:
        verdict = served.verdict(found.approved, request.limit)
        say_json(
            {"endpoint": request.endpoint.address, "model": info.ref.source, "fingerprint": info.fingerprint,
             "asked": request.asked, "limit": request.limit, "verdict": verdict}
            | schema.dump(found)
        )  # fmt: skip
        return ABOVE if above else 0
    what = "the approved recipe" if recipe else "the original"
    say(f"{request.asked[:19]}Z {request.endpoint.address} ({found.served}): still {what} of {info.title}?")
    say(served.answer(found, request.limit))
    rows = [("KL to the approved", found.approved)] + (
        [("KL to the original", found.original)] if recipe else []
    )
    for name, one in rows:
        say(
            f"{name}: {number(one.mean)} nats/token, top-{found.k} (95 % interval {number(one.low)} to "
            f"{number(one.high)}; limit {number(request.limit)})"
        )
    say(
        f"Same likeliest token {found.top1_agreement:.1%}; the {found.k} named tokens hold {found.coverage:.1%} of the "
        f"server's probability; {found.tokens:,} tokens of {found.text_label}; {found.requests:,} requests in "
        f"{found.seconds:.1f} s."
    )
    for note in found.notes:
        say(f"Note: {note}")
    return ABOVE if above else 0
