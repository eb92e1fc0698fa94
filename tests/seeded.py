"""A home folder that already holds a made model's results, for pages that are tested without an engine."""

from __future__ import annotations

from pathlib import Path

from streamlit.testing.v1 import AppTest

from quant_core.schema import CALIBRATION, LayerRequest, ModelInfo, ModelRef, SensitivityRequest, replace
from quant_core.store import Store
from quant_core.workspace import Workspace, browser_roots
from tests import made_results
from ui.entry import ROOT
from ui.layers import BINS

FAMILIES = ("int2", "int3", "int4", "int5", "int6", "int8", "nf4")
"""What the form of a sweep asks for unless it is told otherwise."""


def seed(home: Path, tables: bool = True, blocks: int = 8) -> ModelInfo:
    """Fill ``home``: the made model as the bundled one, its layers in a few formats and, if asked, two sweeps."""
    workspace = Workspace(home, roots=browser_roots())
    store = Store(home)
    info = made_results.model(blocks)
    store.results.put(workspace.inspect_request(ModelRef("bundled")), info)
    for unit in info.units:
        for name in (*made_results.FORMATS, "int4/channel/sym", "original"):
            layer = LayerRequest(info.ref, info.fingerprint, unit.name, name, BINS)
            store.results.put(layer, made_results.layer_view(unit.name, name))
    if tables:
        names = tuple(workspace.parse_format(family).name for family in FAMILIES)
        request = SensitivityRequest(info.ref, info.fingerprint, names, CALIBRATION)
        store.results.put(replace(request, score="measured"), made_results.table(info, measured=True))
        store.results.put(request, made_results.table(info))
    store.close()
    workspace.close()
    return info


def open_page(stem: str, **query: str) -> AppTest:
    """The page as a link with this query opens it."""
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    app.query_params.update(query)
    app.run()
    app.query_params.update(query)
    app.switch_page(f"pages/{stem}.py").run()
    assert not app.exception
    return app
