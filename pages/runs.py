"""Runs: every result with what it comes from; look, compare, keep a note, hand on, delete."""

from ui import runs_page
from ui.entry import ensure_entry
from ui.jobs import guarded, workspace

ensure_entry("runs")
runs_page.header()
runs_page.under_way()
lines = guarded(workspace().runs)

if not lines:
    if lines is not None:
        runs_page.nothing()
    runs_page.bring_in()
else:
    shown = runs_page.listing(lines)
    chosen = runs_page.chosen(lines, shown)
    if chosen is not None:
        run, other = chosen
        if other is not None:
            runs_page.both(run, other, lines)
        runs_page.one(run, next(line for line in lines if line.key == run.key))
