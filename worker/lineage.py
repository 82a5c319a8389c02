"""The beginning of a registry: v0, the untouched model, and the one set of hyperparameters."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time

from contracts.errors import PreconditionFailed
from contracts.ids import VersionId
from contracts.transport import (
    CHAT_TEMPLATE_ARTEFACT,
    TOKENIZER_ARTEFACT,
    UNKNOWN_TOKENS_ARTEFACT,
)
from contracts.versions import ACTIVE, VersionManifest
from memit_core.edit import Editor
from memit_core.errors import MemitError
from memit_core.hparams import HParams, from_dict
from memit_core.loading import LoadedModel
from memit_core.methods import Method
from memit_core.revision import METHOD
from memit_core.software import software
from memit_core.transformers_internals import tokenizer_json
from registry.errors import RecordDamaged
from registry.kinds import explained
from registry.registry import Registry
from registry.restore import restore_newest
from worker.progress import Interrupted

log = logging.getLogger(__name__)

NO_BASE = f"v0-{'0' * 12}"
LAMBDA = {"mom2_update_weight", "mom2_weight_per_subject", "mom2_update_weight_max"}
"""What an edit's version says of itself alone."""


class OtherLineage(MemitError):
    """The registry was begun with another base model or other hyperparameters."""


def begun_with(registry: Registry, base: str) -> HParams | None:
    """The hyperparameters that a registry was begun with; None if it is empty or another base's.

    They hold where the user names none, so that a release with a better preset opens old registries
    as they are.

    Args:
        base: digest of the base model.

    Raises:
        OtherLineage: another release has begun it, with names or values that this one lacks.
    """
    if registry.versions.tip() < 0:
        return None
    first = registry.versions.oldest()[1]
    if first.base != base:
        return None
    if not _holds_hparams(first):
        log.error(
            "v0 is lost: the hyperparameters are the preset's, if --hparams gives no others; those "
            "of %s are with each version",
            first.method,
        )
        return None
    if first.seq > 0:
        log.error(
            "v0 is lost: the hyperparameters are those of version %d, with the λ of its edit "
            "(--hparams gives another)",
            first.seq,
        )
    return _hparams_of(first)


def _holds_hparams(first: VersionManifest) -> bool:
    """v0 has the editor's hyperparameters, whatever the method; a version has its method's."""
    return first.seq == 0 or first.method == METHOD


def _hparams_of(first: VersionManifest) -> HParams:
    try:
        return from_dict(first.hparams)
    except MemitError as error:
        raise OtherLineage(
            f"another release has begun this registry ({error}): start that one, or with another "
            "--home"
        ) from error


def begin_lineage(registry: Registry, editor: Editor, method: Method) -> str:
    """Commit v0 and point `active` at it in an empty registry; else check that it fits.

    Also publishes the tokenizer, so that the service can refuse what does not tokenise, and the
    chat template.

    Returns:
        The id of v0.

    Raises:
        OtherLineage: says what differs and what to do.
    """
    restore_newest(registry)
    if registry.versions.tip() < 0:
        registry.versions.commit(_first(registry, editor, method))
    first, manifest = registry.versions.oldest()
    _check(manifest, editor, method)
    registry.versions.keep_copy(first)
    if registry.aliases.epoch(ACTIVE) == 0:
        with contextlib.suppress(PreconditionFailed):  # another worker was quicker
            registry.aliases.move(ACTIVE, first, 0)
    artefacts = registry.artefacts(editor.loaded.digest)
    unknown = json.dumps(sorted(editor.loaded.unknown_tokens)).encode()
    artefacts.put_once(UNKNOWN_TOKENS_ARTEFACT, unknown)
    template = json.dumps({"chat_template": editor.loaded.tokenizer.chat_template}, sort_keys=True)
    artefacts.put_once(CHAT_TEMPLATE_ARTEFACT, template.encode())
    artefacts.put_once(TOKENIZER_ARTEFACT, tokenizer_json(editor.loaded.tokenizer).encode())
    return base_id(registry)


def base_id(registry: Registry) -> VersionId:
    """The id of v0. Where its entry is lost it is one that no version has.

    The untouched model is served all the same; nobody can name it then.
    """
    try:
        return registry.versions.resolve("v0")
    except RecordDamaged as error:
        log.error("v0 is not served by its id: %s", explained(error))
        return NO_BASE


def await_lineage(
    registry: Registry, loaded: LoadedModel, stopping: threading.Event, poll_seconds: float
) -> str:
    """The id of v0, once an editor has put it; for an engine, which cannot begin a registry.

    Raises:
        OtherLineage: the registry belongs to another model.
        Interrupted: the worker is stopping.
    """
    while registry.versions.tip() < 0:
        log.info("waiting for an editor to begin the registry (a worker with --role all or editor)")
        if stopping.wait(poll_seconds):
            raise Interrupted("the worker is stopping")
    _check_base(registry.versions.oldest()[1], loaded)
    return base_id(registry)


def _first(registry: Registry, editor: Editor, method: Method) -> VersionManifest:
    return VersionManifest(
        seq=0,
        created_at=time.time(),
        base=editor.loaded.digest,
        model=editor.loaded.name,
        dtype=editor.loaded.dtype_name,
        hparams=editor.hparams.as_dict(),
        live=registry.ledger.put_live([]),
        live_count=0,
        method=method.name,
        method_revision=method.revision,
        software=software(),
        device=str(editor.loaded.device),
    )


def _check(first: VersionManifest, editor: Editor, method: Method) -> None:
    if first.method != method.name:
        raise OtherLineage(
            f"the facts of this registry are written by {first.method}, not by {method.name}: "
            f"start with MEMIT_METHOD={first.method}, or with another --home"
        )
    _check_base(first, editor.loaded)
    if not _holds_hparams(first):
        return
    ours, theirs = editor.hparams.as_dict(), _hparams_of(first).as_dict()
    told = {*ours, *theirs} - (LAMBDA if first.seq > 0 else set())
    differing = sorted(k for k in told if ours.get(k) != theirs.get(k))
    if differing:
        name = differing[0]
        raise OtherLineage(
            f"this registry was begun with {name} = {theirs.get(name)}, not {ours.get(name)}: "
            "a lineage has one set of hyperparameters (an edit may give its own "
            "mom2_update_weight); start without --hparams to keep them, or with another --home"
        )


def _check_base(first: VersionManifest, loaded: LoadedModel) -> None:
    if first.base != loaded.digest:
        raise OtherLineage(
            f"this registry belongs to the model {first.model} ({first.dtype}, weights "
            f"{first.base[:12]}), not to {loaded.name} ({loaded.dtype_name}, weights "
            f"{loaded.digest[:12]}): start with that model, or with another --home"
        )
