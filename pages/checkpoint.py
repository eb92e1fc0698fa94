"""Checkpoint: what a quantized model of somebody else's holds, layer by layer, beside its original."""

from ui import checkpoint_page
from ui.entry import ensure_entry
from ui.widgets import try_header

ensure_entry("checkpoint")
info = try_header("Checkpoint", "Open a model that somebody quantized: what it holds, and how far it is off.")
checkpoint_page.show(info)
