"""What an error in keys and values does behind the attention that mixes them.

Attention averages over tokens, so that errors in the keys or values of many tokens act together at one position. To
score them there, an error at a projection's output is carried through to the attention's output, to first order:

* from the projection to the attention's own ``key`` and ``value`` through whatever lies between (reshaping, rotary
  positions, a norm), with the Jacobian-vector product that two reverse passes give
  (Townsend 2017, "A new trick for calculating Jacobian vector products");
* through the attention: it is linear in its values, so it is applied to their error; for keys, with weights a and
  scores s = c q k', da = a (ds - sum a ds).

Queries act on their own position only and need none of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Push = Callable[[Tensor], Tensor]
Attend = Callable[..., Any]


class Mixing:
    """One attention of one forward pass, as a linear map from errors in what feeds it to errors in its output."""

    def __init__(self, attend: Attend, query: Tensor, key: Tensor, value: Tensor, scale: float) -> None:
        self._attend = attend
        self._scale = scale
        self._query, self._key, self._value = query, key, value
        self._weights: Tensor | None = None

    def paths(self, source: Tensor) -> tuple[Push | None, Push | None, Tensor]:
        """How errors at ``source`` (n, rows or batch, length, rows) reach keys and values, and through which rows.

        The last is a bool tensor (rows,), true for rows that the keys or values are made of.
        """
        to_key, key_rows = _linear_map(source, self._key)
        to_value, value_rows = _linear_map(source, self._value)
        return to_key, to_value, key_rows | value_rows

    def behind(self, errors: Tensor, to_key: Push | None, to_value: Push | None) -> Tensor:
        """The error of the attention's output, (n, features), for errors (n, rows) at a projection's output."""
        batch, _, length, _ = self._query.shape
        total = torch.zeros(batch, length, self._query.shape[1], self._value.shape[3], dtype=errors.dtype)
        total = total.to(errors.device)
        with torch.no_grad():
            if to_value is not None:
                total += self._apply(to_value(errors))
            if to_key is not None:
                total += self._through_keys(to_key(errors))
        return total.flatten(2).flatten(0, 1)

    def _apply(self, value: Tensor) -> Tensor:
        mixed: Tensor = self._attend(self._query, self._key, value)[0]
        return mixed

    def _through_keys(self, errors: Tensor) -> Tensor:
        share = self._query.shape[1] // self._key.shape[1]
        if self._weights is None:
            batch, heads, length, _ = self._key.shape
            eye = torch.eye(length, dtype=self._value.dtype, device=self._value.device)
            self._weights = self._apply(eye.expand(batch, heads, length, length)).transpose(1, 2)
        moved = self._scale * self._query @ errors.repeat_interleave(share, dim=1).transpose(2, 3)
        weighted = self._weights * moved
        changed = weighted - self._weights * weighted.sum(-1, keepdim=True)
        mixed: Tensor = changed @ self._value.repeat_interleave(share, dim=1)
        return mixed.transpose(1, 2)


def _linear_map(source: Tensor, target: Tensor) -> tuple[Push | None, Tensor]:
    """The derivative of ``target`` by ``source``, both of one graph, as a function; None if it does not depend.

    Also which of the source's last dimension it depends on. The derivative is taken where the graph was computed.
    """
    probe = torch.zeros_like(target, requires_grad=True)
    back: Tensor | None = torch.autograd.grad(target, source, probe, create_graph=True, allow_unused=True)[0]
    rows = torch.zeros(source.shape[-1], dtype=torch.bool, device=source.device)
    if back is None:
        return None, rows
    reached: Tensor = torch.autograd.grad(target, source, torch.randn_like(target), retain_graph=True)[0]

    def push(errors: Tensor) -> Tensor:
        (moved,) = torch.autograd.grad(
            back, probe, errors.view_as(source).to(source.dtype), retain_graph=True
        )
        return moved

    return push, (reached != 0).flatten(0, -2).any(dim=0)
