"""Start: the ways to a model, one button to a proved recipe, and what was done before."""

from ui import recent_models, recommend
from ui.entry import ensure_entry
from ui.start_page import at_hand, cards, opened
from ui.widgets import page_title

ensure_entry("start")
page_title(
    "Start", "Open a language model, or go on with one; then one button finds and proves its best recipe."
)
cards()
info = at_hand()
opened(info)
if info is not None:
    recommend.panel(info)
recent_models.table()
