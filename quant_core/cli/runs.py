"""The command for what was scored, measured, written or trained: list it, take it along as one file, bring it in."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from quant_core import schema
from quant_core.cli.terminal import ProgressBar, number, say, say_json, say_table
from quant_core.cli.work import check_writable
from quant_core.errors import QuantError
from quant_core.schema import Reproduction, RunLine
from quant_core.workspace import Workspace

SHOWN = 8
"""Digits of a key in the table; any beginning that is one run's alone names it."""


def listing(workspace: Workspace, options: argparse.Namespace) -> int:
    """List all runs, the newest first."""
    lines = workspace.runs()
    if options.json:
        say_json({"runs": [schema.dump(line) for line in lines]})
        return 0
    if not lines:
        say("There are no runs yet. Start with: python -m quant_core sensitivity bundled")
        return 0
    rows = [
        (line.key[:SHOWN], line.title, line.model, f"{datetime.fromtimestamp(line.created):%Y-%m-%d %H:%M}",
         f"{line.seconds:.1f} s", f"{line.finding.label} {number(line.finding.value)} {line.finding.unit}",
         " ".join(line.note.split())[:40])
        for line in lines
    ]  # fmt: skip
    say_table(("run", "kind", "model", "when", "took", "found", "note"), rows)
    return 0


def export(workspace: Workspace, options: argparse.Namespace) -> int:
    """Write runs as one zip file, whole or not at all."""
    file: Path = options.out
    check_writable(file)
    keys = [_key(workspace.runs(), text) for text in options.run]
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("wb") as target:
            workspace.export_runs(keys, target)
        part.replace(file)
    except OSError as error:
        raise QuantError(
            f"{str(file)!r} cannot be written: {error.strerror}.", "Choose another place."
        ) from error
    finally:
        part.unlink(missing_ok=True)
    if options.json:
        say_json({"file": str(file), "runs": keys, "bytes": file.stat().st_size})
    else:
        say(f"{len(keys)} runs, {file.stat().st_size / 1e6:.2f} MB: {file}")
    return 0


def bring_in(workspace: Workspace, options: argparse.Namespace) -> int:
    """Store the runs of a file that ``export`` wrote."""
    try:
        with options.file.open("rb") as source:
            found = workspace.import_runs(source)
    except OSError as error:
        raise QuantError(
            f"The file {str(options.file)!r} cannot be read: {error.strerror}.", "Check its name."
        ) from error
    if options.json:
        say_json({"runs": found.keys, "added": len(found.added), "votes": found.votes})
    else:
        here = len(found.keys) - len(found.added)
        votes = f" {found.votes} votes came along." if found.votes else ""
        say(f"{len(found.added)} runs added, {here} were here already.{votes}")
    return 0


def reproduce(workspace: Workspace, options: argparse.Namespace) -> int:
    """Work a run out anew and compare; exit with 1 where a figure differs by more than the tolerance."""
    file = Path(options.run)
    if not file.is_file():
        return _reproduced(workspace, [_key(workspace.runs(), options.run)], options)
    with tempfile.TemporaryDirectory(prefix="quantlens-", ignore_cleanup_errors=True) as folder:
        apart = Workspace(Path(folder), jobs=options.jobs)
        try:
            with file.open("rb") as source:
                keys = apart.import_runs(source).keys
            return _reproduced(apart, keys, options)
        finally:
            apart.close()


def _reproduced(workspace: Workspace, keys: Sequence[str], options: argparse.Namespace) -> int:
    found = []
    for key in keys:
        bar = ProgressBar()
        try:
            found.append(workspace.reproduce(key, options.model, options.tolerance, bar))
        finally:
            bar.clear()
    if options.json:
        say_json({"reproductions": [schema.dump(one) for one in found]})
    else:
        for one in found:
            _say_reproduction(one)
    return int(any(one.agreement == "different" for one in found))


def _say_reproduction(one: Reproduction) -> None:
    words = {
        "identical": "identical, to the last bit",
        "close": f"within {one.tolerance:.2g} of the stored figures",
        "different": f"different by more than {one.tolerance:.2g}",
    }
    say(f"{one.title} {one.key[:SHOWN]}: {words[one.agreement]}")
    rows = [
        (pair.name, pair.stored, pair.now, "-" if pair.share is None else f"{pair.share:.2g}", pair.agreement)
        for pair in one.figures
    ]
    say_table(("figure", "stored", "now", "differs by", ""), rows)
    for line in one.changes:
        say(f"Changed: {line}")
    if not one.changes:
        say("Versions, device, hardware, threads and system are the same.")


def _key(lines: Sequence[RunLine], text: str) -> str:
    """The key that begins with ``text``; ``QuantError`` if none or several do."""
    found = [line.key for line in lines if line.key.startswith(text)]
    if len(found) != 1:
        several = f"{len(found)} runs begin" if found else "No run begins"
        raise QuantError(f"{several} with {text!r}.", "The command 'runs' lists them.")
    return found[0]
