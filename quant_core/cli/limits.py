"""What ``recipe`` is asked to meet (budgets, target, rules), and what it says of them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

from quant_core.allocation.usage import Usage
from quant_core.cli.terminal import number, say
from quant_core.cli.work import UsageError
from quant_core.registry import unknown_name
from quant_core.schema import Budget, Limits, ModelInfo, Rule, ScoreTable, Setup, Terms, Use, replace
from quant_core.workspace import Workspace

NO_LIMIT = 1024.0
"""Average bits that no recipe reaches: the budget where only other limits are given."""


def given(options: argparse.Namespace) -> bool:
    """Whether the command line names any budget."""
    return any((options.bits, options.megabytes, options.memory, options.active, options.milliseconds))


def read(workspace: Workspace, options: argparse.Namespace) -> tuple[Budget, Terms]:
    """The budget and all other terms of the command line; ``UsageError`` where they make no sense."""
    if not given(options):
        raise UsageError("one of --bits, --megabytes, --memory, --active, --milliseconds is needed")
    if options.milliseconds and not options.hardware:
        raise UsageError("--milliseconds needs --hardware")
    for name, kind, known in (
        (options.target, "target runtime", workspace.targets),
        (options.hardware or next(iter(workspace.machines)), "hardware profile", workspace.machines),
    ):
        if name not in known:
            raise UsageError(str(unknown_name(kind, name, dict(known))))
    size = [Budget("bits", options.bits)] if options.bits else []
    size += [Budget("bytes", options.megabytes * 1e6)] if options.megabytes else []
    limits = Limits(
        bytes=options.megabytes * 1e6 if options.bits and options.megabytes else 0.0,
        memory=(options.memory or 0.0) * 1e6,
        active=(options.active or 0.0) * 1e6,
        milliseconds=options.milliseconds or 0.0,
    )
    use = Use(options.context, options.batch, hardware=options.hardware)
    return (size or [Budget("bits", NO_LIMIT)])[0], Terms(
        options.target, rules(workspace, options), limits, use
    )


def rules(workspace: Workspace, options: argparse.Namespace) -> tuple[Rule, ...]:
    """The rules of ``--never-below`` and ``--only``."""
    found = []
    for text in options.never_below:
        pattern, _, bits = text.rpartition("=")
        try:
            least = float(bits)
        except ValueError:
            least = math.nan
        if not (pattern and math.isfinite(least) and least > 0):
            raise UsageError(f"--never-below {text!r} is not PATTERN=BITS")
        found.append(Rule(pattern, least_bits=least))
    known = [family.name for family in workspace.catalog.families]
    for text in options.only:
        pattern, _, names = text.rpartition("=")
        families = tuple(name.strip() for name in names.split(",") if name.strip())
        if not (pattern and families):
            raise UsageError(f"--only {text!r} is not PATTERN=FAMILY,...")
        for name in families:
            if name not in known:
                raise UsageError(str(unknown_name("number format", name, known)))
        found.append(Rule(pattern, families=families))
    return tuple(found)


def with_cache(workspace: Workspace, info: ModelInfo, setup: Setup, terms: Terms) -> Terms:
    """The terms with the bits that a cached value takes under a setup."""
    bits = workspace.cache_bits(info, setup)
    return replace(terms, use=replace(terms.use, cache_bits=bits))


def ruled_out(
    workspace: Workspace, info: ModelInfo, table: ScoreTable, formats: Sequence[str], terms: Terms
) -> str:
    """What the target rules out, in a line; empty without one."""
    return workspace.target_summary(terms.target, info, table.units, formats)


def figures(usage: Usage) -> dict[str, Any]:
    """What a recipe takes while the model runs, for JSON; sizes in bytes."""
    return {
        "memory_bytes": usage.memory,
        "cache_bytes": usage.cache,
        "activation_bytes": usage.activations,
        "active_bytes": usage.active,
        "milliseconds": usage.milliseconds,
    }


def say_usage(usage: Usage, terms: Terms) -> None:
    """Memory, bytes read and, with a machine, time for a token."""
    use = terms.use
    say(
        f"in use at {use.context:,} tokens x {use.batch}: {usage.memory / 1e6:.2f} MB "
        f"(KV cache {usage.cache / 1e6:.2f}, activations {usage.activations / 1e6:.2f}); "
        f"read for a token: {usage.active / 1e6:.2f} MB"
    )
    if usage.milliseconds is not None:
        say(f"predicted on {use.hardware}: {number(usage.milliseconds, 3)} ms a token, by the roofline model")
