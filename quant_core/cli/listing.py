"""The command that lists what there is to choose from: number formats, rounding, and what lies beyond weights."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence

from quant_core import schema
from quant_core.cli.terminal import say, say_json
from quant_core.names import granularities
from quant_core.schema import FamilyInfo, MethodInfo
from quant_core.workspace import Workspace

WIDTH = 100


def formats(workspace: Workspace, options: argparse.Namespace) -> int:
    """List families and methods with their help and sources."""
    catalog = workspace.catalog
    if options.json:
        say_json(schema.dump(catalog))
        return 0
    for kind in dict.fromkeys(family.kind for family in catalog.families):
        say(f"Number formats: {kind}")
        for family in catalog.families:
            if family.kind == kind:
                _say_entry(family.name, f"{family.title}. {family.help}", family.source, _parts(family))
        say()
    for title, methods in (
        ("Rounding (FORMAT@NAME)", catalog.methods), ("Transforms (--transform NAME)", catalog.transforms),
        ("Activations (--activations NAME)", catalog.activations), ("KV cache (--kv-cache NAME)", catalog.kv_caches),
    ):  # fmt: skip
        if methods:
            say(title)
            _say_methods(methods)
            say()
    return 0


def _say_methods(methods: Sequence[MethodInfo]) -> None:
    for method in methods:
        choices = [f"{option.name}={'|'.join(option.choices)}: {option.help}" for option in method.options]
        refused = f"Not for {', '.join(method.except_for)}." if method.except_for else ""
        _say_entry(method.name, f"{method.title}. {method.help}", method.source, *choices, refused)


def _parts(family: FamilyInfo) -> str:
    """What may stand behind the family's name."""
    choices = ["|".join(granularities(family)), "|".join(family.symmetries), "dq" if family.double else ""]
    return "".join(f"[/{choice}]" for choice in choices if choice)


def _say_entry(name: str, *lines: str) -> None:
    """A name, and indented below it what is to know; lines that are empty are left out."""
    say(f"  {name}")
    for line in filter(None, lines):
        say(textwrap.fill(line, WIDTH, initial_indent="      ", subsequent_indent="      "))
