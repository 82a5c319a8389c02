"""Keys and revocations: put once, shown once, and never on disk themselves."""

from __future__ import annotations

import hashlib
import re
import time

import pytest
from pydantic import ValidationError

import registry.keys as registry_keys
from contracts.errors import InvalidRequest, NotFound
from contracts.keys import LOCAL, KeyRequest, Scope, with_included
from registry.keys import key_id_of, opens
from registry.registry import Registry
from tests.unit.registry.stores import everything

ASKED = KeyRequest(name="a frontend", scopes=[Scope.GENERATE], aliases=["active"])


def test_a_key_is_shown_once_and_kept_as_its_digest(registry: Registry) -> None:
    made = registry.keys.create(ASKED, LOCAL)
    found = re.fullmatch(r"memit_([0-9a-f]{16})_([0-9a-f]{64})", made.key)
    assert found is not None
    assert made.id == f"key-{found[1]}"
    kept = everything(registry.store)
    assert (
        hashlib.sha256(made.key.encode()).hexdigest().encode() in kept[f"keys/{made.id}/key.json"]
    )
    assert not any(found[2].encode() in data for data in kept.values())
    assert found[2] not in f"{made!r} {made}"

    other = Registry(registry.store).keys
    assert [key.id for key in other.all()] == [made.id]
    assert other.describe(made.id).model_dump() == made.model_dump(exclude={"key"})
    record = other.get(made.id)
    assert record is not None
    assert record.digest not in repr(record)


def test_only_the_key_itself_opens(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a comparison that takes as long whatever it compares."""
    compared = []

    def spy(a: str, b: str) -> bool:
        compared.append((a, b))
        return real(a, b)

    real = registry_keys.compare_digest
    monkeypatch.setattr(registry_keys, "compare_digest", spy)
    made = registry.keys.create(ASKED, LOCAL)
    record = registry.keys.get(made.id)
    assert record is not None
    assert opens(record, made.key)
    assert not opens(record, made.key[:-1] + ("0" if made.key[-1] != "0" else "1"))
    assert len(compared) == 2


def test_no_two_keys_are_alike(registry: Registry) -> None:
    keys = [registry.keys.create(ASKED, LOCAL).key for _ in range(20)]
    assert len({key[:22] for key in keys}) == len({key[23:] for key in keys}) == 20


def test_a_revocation_is_for_good_and_the_first_one_stands(registry: Registry) -> None:
    made = registry.keys.create(ASKED, LOCAL)
    assert not registry.keys.revoked(made.id)
    first = registry.keys.revoke(made.id, "key-aaaaaaaaaaaaaaaa")
    assert Registry(registry.store).keys.revoke(made.id, LOCAL) == first
    assert registry.keys.revoked(made.id)
    assert first.revoked_by == "key-aaaaaaaaaaaaaaaa"
    with pytest.raises(NotFound, match="no key"):
        registry.keys.revoke("key-0000000000000000", LOCAL)
    for name in ("../edits", "", "key-zz"):
        with pytest.raises(NotFound, match="no key"):
            registry.keys.revoke(name, LOCAL)


def test_any_key_counts_also_a_revoked_one(registry: Registry) -> None:
    other = Registry(registry.store).keys
    assert not other.any_made()
    registry.keys.revoke(registry.keys.create(ASKED, LOCAL).id, LOCAL)
    assert other.any_made()


def test_a_key_that_was_drawn_elsewhere(registry: Registry) -> None:
    key = f"memit_{'0' * 16}_{'1' * 64}"
    made = registry.keys.register(key, ASKED, LOCAL)
    assert registry.keys.register(key, ASKED, LOCAL) == made
    assert key_id_of(key) == made.id
    with pytest.raises(ValueError, match="another key has the id") as refused:
        registry.keys.register(f"memit_{'0' * 16}_{'2' * 64}", ASKED, LOCAL)
    assert "22" not in str(refused.value)
    with pytest.raises(ValueError, match="not of the form") as refused:
        registry.keys.register("hunter2", ASKED, LOCAL)
    assert "hunter2" not in str(refused.value)


def test_a_key_that_would_be_over_is_refused(registry: Registry) -> None:
    over = ASKED.model_copy(update={"expires_at": time.time() - 1})
    with pytest.raises(InvalidRequest, match="/expires_at must be in the future"):
        registry.keys.create(over, LOCAL)
    assert not registry.keys.any_made()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"scopes": []}, "at least 1 item"),
        ({"scopes": ["write"]}, "'read', 'generate', 'edit' or 'admin'"),
        ({"name": " "}, "not blank"),
        ({"name": "two\nlines"}, "one line"),
        ({"aliases": []}, "at least 1 item"),
        ({"aliases": ["../x"]}, "match pattern"),
        ({"scopes": ["admin"], "aliases": ["active"]}, "cannot limit a key with the scope admin"),
        ({"requests_per_minute": 0}, "greater than or equal to 1"),
        ({"tokens_per_minute": 0}, "greater than or equal to 1"),
        ({"owner": "me"}, "not permitted"),
    ],
)
def test_what_a_key_cannot_be_given(wrong: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        KeyRequest.model_validate({"name": "x", "scopes": ["read"], **wrong})


def test_scopes_that_include_others() -> None:
    read, generate, edit, admin = Scope
    assert with_included([read]) == {read}
    assert with_included([generate]) == {generate}
    assert with_included([edit]) == {read, generate, edit}
    assert with_included([admin, read]) == set(Scope)
