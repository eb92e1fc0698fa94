"""What an error in keys and values does behind the attention that mixes them.

Attention averages over tokens, so that errors in the keys or values of many tokens act together at one position. To
score them there, an error at a projection's output is carried through to the attention's output o, to first order:

* from the projection to the attention's own ``key`` and ``value`` through whatever lies between (reshaping, rotary
  positions, a norm), with the Jacobian-vector product that two reverse passes give
  (Townsend 2017, "A new trick for calculating Jacobian vector products");
* through the attention, with weights a and scores s = c q k': it is linear in its values, do_t = sum_s a_ts dv_s, and
  da_t = a_t (ds_t - sum_s a_ts ds_ts) for keys.

A gradient g at the output meets these as

    values   g_t . do_t = g_t . sum_s a_ts dv_s
    keys     g_t . do_t = q_t . sum_s b_ts dk_s,      b_ts = c a_ts (g_t . v_s - g_t . o_t),

summed over heads: one matrix for errors in values, one a gradient for errors in keys, whatever the errors are.

Queries act on their own position only and need none of this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

Push = Callable[[Tensor], Tensor]
Attend = Callable[..., Any]

_BANDS = 4
"""Bands of positions that are mixed one at a time: in a causal attention these save 3/8 of the work."""


class Mixing:
    """One attention of one forward pass, as a linear map from errors in what feeds it to its output.

    Args:
        attend: The attention, with all that is not given to it here; its output is (batch, length, heads, values).
        query: (batch, heads, length, width).
        key: (batch, key heads, length, width), of which each serves as many heads in a row.
        value: (batch, key heads, length, values).
        output: What came out.
        scale: Of the scores.
    """

    def __init__(
        self, attend: Attend, query: Tensor, key: Tensor, value: Tensor, output: Tensor, scale: float
    ) -> None:
        self._attend = attend
        self._scale = scale
        self._query, self._key, self._value, self._output = query, key, value, output

    def paths(self, source: Tensor) -> tuple[Push | None, Push | None, Tensor]:
        """How errors at ``source`` (n, rows or batch, length, rows) reach keys and values, and through which rows.

        The last is a bool tensor (rows,), true for rows that the keys or values are made of.
        """
        to_key, key_rows = _linear_map(source, self._key)
        to_value, value_rows = _linear_map(source, self._value)
        return to_key, to_value, key_rows | value_rows

    def slopes(
        self,
        errors: Sequence[Tensor],
        gradient: Tensor,
        to_key: Push | None,
        to_value: Push | None,
    ) -> Tensor:
        """What errors at a projection's output do along a gradient at the attention's output, a token at a time.

        Args:
            errors: (n, rows) each.
            gradient: (n, features).
            to_key: How errors reach the keys.
            to_value: How they reach the values.

        Returns:
            float32, (errors, n).
        """
        heads = gradient.view_as(self._output).transpose(1, 2)
        found = torch.zeros(len(errors), len(gradient), device=gradient.device)
        with torch.no_grad():
            if to_value is not None:
                found += self._meet(self._weights, [to_value(error) for error in errors], heads)
            if to_key is not None:
                found += self._meet(self._bend(heads), [to_key(error) for error in errors], self._query)
        return found

    @cached_property
    def _weights(self) -> Tensor:
        """What each position takes from each, (batch, heads, length, length): the attention of unit values."""
        batch, heads, length, _ = self._key.shape
        eye = torch.eye(length, dtype=self._value.dtype, device=self._value.device)
        weights: Tensor = self._attend(self._query, self._key, eye.expand(batch, heads, length, length))[0]
        return weights.transpose(1, 2)

    @cached_property
    def _bands(self) -> list[tuple[slice, slice]]:
        """Bands of positions, with the span any of a band looks at; one on a GPU, which is not waited for."""
        if self._query.is_cuda:
            return [(slice(None), slice(None))]
        bands = []
        looks = (self._weights != 0).flatten(0, 1).any(dim=0)
        for rows in torch.arange(len(looks)).tensor_split(_BANDS):
            seen = looks[rows].any(dim=0).nonzero().flatten().tolist()
            if seen:
                bands.append((slice(int(rows[0]), int(rows[-1]) + 1), slice(seen[0], seen[-1] + 1)))
        return bands

    def _bend(self, gradient: Tensor) -> Tensor:
        """The module's b of a gradient (batch, heads, length, values), (batch, heads, length, length)."""
        share = self._query.shape[1] // self._key.shape[1]
        along = gradient @ self._value.repeat_interleave(share, dim=1).transpose(2, 3)
        along -= (gradient * self._output.transpose(1, 2)).sum(dim=-1, keepdim=True)
        return along.mul_(self._weights).mul_(self._scale)

    def _meet(self, weights: Tensor, errors: Sequence[Tensor], vectors: Tensor) -> Tensor:
        """Products of a vector at each position with the errors that it gets under ``weights``.

        Args:
            weights: (batch, heads, length, length).
            errors: (batch, key heads, length, width) each; they are mixed side by side.
            vectors: (batch, heads, length, width).

        Returns:
            Summed over heads and width, float32, (errors, n).
        """
        batch, groups, length, width = errors[0].shape
        side = torch.stack(list(errors), dim=3).flatten(3)
        found = torch.zeros(batch, length, len(errors), device=side.device)
        for rows, columns in self._bands:
            band = weights[:, :, rows, columns].unflatten(1, (groups, -1))
            mixed = (band.flatten(2, 3) @ side[:, :, columns]).view(*band.shape[:4], len(errors), width)
            along = mixed * vectors[:, :, rows].unflatten(1, (groups, -1))[..., None, :]
            found[:, rows] = along.sum(dim=(1, 2, 5), dtype=torch.float32)
        return found.flatten(0, 1).T


def _linear_map(source: Tensor, target: Tensor) -> tuple[Push | None, Tensor]:
    """The derivative of ``target`` by ``source``, both of one graph, as a function; None if it does not depend.

    Also which of the source's last dimension it depends on. The derivative is taken where the graph was computed.
    """
    probe = torch.rand_like(target).requires_grad_()  # any will do, but zeros would not show what is reached
    back: Tensor | None = torch.autograd.grad(target, source, probe, create_graph=True, allow_unused=True)[0]
    if back is None:
        return None, torch.zeros(source.shape[-1], dtype=torch.bool, device=source.device)

    def push(errors: Tensor) -> Tensor:
        (moved,) = torch.autograd.grad(
            back, probe, errors.view_as(source).to(source.dtype), retain_graph=True
        )
        return moved

    return push, (back.detach() != 0).flatten(0, -2).any(dim=0)
