"""The weights page under a real mouse, on a seeded store: three formats by a link, a box to zoom, a click to tell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from quant_core.schema import LayerRequest, WindowRequest
from tests import made_results
from tests.browser.served import Served, at_rest
from tests.served_pages import keep, seed
from ui.weight_view import BINS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
FORMS = ("int4/g64/asym", "int2/g64/asym", "nf4/g64")


def test_three_formats_by_a_link_then_zoom_and_reload(app: Served, page: Page) -> None:
    """Of eight by eight weights the middle four by four are boxed, from cell to cell."""
    home = Path(app.home)
    info = seed(home)
    unit = info.units[1]
    keep(
        home,
        LayerRequest(info.ref, info.fingerprint, (unit.name,), FORMS, BINS),
        made_results.layer_view(unit.name, *FORMS),
    )
    for part in ((0, 256, 0, 256), (100, 108, 100, 108), (102, 106, 102, 106)):
        top, bottom, left, right = part
        asked = WindowRequest(info.ref, info.fingerprint, unit.name, FORMS[0], (top, bottom), (left, right))
        keep(home, asked, made_results.window(unit, area=part))
    spot = WindowRequest(info.ref, info.fingerprint, unit.name, FORMS[0], (103, 104), (103, 104), 1)
    keep(home, spot, made_results.window(unit, area=(103, 104, 103, 104), cells=1))
    page.goto(
        f"{app.url}/weights?unit={unit.name}&also={','.join(FORMS[1:])}&part=map&window=100-107,100-107"
    )
    cells = page.locator(".st-key-map-weights .nsewdrag").first
    expect(cells).to_be_visible()
    expect(page.get_by_text("grid of INT2")).to_be_visible()
    at_rest(page)
    cells.scroll_into_view_if_needed()
    area = cells.bounding_box()
    assert area is not None
    ends = [
        (area["x"] + area["width"] * share, area["y"] + area["height"] * share)
        for share in (2.5 / 8, 5.5 / 8)
    ]
    page.mouse.move(*ends[0])
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    page.mouse.move(*ends[1])
    page.mouse.up()
    zoomed = re.compile(r"window=102-105(,|%2C)102-105")
    expect(page).to_have_url(zoomed)
    told = page.get_by_text("Outputs 102 to 105, inputs 102 to 105")
    expect(told).to_be_visible()
    page.reload()
    expect(told).to_be_visible()
    expect(page).to_have_url(zoomed)
    page.get_by_text("tells a weight").click()
    expect(page).to_have_url(re.compile("mouse=tell"))
    at_rest(page)
    cells.scroll_into_view_if_needed()
    area = cells.bounding_box()
    assert area is not None
    page.mouse.click(area["x"] + area["width"] * 1.5 / 4, area["y"] + area["height"] * 1.5 / 4)
    expect(page.get_by_text("Output 103, input 103, 0.")).to_be_visible()
    page.get_by_role("button", name="Whole layer").click()
    expect(page.get_by_text("Outputs 0 to 255, inputs 0 to 255")).to_be_visible()
