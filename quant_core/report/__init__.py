"""What was decided and measured about a recipe, as a report to read and to check: HTML, Markdown, a model card.

``gather`` collects facts from the store, ``compose`` makes a document of them, and ``html`` and ``markdown`` write it.
Only the two writers know of markup, and they escape every text: no other part can get it wrong.
"""

from quant_core.report.card import card
from quant_core.report.compose import compose
from quant_core.report.facts import Report
from quant_core.report.gather import gather
from quant_core.report.html import to_html
from quant_core.report.markdown import to_markdown

__all__ = ["Report", "card", "compose", "gather", "to_html", "to_markdown"]
