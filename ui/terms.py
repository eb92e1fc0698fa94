"""What a recipe has to meet beside its budget, as the URL carries it: target runtime, limits, rules, and use."""

from __future__ import annotations

import re

from quant_core.schema import Limits, ModelInfo, Rule, Terms, Use, replace
from quant_core.targets import TARGETS
from quant_core.targets.hardware import machines
from ui import setup, state
from ui.jobs import workspace

_RULE = re.compile(r"([^;=>]{1,200})(?:>=(\d{1,2}(?:\.\d{1,4})?)|=(\w{1,40}(?:\+\w{1,40}){0,40}))")


def _read_rules(text: str) -> tuple[Rule, ...]:
    found = []
    for part in text.split(";"):
        match = _RULE.fullmatch(part)
        if match is None:
            raise ValueError(text)
        families = tuple(match[3].split("+")) if match[3] else ()
        found.append(Rule(match[1], float(match[2] or 0), families))
    return tuple(found)


def _write_rules(rules: tuple[Rule, ...]) -> str:
    return ";".join(
        f"{rule.pattern}={'+'.join(rule.families)}"
        if rule.families
        else f"{rule.pattern}>={rule.least_bits:g}"
        for rule in rules
    )


TARGET = state.choice_param("target", "the target runtime", tuple(TARGETS))
RULES: state.Param[tuple[Rule, ...]] = state.Param("rules", (), _read_rules, "the rules", _write_rules)
BATCH = state.integer_param("batch", "the number of sequences", 1, 1, 4096)
HARDWARE = state.choice_param("hardware", "the hardware", ("", *machines()))
MOST_BITS = state.number_param("most-bits", "the limit on average bits", 0, 0, 64)
MOST_SIZE = state.number_param("most-mb", "the limit on the size", 0, 0, 1e8)
MEMORY = state.number_param("memory", "the limit on memory", 0, 0, 1e8)
ACTIVE = state.number_param("active", "the limit on bytes read for a token", 0, 0, 1e8)
MILLISECONDS = state.number_param("ms", "the limit on time for a token", 0, 0, 1e6)
"""Limits are in megabytes and milliseconds; 0 sets none."""


def use(info: ModelInfo) -> Use:
    """How the model is to run."""
    cache = workspace().cache_bits(info, setup.current(info))
    return Use(state.CONTEXT.get(), BATCH.get(), cache, HARDWARE.get())


def current(info: ModelInfo) -> Terms:
    """The terms that are asked for; how the model runs is part of them only where a limit depends on it."""
    limits = Limits(
        bits=MOST_BITS.get(),
        bytes=MOST_SIZE.get() * 1e6,
        memory=MEMORY.get() * 1e6,
        active=ACTIVE.get() * 1e6,
        milliseconds=MILLISECONDS.get() if HARDWARE.get() else 0.0,
    )
    return bare(Terms(TARGET.get(), RULES.get(), limits, use(info)))


def bare(terms: Terms) -> Terms:
    """Terms without what no limit depends on."""
    limits = terms.limits
    return terms if limits.memory or limits.active or limits.milliseconds else replace(terms, use=Use())


def take(terms: Terms) -> None:
    """Ask for these terms."""
    TARGET.set(terms.target if terms.target in TARGETS else TARGET.default)
    RULES.set(terms.rules)
    MOST_BITS.set(terms.limits.bits)
    MOST_SIZE.set(terms.limits.bytes / 1e6)
    MEMORY.set(terms.limits.memory / 1e6)
    ACTIVE.set(terms.limits.active / 1e6)
    MILLISECONDS.set(terms.limits.milliseconds)
    if bare(terms).use != Use():
        state.CONTEXT.set(terms.use.context)
        BATCH.set(terms.use.batch)
        HARDWARE.set(terms.use.hardware if terms.use.hardware in machines() else HARDWARE.default)
