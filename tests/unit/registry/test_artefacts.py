"""What is computed once for a base model: the first writer's bytes stand for everybody."""

from __future__ import annotations

import pytest

from registry import Registry
from tests.unit.registry.building import BASE
from tests.unit.registry.stores import damage, everything


@pytest.mark.parametrize("name", ["templates", "covariance", "z/0123abcd", "solutions/0123abcd"])
def test_the_first_writer_wins(registry: Registry, name: str) -> None:
    artefacts = registry.artefacts(BASE)
    assert artefacts.get(name) is None
    assert artefacts.put_once(name, b"mine") == b"mine"

    other = Registry(registry.store).artefacts(BASE)
    assert other.put_once(name, b"other") == b"mine"
    assert other.get(name) == b"mine"
    assert registry.store.exists(f"models/{BASE}/{name}.json")


def test_artefacts_of_two_bases_are_apart(registry: Registry) -> None:
    registry.artefacts(BASE).put_once("templates", b"of one")
    assert registry.artefacts("c" * 64).get("templates") is None


@pytest.mark.parametrize("bad", ["../../etc", "z/..", "/z", "z/.hidden", ""])
def test_a_name_that_is_no_plain_path_is_refused(registry: Registry, bad: str) -> None:
    with pytest.raises(ValueError, match="not a safe key"):
        registry.artefacts(BASE).get(bad)
    with pytest.raises(ValueError, match="not a digest of a base model"):
        registry.artefacts("../" + "b" * 61)


def test_a_damaged_artefact_is_mended_by_the_same_bytes(registry: Registry) -> None:
    artefacts = registry.artefacts(BASE)
    artefacts.put_once("covariance", b"the covariance")
    [blob] = (key for key in everything(registry.store) if key.startswith("blobs/"))
    damage(registry.store, blob, b"the covarianc\x00")

    assert artefacts.get("covariance") is None, "whoever needs it computes it again"
    assert artefacts.put_once("covariance", b"the covariance") == b"the covariance"
    assert artefacts.get("covariance") == b"the covariance"
    assert not registry.store.exists(f"models/{BASE}/covariance.1.json")


@pytest.mark.parametrize("part", ["pointer", "blob"])
def test_a_lost_artefact_is_superseded_beside_it(registry: Registry, part: str) -> None:
    """Another machine's bits may differ: the first that are put again stand from then on."""
    artefacts = registry.artefacts(BASE)
    artefacts.put_once("covariance", b"the covariance")
    pointer = f"models/{BASE}/covariance.json"
    [blob] = (key for key in everything(registry.store) if key.startswith("blobs/"))
    damage(registry.store, pointer if part == "pointer" else blob, b"{")

    assert artefacts.get("covariance") is None
    assert artefacts.put_once("covariance", b"again") == b"again"
    assert Registry(registry.store).artefacts(BASE).put_once("covariance", b"late") == b"again"
    assert artefacts.get("covariance") == b"again"

    registry.store.set_aside(pointer)
    assert artefacts.get("covariance") == b"again", "it does not hang on the damaged one"
