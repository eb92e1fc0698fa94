"""A model card for a hub: YAML front matter, then the first page of the report in Markdown.

The keys are the Hub's (https://huggingface.co/docs/hub/model-cards); ``quantization`` is ours and says what was done.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import yaml

from quant_core.report.compose import compose
from quant_core.report.document import Section, clean
from quant_core.report.facts import Report
from quant_core.report.markdown import to_markdown
from quant_core.schema import Exported, replace

LIBRARIES = {"gguf": "gguf", "mlx": "mlx"}
"""What opens an export, where it is not transformers."""
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_SECTIONS = ("Recipe", "Predicted and measured", "Files", "The same again")


def card(report: Report) -> str:
    """``README.md`` of the quantized model; what is not known (licence, hub id of the original) is left out."""
    document = compose(report)
    sections: tuple[Section, ...] = tuple(one for one in document.appendix if one.title in _SECTIONS)
    text = to_markdown(replace(document, appendix=sections)).replace("\n## Appendix\n", "\n## Details\n", 1)
    head = yaml.safe_dump(front_matter(report), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{head}---\n\n{text}"


def front_matter(report: Report) -> dict[str, Any]:
    """The card's keys."""
    recipe, measured = report.recipe, report.evaluation
    runtimes = [done.runtime for _, done in report.results(Exported)]
    counts = Counter(entry.format for entry in recipe.units.values())
    hub = bool(_HUB.fullmatch(recipe.model))
    quantization: dict[str, Any] = {
        "average_bits": round(recipe.average_bits, 4),
        "bytes": round(recipe.total_bytes),
        "layers": {form: counts[form] for form in sorted(counts)},
    }
    if measured is not None:
        quantization["kl_nats_per_token"] = float(f"{measured.kl_mean:.4g}")
        quantization["measured_on"] = clean(f"{measured.tokens} tokens of {measured.text_label}")
    return {
        **({"base_model": recipe.model, "base_model_relation": "quantized"} if hub else {}),
        **({"license": clean(report.licence)} if report.licence else {}),
        "library_name": LIBRARIES.get(runtimes[0], "transformers") if runtimes else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["quantized", "mixed-precision", "quantlens", *dict.fromkeys(runtimes)],
        "quantization": quantization,
    }
