"""Export: the model under the recipe for a runtime, the recipe as a file, and the commands that reproduce it."""

from ui import export_files, export_report, export_tools
from ui.compare_page import recipe_or_hint
from ui.entry import ensure_entry, link
from ui.export_page import commands, downloads, file_name, summary
from ui.widgets import empty_state, model_header

ensure_entry("export")
info = model_header(
    "Export", "Take the recipe with you: files that runtimes serve, or the recipe for other programs."
)
recipe = recipe_or_hint(info)

if recipe is None:
    empty_state("There is no recipe yet.", "recipe", "Make a recipe")
else:
    summary(info, recipe)
    export_files.panel(info, recipe, file_name(info, recipe))
    downloads(info, recipe)
    export_tools.panel(info, recipe)
    export_report.panel(info, recipe, file_name(info, recipe))
    commands(info, recipe)
    link("compare", "Read its text once more")
