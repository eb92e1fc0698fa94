"""The job: train the assigned weights through their rounding, and store the codes that come out.

Every step takes a batch of sequences, makes the student's weights from what is learned, and follows the gradient of
KL(original || student) with Adam (Kingma and Ba 2015, arXiv:1412.6980; no weight decay, which would only pull values
across the borders of their cells). The rate rises over the first ten steps and then falls linearly to 0 at the end.

Between steps nothing of the model is changed, so that waiting requests are served there, and a stopped training leaves
its checkpoint from there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from quant_core.errors import Cancelled, ModelError, QuantError
from quant_core.formats import find
from quant_core.jobs.context import Context
from quant_core.methods import rounding
from quant_core.methods.rewrite import for_copy, rewritten
from quant_core.methods.rounder import Rounder, rounder_for
from quant_core.methods.trained import Header, write_trained
from quant_core.methods.training.checkpoint import (
    Progress,
    checkpoint_path,
    read_progress,
    restore,
    save,
)
from quant_core.methods.training.steps import learns_steps
from quant_core.methods.training.student import Student
from quant_core.methods.training.text import read_text, split_text
from quant_core.methods.training.units import TrainedUnit
from quant_core.methods.variant import surround
from quant_core.models.loading import LoadedModel
from quant_core.models.memory import free_memory
from quant_core.registry import unknown_name
from quant_core.schema import ORIGINAL, LossEvent, Training, TrainRequest, digest
from quant_core.store.keys import request_key

WARMUP = 10
"""Steps over which the rate rises."""
SAVE_SECONDS = 60.0
"""A checkpoint is written at least this often, and when the job is stopped."""
EMIT_SECONDS = 0.5
"""Losses are streamed at most this often."""
CURVE = 300
"""Points of the loss curve in the result, at most."""
BETAS = (0.9, 0.99)
EPSILON = 1e-12
"""Gradients of single weights are small: the usual 1e-8 would damp them."""
_BYTES = {"full": 25, "lora": 13}
"""Memory a trained weight takes while it is trained: values, gradients, moments, the weight made of them."""


def train(context: Context, request: TrainRequest) -> Training:
    """Train, or go on with a training of the same request that was stopped.

    Raises:
        QuantError: The request makes no sense, a unit or format cannot be trained, or memory does not suffice.
        Cancelled: The job was stopped; its checkpoint is kept.
    """
    _check(request)
    original = context.loaded(request.model, request.roots, request.fingerprint)
    setup = request.setup
    loaded = rewritten(context, original, setup.transforms, request.assignment, setup.calibration)
    assignment = {
        name: form
        for name, form in for_copy(request.assignment, original, loaded).items()
        if form != ORIGINAL
    }
    _check_model(loaded, assignment, request.mode)
    text = read_text(context, original, request.text, request.tokens, request.sequence)
    ids, held_out = split_text(text.ids)
    if not len(ids):
        raise QuantError("The text is a single sequence.", "Give a longer text, or shorter sequences.")
    rounder = rounder_for(context, loaded, setup)
    around = surround(context, loaded, list(assignment), setup, rounder)
    path = checkpoint_path(context.folder(), request_key(request))
    progress = read_progress(path, text.text_hash)

    def student(start: str) -> Student:
        return Student(original, around, _units(context, loaded, rounder, assignment, request, start))

    if progress is not None:
        pupil = student(progress.start)
        adam = _optimizer(pupil, request)
        restore(path, pupil.learned(), adam)
    else:
        pupil = student("")
        progress = Progress(text.text_hash, pupil.divergence(held_out), "")
        if not setup.trained and any(map(_open, assignment.values())):
            other = student("mse")
            if other.divergence(held_out) < progress.kl_before:
                pupil, progress.start = other, "mse"
        adam = _optimizer(pupil, request)
    _run(context, request, pupil, adam, ids, progress, path)
    kl_after = pupil.divergence(held_out)
    units = {name: (unit.codes(), unit.kept) for name, unit in pupil.units.items()}
    header = Header(loaded.info.fingerprint, setup.transforms, assignment)
    key = write_trained(context.folder(), header, units)
    path.unlink(missing_ok=True)
    notes = [f"{where}: {note}." for where, note in rounder.notes.items()]
    return Training(
        fingerprint=request.fingerprint,
        key=key,
        assignment=assignment,
        mode=request.mode,
        curve=_curve(progress.losses),
        steps=progress.step,
        tokens=progress.step * request.batch * ids.shape[1],
        seconds=progress.seconds,
        kl_before=progress.kl_before,
        kl_after=kl_after,
        held_out=held_out.numel(),
        learned=sum(tensor.numel() for tensor in pupil.learned().values()),
        text_hash=text.text_hash,
        text_label=text.label,
        notes=(*notes, *around.notes),
    )


def _check(request: TrainRequest) -> None:
    """Raise ``QuantError`` for numbers that make no sense."""
    if not any(form != ORIGINAL for form in request.assignment.values()):
        raise QuantError("No weight is to be trained.", "Give at least one a number format.")
    if request.steps <= 0 and request.seconds <= 0:
        raise QuantError("The training has no end.", "Give a number of steps or of seconds.")
    if request.batch < 1 or (request.mode == "lora" and request.rank < 1):
        raise QuantError("Batch and rank are whole numbers above 0.", "Give at least 1.")
    if not (0 < request.learning_rate <= 1 and 0 <= request.step_rate <= 1):
        raise QuantError(
            f"The learning rates {request.learning_rate:g} and {request.step_rate:g} are out of range.",
            "They are parts of a step: choose from 0 to 1, 0.01 for example.",
        )


def _check_model(loaded: LoadedModel, assignment: Mapping[str, str], mode: str) -> None:
    """Raise ``QuantError`` for units that do not exist and models that cannot be trained here."""
    for name in assignment:
        if name not in loaded.graph.slots:
            raise unknown_name("weight", name, loaded.graph.slots)
    if loaded.model.dtype == torch.float16:
        raise ModelError("Gradients in float16 overflow.", "Load the model in float32 or bfloat16 to train.")
    weights = sum(loaded.graph.slots[name].unit.parameters for name in assignment)
    needed, free = weights * _BYTES[mode], free_memory(loaded.device)
    if needed > free:
        raise ModelError(
            f"Training {weights / 1e6:,.0f} M weights needs about {needed / 1e9:.1f} GB on the "
            f"{loaded.device.type.upper()}, and {free / 1e9:.1f} GB are free.",
            "Train fewer weights" + (", or with LoRA." if mode == "full" else "."),
        )


def _units(
    context: Context,
    loaded: LoadedModel,
    rounder: Rounder,
    assignment: Mapping[str, str],
    request: TrainRequest,
    start: str,
) -> dict[str, TrainedUnit]:
    """The units in training; those whose name leaves it open are rounded by the method ``start`` at first."""
    generator = torch.Generator().manual_seed(request.seed)
    rank = request.rank if request.mode == "lora" else 0
    found = {}
    for name, text in assignment.items():
        context.progress(0.0, f"Rounding {name}")
        slot = loaded.graph.slots[name]
        form = find(f"{text}@{start}" if start and _open(text) else text)
        found[name] = TrainedUnit(slot, rounder.quantize(slot, form), rank, generator)
    return found


def _open(text: str) -> bool:
    """Whether a format's name says nothing of how to round, and its steps can be learned from another start."""
    form = find(text)
    refused = rounding.METHODS["mse"].refuses(form.info)
    return not form.spec.method and learns_steps(form) and not refused


