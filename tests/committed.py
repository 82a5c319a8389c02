"""Versions committed without an edit: of changes that a test made up, on a tiny base."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from contracts.facts import Fact, LiveFact
from contracts.ids import new_edit_id
from contracts.versions import ACTIVE, LayerWeights, VersionManifest
from memit_core.loading import LoadedModel
from memit_core.views import view_of
from memit_core.weights import Delta, LowRank, encode_delta, served_weight, smallest
from registry.registry import Registry

CHANGED = (1, 2)
"""Blocks whose projection a made-up change is for."""


def made_up(
    loaded: LoadedModel, rank: int, size: float = 0.3, paths: Sequence[str] = ()
) -> dict[str, Delta]:
    """Random changes of a given rank, about `size` times as strong as the weights they change.

    Args:
        paths: of what is changed; by default the projections of the blocks in `CHANGED`.
    """
    generator = torch.Generator().manual_seed(rank)
    changes = {}
    for path in paths or [loaded.structure.projections[layer] for layer in CHANGED]:
        weight = loaded.model.get_submodule(path).weight
        d, m = weight.shape[::-1] if loaded.structure.transposed else weight.shape
        left = torch.randn(d, rank, generator=generator)
        right = torch.randn(m, rank, generator=generator)
        scale = size * weight.norm() / (left @ right.T).norm()
        changes[path] = smallest(left * scale, right)
    return changes


def served(loaded: LoadedModel, solved: Mapping[str, Delta]) -> Any:
    """The base with these changes, as a worker serves it."""
    view = view_of(loaded.model)
    for path, delta in solved.items():
        module = view.get_submodule(path)
        weight = served_weight(module.weight, delta, loaded.structure.transposed)
        module.weight = torch.nn.Parameter(weight, requires_grad=False)
    return view


def commit(
    registry: Registry,
    loaded: LoadedModel,
    solved: Mapping[str, Delta],
    facts: Sequence[Fact] = (),
) -> str:
    """A version of these changes, with the base as v0 before it; its id."""
    if registry.versions.tip() < 0:
        base = _commit(registry, loaded, {}, [])
        registry.aliases.move(ACTIVE, base, 0)
    return _commit(registry, loaded, solved, facts)


def _commit(
    registry: Registry, loaded: LoadedModel, solved: Mapping[str, Delta], facts: Sequence[Fact]
) -> str:
    live = [
        LiveFact(id=one.id, fact=one, edit_id=new_edit_id(), since=1, learned=True) for one in facts
    ]
    weights = [
        LayerWeights(
            layer=loaded.structure.block_of(path),
            module=path,
            blob=registry.blobs.put(encode_delta(delta)),
            kind="low_rank" if isinstance(delta, LowRank) else "dense",
            rank=delta.rank,
            transposed=loaded.structure.transposed,
        )
        for path, delta in solved.items()
    ]
    version = registry.versions.commit(
        VersionManifest(
            seq=registry.versions.tip() + 1,
            created_at=time.time(),
            base=loaded.digest,
            model=loaded.name,
            dtype=loaded.dtype_name,
            hparams={"layers": list(CHANGED)},
            live=registry.ledger.put_live(live),
            live_count=len(live),
            weights=weights,
        )
    )
    assert version is not None
    return version
