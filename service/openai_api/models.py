"""`/v1/models`: every version of the facts is a model name."""

from __future__ import annotations

from itertools import islice

from fastapi import APIRouter

from contracts.settings import Settings
from contracts.versions import ACTIVE, BASE, VersionStatus
from registry.registry import Registry
from service.deps import Caller, Ctx
from service.openai_api.answers import ModelCard, ModelList
from service.openai_api.names import AT, ref_of, served_name, version_of
from service.pages import readable

NEWEST = 20
"""Versions that the list shows by number; any other answers all the same."""
LOOKED_AT = 200
"""Newest versions among which those are looked for that were not rejected."""

router = APIRouter()


@router.get("/models")
def list_models(context: Ctx, caller: Caller) -> ModelList:
    """What `active` names, the untouched model, all aliases and the newest versions.

    Of these only what the key may ask.
    """
    registry = context.registry
    name = served_name(registry, context.settings)
    ids, _ = registry.versions.page(LOOKED_AT)
    sound, _ = readable(ids, lambda version: (version, registry.versions.get(version)))
    committed = (
        version.partition("-")[0]
        for version, manifest in sound
        if manifest.status is VersionStatus.COMMITTED
    )
    numbered = islice(committed, NEWEST)
    aliases = [alias for alias in registry.aliases.names() if alias != ACTIVE]
    refs = [ref for ref in (ACTIVE, BASE, *aliases, *numbered) if caller.may_use(ref)]
    names = [name if ref == ACTIVE else f"{name}{AT}{ref}" for ref in refs]
    cards, _ = readable(names, lambda model: _card(registry, context.settings, model))
    return ModelList(data=cards)


@router.get("/models/{model:path}")
def get_model(model: str, context: Ctx) -> ModelCard:
    """One of them, or any other version by `NAME@v12`."""
    return _card(context.registry, context.settings, model)


def _card(registry: Registry, settings: Settings, model: str) -> ModelCard:
    name = served_name(registry, settings)
    version = version_of(registry, ref_of(name, model), model)
    manifest = registry.versions.get(version)
    return ModelCard(
        id=model,
        created=int(manifest.created_at),
        root=manifest.model,
        parent=None if manifest.seq == 0 else f"{name}{AT}{BASE}",
        version=version,
    )
