"""Channels, single weights and what enters a layer: against numpy, by hand, and the same however they are read."""

from __future__ import annotations

import math
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quant_core.calibration.inputs import Inputs
from quant_core.calibration.statistics import collect
from quant_core.calibration.text import tokenize
from quant_core.errors import QuantError
from quant_core.evaluation.channels import Growing, channels, inputs
from quant_core.evaluation.window import edges, view_window, window
from quant_core.formats import fake_quantize, find
from quant_core.methods.slot_rounder import SlotRounder
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel
from quant_core.schema import (
    Calibration,
    ChannelsRequest,
    InputsRequest,
    Setup,
    Spot,
    TextSource,
    Unit,
    WindowRequest,
)
from tests.tiny import PROSE, FakeContext

UP = "model.layers.0.mlp.up_proj.weight"
SETUP = Setup(calibration=Calibration(TextSource("inline", PROSE * 3), 256, 32))


class Plain(SlotRounder):
    """Rounds without a model."""

    def inputs(self, slot: Slot, gradients: bool = False) -> Inputs:
        raise AssertionError("nothing entered it")


def slot_of(values: torch.Tensor) -> Slot:
    rows, columns = values.shape
    unit = Unit("a.weight", 0, "a", "linear", rows, columns, 16, True)
    return Slot(unit, nn.Parameter(values, requires_grad=False))


# --- single weights


def test_a_window_by_hand() -> None:
    """3 x 4 weights in 2 x 2 bins, then the last two rows and columns alone."""
    values = torch.tensor([[1.0, -1.0, 0.1, 0.0], [0.2, -0.9, 0.0, 1.0], [-1.0, 0.0, 0.0, -0.4]])
    slot, form = slot_of(values), find("int8/tensor/sym")
    after = fake_quantize(form, values)
    found = view_window(FakeContext(), Plain(), slot, form, (0, 0), (0, 0), 2)
    assert found.row_edges == (0, 1, 3)
    assert found.column_edges == (0, 2, 4)
    assert found.weights == ((1.0, 0.1), (-1.0, 1.0))
    assert found.largest == Spot(0, 0, 1.0, float(after[0, 0]))
    part = view_window(FakeContext(), Plain(), slot, form, (1, 3), (2, 4), 9)
    assert part.row_edges == (1, 2, 3)
    assert part.column_edges == (2, 3, 4)
    assert part.weights == ((0.0, 1.0), (0.0, -0.4))
    assert np.array(part.errors) == pytest.approx((after - values)[1:, 2:].numpy(), abs=1e-5)
    assert part.largest == Spot(1, 3, 1.0, float(after[1, 3]))
    assert part.largest.error == part.largest.quantized - 1.0


@settings(max_examples=40)
@given(
    st.integers(1, 24), st.integers(1, 40), st.integers(1, 12), st.integers(1, 200), st.booleans(), st.data()
)
def test_bins_hold_what_numpy_finds_in_them(
    rows: int, columns: int, cells: int, part: int, turned: bool, data: st.DataObject
) -> None:
    """In any rectangle, however many rows are rounded at once, stored either way round."""
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    bottom, right = data.draw(st.integers(top + 1, rows)), data.draw(st.integers(left + 1, columns))
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * columns))
    slot = slot_of(values)
    if turned:
        slot = Slot(slot.unit, nn.Parameter(values.T.contiguous(), requires_grad=False), transposed=True)
    form = find("int3/g32/asym")
    found = view_window(FakeContext(), Plain(), slot, form, (top, bottom), (left, right), cells, part)
    errors = (fake_quantize(form, values) - values).numpy()
    assert (found.row_edges[0], found.row_edges[-1]) == (top, bottom)
    for whole, binned in ((values.numpy(), found.weights), (errors, found.errors)):
        for (first, end), line in zip(pairwise(found.row_edges), binned, strict=True):
            for (begin, stop), value in zip(pairwise(found.column_edges), line, strict=True):
                bin = whole[first:end, begin:stop]
                assert abs(value) == pytest.approx(np.abs(bin).max(), rel=6e-3)
                assert np.isclose(bin, value, rtol=6e-3, atol=1e-9).any(), "with its sign"
    inside = values.numpy()[top:bottom, left:right]
    assert abs(found.largest.weight) == np.abs(inside).max()
    assert found.largest.weight == values[found.largest.row, found.largest.column]
    assert abs(found.worst.error) == pytest.approx(np.abs(errors[top:bottom, left:right]).max(), abs=1e-6)


@given(st.integers(0, 1000), st.integers(1, 1000), st.integers(1, 300))
def test_bins_are_whole_channels_as_even_as_can_be(first: int, length: int, most: int) -> None:
    bounds = edges((first, first + length), most)
    sizes = np.diff(bounds)
    assert (bounds[0], bounds[-1]) == (first, first + length)
    assert len(sizes) == min(most, length)
    assert sizes.max() - sizes.min() <= 1
    assert sizes.min() >= 1


