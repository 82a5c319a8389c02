"""Versions as model names: `NAME` is what `active` names, `NAME@v12` a version, `NAME@ALIAS`."""

from __future__ import annotations

from contracts.errors import NotFound, NoVersion
from contracts.settings import Settings
from contracts.versions import ACTIVE, BASE
from registry.registry import Registry
from service.openai_api.errors import ModelNotFound

AT = "@"


def served_name(registry: Registry, settings: Settings) -> str:
    """The name without a version: `MEMIT_SERVED_MODEL_NAME`, else that of the base model.

    Raises:
        NoVersion: no worker has published v0 yet.
    """
    if settings.served_model_name:
        return settings.served_model_name
    if registry.versions.tip() < 0:
        raise NoVersion
    return registry.versions.oldest()[1].model


def ref_of(name: str, model: str | None) -> str:
    """The version id, short id or alias that `model` means, where `name` is the served one.

    Raises:
        ModelNotFound: it is another model's name.
    """
    if model is None or model == name:
        return ACTIVE
    served, at, ref = model.rpartition(AT)
    if not at or served != name or not ref:
        raise ModelNotFound(
            f"the model {model[:200]!r} does not exist; {name!r} is served, "
            f"and its versions as {name + '@base'!r}, {name + '@v1'!r} and so on: GET /v1/models"
        )
    return "v0" if ref == BASE else ref


def version_of(registry: Registry, ref: str, model: str | None, key: str | None = None) -> str:
    """The full id of the version that `ref` means now; `key` draws that of a split alias.

    Raises:
        ModelNotFound: there is no such version or alias.
    """
    try:
        return registry.versions.resolve(ref, key=key)
    except NotFound as error:
        detail = f"the model {(model or ref)[:200]!r} does not exist: {error.detail}"
        raise ModelNotFound(detail) from error
