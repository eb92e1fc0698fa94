"""Pages without a server or an engine: a home folder with a made model's results, jobs of any state, a page opened."""

from __future__ import annotations

import os
from pathlib import Path

from streamlit.testing.v1 import AppTest

from quant_core.schema import (
    CALIBRATION,
    ChannelsRequest,
    Evaluation,
    Generation,
    Job,
    LayerRequest,
    ModelInfo,
    ModelRef,
    Request,
    Result,
    SensitivityRequest,
    replace,
)
from quant_core.store import Store
from quant_core.workspace import DEFAULT_FORMATS, Workspace, browser_roots
from tests import made_results
from ui.weight_view import BINS

ROOT = Path(__file__).parents[1]

MEASURED = Evaluation(
    kl_mean=0.0344, kl_stderr=0.0011, kl_median=0.021, kl_p99=0.19, perplexity=44.1, perplexity_stderr=3.1,
    perplexity_original=43.1, perplexity_original_stderr=3.0, top1_agreement=0.885, tokens=4080, sequences=16,
    text_hash="e" * 24, text_label="bundled evaluation text", seconds=14.0,
)  # fmt: skip
WRITTEN = Generation((" had", " a", " house"), (" had", " no", " home"), 1, 0, 2.0)


def seed(
    home: Path, tables: bool = True, blocks: int = 8, experts: int = 0, views: int | None = None
) -> ModelInfo:
    """Fill ``home``: the made model as the bundled one, its layers in a few formats and, if asked, two sweeps.

    ``views`` bounds how many layers can be looked at: those of a large model take long to write.
    """
    workspace = Workspace(home, roots=browser_roots())
    store = Store(home)
    info = made_results.model(blocks, experts=experts)
    store.results.put(workspace.inspect_request(ModelRef("bundled")), info)
    for unit in info.units[:views]:
        for name in (*made_results.FORMATS, "int4/channel/sym", "original"):
            layer = LayerRequest(info.ref, info.fingerprint, (unit.name,), (name,), BINS)
            store.results.put(layer, made_results.layer_view(unit.name, name))
        ranges = made_results.channel_ranges(unit)
        store.results.put(ChannelsRequest(info.ref, info.fingerprint, unit.name), ranges)
    if tables:
        names = tuple(workspace.parse_format(family).name for family in DEFAULT_FORMATS)
        request = SensitivityRequest(info.ref, info.fingerprint, names, CALIBRATION)
        store.results.put(replace(request, score="measured"), made_results.table(info, measured=True))
        store.results.put(request, made_results.table(info))
    store.close()
    workspace.close()
    return info


def open_page(stem: str, **query: str) -> AppTest:
    """A page after a link with this query string.

    The root leads to the start page, and where the query names a model to the model page.
    """
    if stem == "model":
        query = {"model": "bundled", **query}
    app = AppTest.from_file(ROOT / "app.py", default_timeout=30)
    app.query_params.update(query)
    app.run()
    if stem != ("model" if "model" in query else "start"):
        app.query_params.update(query)
        app.switch_page(f"pages/{stem}.py").run()
    assert not app.exception, app.exception[0].message
    return app


def keep(home: Path, request: Request, result: Result) -> None:
    """Store an answer as if it had been computed."""
    store = Store(home)
    store.results.put(request, result)
    store.close()


def job(home: Path, request: Request, state: str, message: str = "", hint: str = "") -> Job:
    """A job in the store in any state; an active one counts as served by this very process."""
    store = Store(home)
    store.place.assign(os.getpid(), ready=True)
    added = store.jobs.add(request)
    store.jobs.take(added.id)
    store.jobs.begin(added.id)
    if state == "failed":
        store.jobs.fail(added.id, message, hint)
    elif state == "cancelled":
        store.jobs.cancelled(added.id)
    else:
        store.jobs.report(added.id, 0.42, message)
    found = store.jobs.get(added.id)
    store.close()
    return found


def texts(app: AppTest) -> str:
    """Everything that a reader could read, in one string."""
    parts = [*app.title, *app.markdown, *app.caption, *app.error, *app.warning, *app.info, *app.subheader]
    return "\n".join(str(part.value) for part in parts)