def test_a_window_of_a_model_and_one_that_it_lacks(tiny: LoadedModel) -> None:
    unit = next(unit for unit in tiny.info.units if unit.decided)
    asked = WindowRequest(tiny.info.ref, tiny.info.fingerprint, unit.name, "int4/g32/asym", (3, 5), (2, 9))
    found = window(FakeContext(tiny), asked)
    matrix = tiny.graph.slots[unit.name].matrix()
    expected = [[float(f"{value:.3g}") for value in row] for row in matrix[3:5, 2:9].float().tolist()]
    assert [list(row) for row in found.weights] == expected
    with pytest.raises(QuantError, match="counted from 0: there is no range from 5 to 9,999"):
        window(FakeContext(tiny), WindowRequest(tiny.info.ref, "", unit.name, "int4", (5, 10_000)))


# --- channels


def test_channels_are_those_of_numpy(tiny: LoadedModel) -> None:
    unit = next(unit for unit in tiny.info.units if unit.decided)
    found = channels(FakeContext(tiny), ChannelsRequest(tiny.info.ref, "", unit.name, bins=10))
    matrix = tiny.graph.slots[unit.name].matrix().double().numpy()
    for whole, shown in ((matrix, found.outputs), (matrix.T, found.inputs)):
        assert len(shown.maximum) == min(10, len(whole))
        for place, (first, end) in enumerate(pairwise(shown.edges)):
            ordered = np.sort(whole[first:end].ravel())
            assert shown.minimum[place] == pytest.approx(ordered[0], rel=1e-3)
            assert shown.maximum[place] == pytest.approx(ordered[-1], rel=1e-3)
            below, above = (ordered < shown.low[place]).mean(), (ordered > shown.high[place]).mean()
            assert below == pytest.approx(0.01, abs=0.012)
            assert above == pytest.approx(0.01, abs=0.012)
        reach = np.abs(whole).max(1)
        assert shown.furthest == reach.argmax()
        assert shown.reach == reach.max()
        assert shown.median == pytest.approx(np.median(reach))


# --- what enters a layer


def test_inputs_agree_with_the_statistics_that_methods_learn_from(tiny: LoadedModel) -> None:
    """Counted apart from them, over the same text; for an expert, over the tokens that are routed to it."""
    unit = next(unit for unit in reversed(tiny.info.units) if unit.decided)
    asked = InputsRequest(tiny.info.ref, tiny.info.fingerprint, unit.name, bins=2000, setup=SETUP)
    found = inputs(FakeContext(tiny), asked)
    text = SETUP.calibration
    tokens = tokenize(FakeContext(tiny), tiny, text.text, text.tokens, text.sequence)
    slot = tiny.graph.slots[unit.name]
    known = collect(FakeContext(tiny), tiny, tokens, [slot])[unit.name]
    assert found.tokens == known.rows > 0
    assert found.text_label == "own text"
    assert found.largest == pytest.approx(known.largest.tolist(), rel=1e-3)
    assert found.mean == pytest.approx(known.mean_abs.tolist(), rel=1e-3)
    assert found.furthest == int(known.largest.argmax())
    assert found.median == pytest.approx(np.median(known.largest.numpy()))
    assert sum(found.values.counts) == known.rows * unit.columns
    assert found.values.edges[0] <= found.values.edges[-1]


def test_a_layer_that_multiplies_nothing_is_refused(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An embedding is only looked up, unless the head shares its storage."""
    asked = InputsRequest(llama.info.ref, "", "model.embed_tokens.weight", setup=SETUP)
    assert inputs(FakeContext(llama), asked).tokens > 0
    monkeypatch.setattr("quant_core.evaluation.channels.capture", lambda *_: nullcontext())
    with pytest.raises(QuantError, match="multiplies no input, so there is nothing to show"):
        inputs(FakeContext(llama), asked)


@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20), min_size=1, max_size=6))
def test_a_growing_histogram_does_not_see_its_batches(batches: list[list[float]]) -> None:
    whole, parts = Growing(32), Growing(32)
    values = np.concatenate([np.array(batch, np.float32) for batch in batches])
    whole.add(values)
    for batch in batches[::-1]:
        parts.add(np.array(batch, np.float32))
    found = whole.histogram()
    assert found == parts.histogram()
    assert sum(found.counts) == len(values)
    for (low, high), count in zip(pairwise(found.edges), found.counts, strict=True):
        assert count == ((values >= low) & (values < high)).sum()
    widths = np.diff(found.edges)
    assert (widths == widths[0]).all()
    assert math.log2(widths[0]).is_integer()
    assert len(found.counts) <= 32
