"""Aliases: what a record names, and what may be asked of one."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from contracts.versions import AliasRecord, AliasUpdate

A, B, C = "v9-00000000000a", "v10-00000000000b", "v11-00000000000c"


def record(version: str, split: dict[str, int] | None) -> AliasRecord:
    return AliasRecord(name="active", epoch=1, version=version, split=split, at=1.0)


def test_a_record_names_its_version_first_then_the_others_by_number() -> None:
    split = record(B, {C: 1, B: 5, A: 1})
    assert list(split.split or ()) == [A, B, C], "v9 before v10"
    assert split.versions == [B, A, C]
    assert record(A, None).versions == [A]
    assert AliasRecord.model_validate_json(split.model_dump_json()) == split


@pytest.mark.parametrize("weight", [1, 1000])
def test_weights_within_the_bounds(weight: int) -> None:
    asked = AliasUpdate.model_validate_json(f'{{"split": {{"v1": {weight}, "canary": 1}}}}')
    assert (asked.version, asked.split) == (None, {"v1": weight, "canary": 1})


def test_what_is_wrong_with_a_split_is_said_once() -> None:
    """A split that is refused does not also count as none at all."""
    with pytest.raises(ValidationError) as refused:
        AliasUpdate.model_validate({"split": {"v1": 0, "v2": 1}})
    assert [error["loc"] for error in refused.value.errors()] == [("split", "v1")]
