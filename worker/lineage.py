"""The beginning of a registry: v0, the untouched model, and the one set of hyperparameters."""

from __future__ import annotations

import contextlib
import time

from contracts.errors import PreconditionFailed
from contracts.transport import TOKENIZER_ARTEFACT
from contracts.versions import VersionManifest
from memit_core.edit import Editor
from memit_core.errors import MemitError
from registry.commit import ACTIVE
from registry.registry import Registry
from worker.make_version import software


class OtherLineage(MemitError):
    """The registry was begun with another base model or other hyperparameters."""


def begin_lineage(registry: Registry, editor: Editor) -> str:
    """Commit v0 and point `active` at it in an empty registry; else check that it fits.

    Also publishes the tokenizer, so that the service can refuse what does not tokenise.

    Returns:
        The id of v0.

    Raises:
        OtherLineage: says what differs and what to do.
    """
    if registry.versions.tip() < 0:
        registry.versions.commit(_first(registry, editor))
    first = registry.versions.resolve("v0")
    _check(registry.versions.get(first), editor)
    if registry.aliases.get(ACTIVE) is None:
        with contextlib.suppress(PreconditionFailed):  # another worker was quicker
            registry.aliases.move(ACTIVE, first, 0)
    tokenizer = editor.loaded.tokenizer.backend_tokenizer.to_str().encode()
    registry.artefacts(editor.loaded.digest).put_once(TOKENIZER_ARTEFACT, tokenizer)
    return first


def _first(registry: Registry, editor: Editor) -> VersionManifest:
    return VersionManifest(
        seq=0,
        created_at=time.time(),
        base=editor.loaded.digest,
        model=editor.loaded.name,
        dtype=editor.loaded.dtype_name,
        hparams=editor.hparams.as_dict(),
        live=registry.ledger.put_live([]),
        live_count=0,
        software=software(),
        device=str(editor.loaded.device),
    )


def _check(first: VersionManifest, editor: Editor) -> None:
    if first.base != editor.loaded.digest:
        raise OtherLineage(
            f"this registry belongs to the model {first.model} ({first.dtype}, weights "
            f"{first.base[:12]}), not to {editor.loaded.name} ({editor.loaded.dtype_name}, weights "
            f"{editor.loaded.digest[:12]}): start with that model, or with another --home"
        )
    ours = editor.hparams.as_dict()
    differing = sorted(k for k in {*ours, *first.hparams} if ours.get(k) != first.hparams.get(k))
    if differing:
        name = differing[0]
        raise OtherLineage(
            f"this registry was begun with {name} = {first.hparams.get(name)}, not "
            f"{ours.get(name)}: a lineage has one set of hyperparameters (an edit may give its own "
            "mom2_update_weight); start with the old set, or with another --home"
        )
