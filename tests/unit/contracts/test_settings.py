"""Settings that are made of others."""

from __future__ import annotations

from pathlib import Path

from contracts.settings import Settings


def test_the_scratch_is_in_the_home_unless_it_is_named() -> None:
    assert Settings(home=Path("/h")).scratch_path == Path("/h/scratch")
    assert Settings(home=Path("/h"), scratch=Path("/s")).scratch_path == Path("/s")
