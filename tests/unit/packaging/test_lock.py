"""One lock: it has what pyproject.toml asks for, and the images take cuts of it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
LOCK = ROOT / "lock"
OURS = "memit-service"
PLATFORMS = [
    {"sys_platform": system, "platform_system": name, "platform_machine": machine}
    | {"python_version": python, "python_full_version": f"{python}.4", "os_name": "posix"}
    for system, name, machine in (
        ("linux", "Linux", "x86_64"),
        ("linux", "Linux", "aarch64"),
        ("darwin", "Darwin", "arm64"),
    )
    for python in ("3.11", "3.12", "3.13")
]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def entries(name: str) -> dict[str, list[str]]:
    """By pinned requirement, its hashes."""
    found: dict[str, list[str]] = {}
    pin = ""
    for line in (LOCK / name).read_text("utf-8").splitlines():
        if line.lstrip().startswith("--hash="):
            found[pin].append(line.strip().removesuffix(" \\"))
        elif line and not line.lstrip().startswith("#"):
            pin = line.removesuffix(" \\")
            found[pin] = []
    return found


def pins_on(name: str, platform: dict[str, str]) -> dict[str, Requirement]:
    pins = map(Requirement, entries(name))
    return {
        canonicalize_name(pin.name): pin
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(dict(platform))
    }


def asked_for(extra: str) -> Iterator[Requirement]:
    """What an extra asks for, through others of ours too, and the package itself."""
    given = project()["project"]
    yield from map(Requirement, given["dependencies"])
    for text in given["optional-dependencies"][extra]:
        one = Requirement(text)
        if one.name != OURS:
            yield one
        for other in one.extras if one.name == OURS else ():
            yield from asked_for(other)


@pytest.mark.parametrize("name", ["dev", "worker", "service"])
def test_every_package_has_hashes_and_one_version_by_platform(name: str) -> None:
    locked = entries(f"{name}.txt")
    assert all(locked.values())
    assert all(re.search(r"==\S+", pin) for pin in locked)
    for platform in PLATFORMS:
        active = [
            Requirement(pin).name
            for pin in locked
            if (marker := Requirement(pin).marker) is None or marker.evaluate(dict(platform))
        ]
        assert len(active) == len(set(active))


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda p: "-".join(list(p.values())[1:4]))
@pytest.mark.parametrize("extra", ["dev", "worker", "service"])
def test_the_lock_has_what_pyproject_asks_for(extra: str, platform: dict[str, str]) -> None:
    """A range that was changed without `make lock` is seen here."""
    pins = pins_on(f"{extra}.txt", platform) | pins_on("torch.txt", platform)
    for wanted in asked_for(extra):
        if wanted.marker is None or wanted.marker.evaluate(dict(platform)):
            (pinned,) = pins[canonicalize_name(wanted.name)].specifier
            assert wanted.specifier.contains(pinned.version), wanted


@pytest.mark.parametrize("cut", ["worker.txt", "service.txt"])
def test_the_images_take_cuts_of_the_one_lock(cut: str) -> None:
    """Release by release and hash by hash; a marker may be another where fewer ask for it."""
    whole, part = (
        {pin.partition(" ")[0]: hashes for pin, hashes in entries(name).items()}
        for name in ("dev.txt", cut)
    )
    assert {pin: whole.get(pin) for pin in part} == part


def test_the_service_is_locked_without_torch_and_nobody_with_cuda() -> None:
    assert "torch" not in " ".join(entries("service.txt"))
    assert not re.search(
        r"^(torch|nvidia|cuda|triton)", "\n".join(entries("dev.txt")), re.MULTILINE
    )