def _optimizer(pupil: Student, request: TrainRequest) -> torch.optim.Adam:
    groups = []
    for unit in pupil.units.values():
        for name, tensor in unit.learned.items():
            rate = unit.rate(name, request.learning_rate, request.step_rate)
            groups.append({"params": [tensor], "lr": rate, "rate": rate})
    fused = all(unit.slot.parameter.device.type in ("cpu", "cuda") for unit in pupil.units.values())
    return torch.optim.Adam(groups, betas=BETAS, eps=EPSILON, fused=fused)


def _run(
    context: Context,
    request: TrainRequest,
    pupil: Student,
    adam: torch.optim.Adam,
    ids: Tensor,
    progress: Progress,
    path: Path,
) -> None:
    """Take steps until the training is at its end; ``progress`` counts them."""
    saved = emitted = time.monotonic()
    fresh: list[float] = []
    try:
        while (share := _share(request, progress)) < 1.0:
            context.progress(share, _message(progress, share))
            begun = time.monotonic()
            for group in adam.param_groups:
                group["lr"] = group["rate"] * min(1.0, (progress.step + 1) / WARMUP) * (1.0 - share)
            adam.zero_grad(set_to_none=True)
            loss = pupil.backward(ids[_rows(len(ids), progress.step, request.batch, request.seed)])
            if not math.isfinite(loss):
                raise QuantError("The training diverged.", "Choose a smaller learning rate.")
            adam.step()
            now = time.monotonic()
            progress.step += 1
            progress.seconds += now - begun
            progress.losses.append(loss)
            fresh.append(loss)
            if now - emitted >= EMIT_SECONDS or _share(request, progress) >= 1.0:
                tokens = progress.step * request.batch * ids.shape[1]
                context.emit(LossEvent(progress.step, sum(fresh) / len(fresh), tokens, progress.seconds))
                fresh.clear()
                emitted = now
            if now - saved >= SAVE_SECONDS:
                save(path, progress, pupil.learned(), adam)
                saved = now
        context.progress(1.0, "Measuring what was held out")
    except Cancelled:
        if progress.step:
            save(path, progress, pupil.learned(), adam)
        raise


def _share(request: TrainRequest, progress: Progress) -> float:
    """How much of the training is done, 0 to 1 or a little more."""
    by_steps = progress.step / request.steps if request.steps > 0 else 0.0
    by_time = progress.seconds / request.seconds if request.seconds > 0 else 0.0
    return max(by_steps, by_time)


def _rows(count: int, step: int, batch: int, seed: int) -> list[int]:
    """Which of ``count`` sequences a step takes: the text is gone through in a new order every time."""
    chosen: list[int] = []
    for place in range(step * batch, (step + 1) * batch):
        turn, index = divmod(place, count)
        order = torch.randperm(
            count, generator=torch.Generator().manual_seed(int(digest([seed, turn])[:12], 16))
        )
        chosen.append(int(order[index]))
    return chosen


def _message(progress: Progress, share: float) -> str:
    if not progress.step:
        return "Training: the first step"
    recent = progress.losses[-WARMUP:]
    left = round(progress.seconds * (1.0 - share) / share)
    minutes, seconds = divmod(left, 60)
    time_left = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return f"step {progress.step:,}, loss {sum(recent) / len(recent):.3f}, {time_left} left"


def _curve(losses: Sequence[float]) -> tuple[tuple[int, float], ...]:
    """The losses of all steps as at most ``CURVE`` means."""
    width = -(-len(losses) // CURVE)
    return tuple(
        (min(start + width, len(losses)), sum(part) / len(part))
        for start in range(0, len(losses), max(1, width))
        if (part := losses[start : start + width])
    )
