"""Activation: which epoch of `active` an edit may replace, from its POST to the move.

An edit moves `active` by compare-and-swap on one epoch, to which it is bound in two steps. At the
POST, `If-Match` may bind it (`accepted_epoch`). When the edit begins, `activation_epoch` says what
holds: the epoch that was bound, else the one that stands then, else none. The last COMMITTING step
records it, and `activate` moves the alias from there, or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from contracts.edits import StepKind
from contracts.errors import FieldError, PreconditionFailed, PreconditionRequired
from contracts.versions import ACTIVE, ANY_EPOCH, AliasRecord, VersionManifest, VersionStatus
from registry.registry import Registry


def accepted_epoch(
    active: AliasRecord | None, base: str | None, wanted: bool | None, if_match: int | str | None
) -> int | None:
    """The epoch that a POST binds the activation to; None binds it to none yet.

    Args:
        active: where the alias is now.
        base: full id of the version that the edit starts from, if its client named one.
        wanted: `activate` of the request.
        if_match: an epoch, `*`, or None.

    Raises:
        PreconditionRequired: a branch shall be activated, and nothing says what it may replace.
        PreconditionFailed: `active` is at another epoch than `if_match`.
    """
    epoch = active.epoch if active else 0
    if if_match is None:
        if wanted and active and base not in (None, active.version):
            reason = f'is required: {base} is not active; send If-Match: "{epoch}"'
            error = FieldError(field="If-Match", reason=reason)
            raise PreconditionRequired(f"If-Match {reason}", errors=[error])
        return None
    if active is None or if_match not in (epoch, ANY_EPOCH):
        raise PreconditionFailed(f"active is at epoch {epoch}, If-Match says {if_match}")
    # `*` binds a branch to what it replaces now, and any other edit to nothing.
    return None if if_match == ANY_EPOCH and base is None else epoch


def activation_epoch(
    active: AliasRecord, base: str | None, wanted: bool | None, accepted: int | None
) -> int | None:
    """The epoch of `active` that the edit, which begins now, may replace; None: it activates not.

    Args:
        active: where the alias is now.
        base, wanted: as in `accepted_epoch`.
        accepted: what that returned.
    """
    if wanted is False:
        return None
    if accepted is not None:
        return accepted
    branch = base is not None and base != active.version
    return None if branch else active.epoch


@dataclass(frozen=True)
class Activation:
    """Whether an edit moved `active` to its version, and if it should have, why not."""

    done: bool
    refused: str | None = None


def activate(
    registry: Registry,
    edit_id: str,
    version: str,
    manifest: VersionManifest,
    hold_back: str | None = None,
) -> Activation:
    """Move `active` to the version if it may; repeated, it says what the first time did.

    Args:
        hold_back: why it may not, if its caller knows a reason.

    Raises:
        RegistryError: the storage fails.
    """
    epoch = bound_epoch(registry, edit_id)
    if epoch is None or manifest.dry_run or manifest.status is not VersionStatus.COMMITTED:
        return Activation(done=False)
    if registry.versions.made_active(version, edit_id):
        return Activation(done=True)
    if hold_back is not None:
        return Activation(done=False, refused=hold_back)
    try:
        registry.aliases.move(ACTIVE, version, epoch, edit_id)
    except PreconditionFailed as error:
        # Somebody else moved it since; or another process finishes this very edit.
        if registry.versions.made_active(version, edit_id):
            return Activation(done=True)
        return Activation(done=False, refused=error.detail)
    return Activation(done=True)


def bound_epoch(registry: Registry, edit_id: str) -> int | None:
    """The epoch that the edit may replace, as its last COMMITTING says; None: it activates not."""
    steps = registry.edits.steps(edit_id)
    committing = [step for step in steps if step.kind is StepKind.COMMITTING]
    return committing[-1].active_epoch if committing else None
