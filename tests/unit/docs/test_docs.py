"""The docs keep up with the code: every journey, package, setting and link is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from contracts.settings import Settings

ROOT = Path(__file__).parents[3]
PACKAGES = ("contracts", "registry", "memit_core", "worker", "service", "cli", "memit_client")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])


def modules() -> list[str]:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return sorted(str(file.relative_to(ROOT)) for file in files if file.name != "__init__.py")


@pytest.mark.parametrize(("journey", "most"), [("An edit", 7), ("A generation", 5)])
def test_a_journey_is_drawn_in_few_files(journey: str, most: int) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    drawn = page.split(f"\n## {journey}\n")[1].split("```")[1]
    files = re.findall(r"^ +\d  (\S+\.py) ", drawn, re.MULTILINE)
    assert 3 < len(files) <= most
    for file in files:
        assert (ROOT / file).is_file(), file


def test_every_package_has_its_paragraph() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert tuple(re.findall(r"^\*\*(\w+)\*\* ", page, re.MULTILINE)) == PACKAGES


@pytest.mark.parametrize("module", modules())
def test_no_module_outgrows_a_reader(module: str) -> None:
    assert len((ROOT / module).read_text().splitlines()) <= 400


def test_every_setting_is_in_operations() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    named = set(re.findall(r"`(MEMIT_[A-Z_]+)`", page))
    settings = {f"MEMIT_{name.upper()}" for name in Settings.model_fields}
    assert settings <= named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not link.startswith(("http://", "https://")):
            assert (page.parent / link).exists(), link


def test_changelog_and_version_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(
        rf"^## \[{re.escape(version)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
