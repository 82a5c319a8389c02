"""Which epoch of `active` an edit may replace: every case from its POST to the move, as a table."""

from __future__ import annotations

import pytest

from contracts.edits import EditStep, StepKind
from contracts.errors import PreconditionFailed, PreconditionRequired, ServiceError
from contracts.versions import AliasRecord
from registry import Registry
from registry.activation import Activation, accepted_epoch, activate, activation_epoch
from tests.unit.registry.building import accepted, edit_manifest, with_v0

ACTIVE, OTHER = "v3-000000000003", "v1-000000000001"
EPOCH = 5
STALE, ANY = 4, "*"
"""`If-Match` of an epoch that is over, and of any."""
NONE = "activates not"


def at(epoch: int, version: str = ACTIVE) -> AliasRecord:
    return AliasRecord(name="active", epoch=epoch, version=version, at=0.0)


@pytest.mark.parametrize(
    ("base", "wanted", "if_match", "posted", "unmoved", "moved"),
    [
        # base, activate, If-Match → at the POST; at the start, `active` as it was; moved meanwhile
        (None, None, None, None, EPOCH, EPOCH + 1),
        (None, True, None, None, EPOCH, EPOCH + 1),
        (None, False, None, None, NONE, NONE),
        (None, None, EPOCH, EPOCH, EPOCH, EPOCH),
        (None, True, EPOCH, EPOCH, EPOCH, EPOCH),
        (None, False, EPOCH, EPOCH, NONE, NONE),
        (None, None, ANY, None, EPOCH, EPOCH + 1),
        (None, None, STALE, PreconditionFailed, None, None),
        (ACTIVE, None, None, None, EPOCH, NONE),
        (ACTIVE, True, None, None, EPOCH, NONE),
        (ACTIVE, None, EPOCH, EPOCH, EPOCH, EPOCH),
        (ACTIVE, None, ANY, EPOCH, EPOCH, EPOCH),
        (OTHER, None, None, None, NONE, NONE),
        (OTHER, True, None, PreconditionRequired, None, None),
        (OTHER, False, None, None, NONE, NONE),
        (OTHER, True, EPOCH, EPOCH, EPOCH, EPOCH),
        (OTHER, None, EPOCH, EPOCH, EPOCH, EPOCH),
        (OTHER, True, ANY, EPOCH, EPOCH, EPOCH),
        (OTHER, True, STALE, PreconditionFailed, None, None),
    ],
)
def test_the_epoch_that_an_activation_is_bound_to(
    base: str | None,
    wanted: bool | None,
    if_match: int | str | None,
    posted: int | type[ServiceError] | None,
    unmoved: int | str,
    moved: int | str,
) -> None:
    if isinstance(posted, type):
        with pytest.raises(posted, match="If-Match"):
            accepted_epoch(at(EPOCH), base, wanted, if_match)
        return
    bound = accepted_epoch(at(EPOCH), base, wanted, if_match)
    assert bound == posted
    for active, expected in ((at(EPOCH), unmoved), (at(EPOCH + 1, "v4-000000000004"), moved)):
        epoch = activation_epoch(active, base, wanted, bound)
        assert epoch == (None if expected == NONE else expected)


@pytest.mark.parametrize("if_match", [0, 1, ANY])
def test_nothing_can_be_expected_of_an_alias_that_is_not_there(if_match: int | str) -> None:
    assert accepted_epoch(None, None, True, None) is None
    with pytest.raises(PreconditionFailed, match="epoch 0"):
        accepted_epoch(None, None, True, if_match)


@pytest.mark.parametrize(
    ("epoch", "fields", "hold_back", "moved", "expected"),
    [
        (1, {}, None, False, Activation(done=True)),
        (1, {}, "no memory", False, Activation(done=False, refused="no memory")),
        (1, {}, None, True, "active is at epoch 2, not at 1"),
        (None, {}, "no memory", False, Activation(done=False)),
        (1, {"dry_run": True}, None, False, Activation(done=False)),
        (1, {"rejected": True}, None, False, Activation(done=False)),
        (2, {}, None, False, "active is at epoch 1, not at 2"),
    ],
)
def test_the_move(
    registry: Registry,
    epoch: int | None,
    fields: dict[str, bool],
    hold_back: str | None,
    moved: bool,
    expected: Activation | str,
) -> None:
    v0, edit = with_v0(registry), accepted()
    registry.edits.accept(edit)
    step = EditStep(kind=StepKind.COMMITTING, at=0.0, active_epoch=epoch)
    assert registry.edits.append(edit.id, step, 0)
    manifest = edit_manifest(registry, edit, 1, **fields)
    version = registry.versions.commit(manifest)
    assert version is not None
    if moved:
        registry.aliases.move("active", v0, 1)
    if isinstance(expected, str):
        expected = Activation(done=False, refused=f"alias {expected}")
    for _ in range(2):
        found = activate(registry, edit.id, version, manifest, hold_back)
        assert found == expected
    assert (registry.versions.resolve("active") == version) is expected.done
