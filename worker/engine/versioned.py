"""The serving view: one module tree whose edited projections hold one matrix per resident version.

Knows nothing of requests, files or threads; all calls come from the thread that runs the forward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from memit_core.transformers_internals import (
    LAST_LOGITS,
    POSITIONS,
    DynamicCache,
    cache_argument,
    forward_arguments,
)
from memit_core.views import set_weight, view_of


class VersionedProjection(nn.Module):
    """An edited projection: the base module, and a copy of it per version that changed its weight.

    A copy differs in `weight` only and is of the same class, so a Linear stays a Linear and a
    Conv1D a Conv1D, and every row's arithmetic is that of a model which has the version merged in.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.copies: dict[str, nn.Module] = {}
        self._rows = 1
        self._groups: list[tuple[nn.Module, torch.Tensor]] = []

    def install(self, version: str, weight: torch.Tensor) -> None:
        """Hold `weight`, of the base weight's shape, dtype and device, for `version`."""
        copy = view_of(self.base)
        set_weight(copy, "", weight)
        self.copies[version] = copy

    def forget(self, version: str) -> None:
        """Hold nothing of `version` any more; `route` comes before the next forward."""
        self.copies.pop(version, None)
        self._groups = []

    def route(self, rows: Sequence[str]) -> None:
        """Say which version each batch row of the coming forwards uses."""
        by_module: dict[nn.Module, list[int]] = {}
        for row, version in enumerate(rows):
            module = self.copies.get(version, self.base)
            by_module.setdefault(module, []).append(row)
        device = next(self.base.parameters()).device
        self._rows = len(rows)
        self._groups = [
            (module, torch.tensor(chosen, device=device)) for module, chosen in by_module.items()
        ]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [rows, tokens, m], or [rows · tokens, m], row by row to the hidden size."""
        if len(self._groups) == 1:
            alone: torch.Tensor = self._groups[0][0](x)
            return alone
        by_row = x.reshape(self._rows, -1, x.shape[-1])
        out: torch.Tensor | None = None
        for module, chosen in self._groups:
            y: torch.Tensor = module(by_row.index_select(0, chosen))
            if out is None:
                out = y.new_empty(self._rows, *y.shape[1:])
            out.index_copy_(0, chosen, y)
        if out is None:
            raise RuntimeError("forward before route")
        return out.reshape(*x.shape[:-1], -1)


class ServingView:
    """A view of the pristine model that computes each batch row with its own version's matrices."""

    def __init__(self, model: Any, base_version: str) -> None:
        """Make the view; the pristine `model` itself never runs and is never changed.

        Raises:
            UnsupportedModel: the model keeps a state that is no plain list of keys and values.
        """
        self.model = view_of(model)
        self.device: torch.device = next(model.parameters()).device
        self._versions = {base_version}
        self._projections: dict[str, VersionedProjection] = {}
        self._cache_argument = cache_argument(self.model)
        accepted = forward_arguments(self.model)
        self._takes_positions = POSITIONS in accepted
        self._last_only = {LAST_LOGITS: 1} if LAST_LOGITS in accepted else {}

    def install(self, version: str, weights: Mapping[str, torch.Tensor]) -> None:
        """Make `version` usable: `weights` by module path; every other module is the base's."""
        for path, weight in weights.items():
            if path not in self._projections:
                self._projections[path] = VersionedProjection(self.model.get_submodule(path))
                self.model.set_submodule(path, self._projections[path])
            self._projections[path].install(version, weight)
        self._versions.add(version)

    def remove(self, version: str) -> None:
        """Free the matrices of `version`; no row may be using it."""
        self._versions.remove(version)
        for projection in self._projections.values():
            projection.forget(version)

    def logits(
        self, rows: Sequence[str], tokens: torch.Tensor, mask: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Append columns to the cache and give the logits after the last of them.

        Args:
            rows: the version of each row.
            tokens: [B, T] int64, the new columns.
            mask: [B, W] int64, 0 where a column of the row is padding; its last T columns are new.
            cache: keys and values of the first W - T columns; grows by T.

        Returns:
            [B, vocabulary] float32.

        Raises:
            KeyError: a version is not resident.
        """
        for version in set(rows) - self._versions:
            raise KeyError(f"version {version} is not resident")
        for projection in self._projections.values():
            projection.route(rows)
        extra: dict[str, Any] = {self._cache_argument: cache, **self._last_only}
        if self._takes_positions:
            extra[POSITIONS] = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        out = self.model(input_ids=tokens, attention_mask=mask, use_cache=True, **extra)
        last: torch.Tensor = out.logits[:, -1].float()
        return last
