"""Weights that were removed are solved again bit for bit, wherever they are asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contracts.edits import EditState
from memit_core.weights import LowRank, decode_delta, encode_delta
from registry import Registry
from registry.blobs import blob_key
from registry.checkup import examine
from registry.retention import Policy, consider, give_up
from tests.unit.worker.workshop import Workshop, fact
from worker.deltas import Deltas
from worker.make_version import VersionMaker

ALL = Policy(keep=1, older_than=0)


def prune(registry: Registry) -> list[str]:
    return list(give_up(registry, ALL, consider(registry, ALL)))


def weights(workshop: Workshop, version: str) -> dict[str, bytes | None]:
    store = workshop.registry.store
    return {
        blob: store.get(blob_key(blob)) for blob in workshop.registry.versions.get(version).blobs
    }


@pytest.fixture
def three(workshop: Workshop) -> list[str]:
    return [workshop.version([fact(name)]) for name in ("Ada", "Bob", "Cid")]


def test_solved_again_bit_for_bit_and_removed_again(workshop: Workshop, three: list[str]) -> None:
    before = weights(workshop, three[0])
    assert len(before) > 0
    for _ in range(2):
        assert prune(workshop.registry)[-1] == three[0]
        assert set(weights(workshop, three[0]).values()) == {None}
        assert examine(workshop.registry).findings == []
        workshop.maker.rebuild(three[0])
        assert weights(workshop, three[0]) == before
        assert workshop.registry.versions.describe(three[0]).weights_kept


def test_an_edit_back_to_facts_whose_weights_went(workshop: Workshop, three: list[str]) -> None:
    """The kept solution names blobs that are gone; the new version has the same ones again."""
    prune(workshop.registry)
    [cid] = workshop.registry.versions.get(three[2]).added
    again = workshop.version([], retract=[cid])
    assert weights(workshop, again) == weights(workshop, three[1])
    assert None not in weights(workshop, again).values()
    assert workshop.registry.versions.describe(three[1]).weights_kept


def test_other_bits_take_the_place_of_removed_ones(
    workshop: Workshop, three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another device: the edit goes on, and the old version says why it is not there."""
    prune(workshop.registry)
    method = workshop.maker._method
    solve = method.solve

    def otherwise(*given: object) -> object:
        solved = solve(*given)  # type: ignore[arg-type]
        return {
            path: replace(delta, left=delta.left * 1.0001) if isinstance(delta, LowRank) else delta
            for path, delta in solved.items()
        }

    monkeypatch.setattr(method, "solve", otherwise)
    [cid] = workshop.registry.versions.get(three[2]).added
    end = workshop.run([], retract=[cid])
    assert end.state is EditState.COMMITTED
    assert end.version is not None
    assert set(weights(workshop, end.version)).isdisjoint(weights(workshop, three[1]))
    assert examine(workshop.registry).findings == []
    with pytest.raises(Exception, match="other bits than were stored"):
        workshop.maker.rebuild(three[1])


def test_a_removal_between_solving_and_committing(
    workshop: Workshop, three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit read the weights of an old version of the same facts, which then went."""
    make = VersionMaker.make

    def then_prune(*given: object) -> object:
        made = make(*given)  # type: ignore[arg-type]
        prune(Registry(workshop.registry.store))
        return made

    monkeypatch.setattr(VersionMaker, "make", then_prune)
    [cid] = workshop.registry.versions.get(three[2]).added
    again = workshop.version([], retract=[cid])
    assert set(weights(workshop, again).values()) == {None}
    assert workshop.active == again
    assert examine(workshop.registry).findings == []
    workshop.maker.rebuild(again)
    for data in weights(workshop, again).values():
        assert data is not None
        assert encode_delta(decode_delta(data)) == data


def test_nobody_solves_what_somebody_solved(workshop: Workshop, three: list[str]) -> None:
    """Two engines ask for the same version."""
    prune(workshop.registry)
    workshop.maker.rebuild(three[0])
    deltas = Deltas(workshop.registry.blobs)
    for blob in workshop.registry.versions.get(three[0]).blobs:
        deltas.read(blob)
    solves: list[object] = []
    workshop.maker._method.solve = lambda *given: solves.append(given)  # type: ignore
    workshop.maker.rebuild(three[0])
    assert solves == []
