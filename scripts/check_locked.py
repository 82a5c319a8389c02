"""Hold the running environment against lock/dev.txt: every package there, at its version, no other.

    python scripts/check_locked.py

Exits 1 and names what differs. Of torch the release is checked, and that lock/uv.toml repeats truly
what it asks for besides the GPU libraries, which come with its build and are not locked.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

LOCK = Path(__file__).parent.parent / "lock"
OURS = "memit-service"
GPU_LIBRARIES = re.compile("nvidia|cuda|(pytorch-)?triton")


def pins(file: Path) -> dict[str, Version]:
    """Version by name of each package that a lock file has for this Python and platform."""
    found: dict[str, Version] = {}
    for line in file.read_text("utf-8").splitlines():
        if not line or line.startswith((" ", "#")):
            continue
        pin = Requirement(line.removesuffix("\\"))
        if pin.marker is None or pin.marker.evaluate():
            (specifier,) = pin.specifier
            found[canonicalize_name(pin.name)] = Version(specifier.version)
    return found


def torch_asks_for_others() -> Iterator[str]:
    """Names that torch asks for and lock/uv.toml does not repeat, or the other way round."""
    (told,) = tomllib.loads((LOCK / "uv.toml").read_text("utf-8"))["dependency-metadata"]
    known = {canonicalize_name(Requirement(text).name) for text in told["requires-dist"]}
    wanted = (Requirement(text) for text in requires("torch") or [] if "extra ==" not in text)
    asks = {canonicalize_name(one.name) for one in wanted}
    yield from (name for name in sorted(asks ^ known) if not GPU_LIBRARIES.match(name))


def main() -> str | None:
    """What differs, or None."""
    locked, torch = pins(LOCK / "dev.txt"), pins(LOCK / "torch.txt")
    installed: dict[str, Version] = {
        canonicalize_name(one.metadata["Name"]): Version(one.version) for one in distributions()
    }
    wrong = [
        f"{name}: {version} is locked, {installed.get(name, 'none')} is installed"
        for name, version in sorted((locked | torch).items())
        if name not in installed or Version(installed[name].public) != version
    ]
    wrong += [
        f"{name}: installed, not locked"
        for name in sorted({*installed} - {*locked, *torch, OURS})
        if not GPU_LIBRARIES.match(name)
    ]
    wrong += [f"{name}: lock/uv.toml is wrong on it" for name in torch_asks_for_others()]
    return "\n".join(["the environment is not what lock/ says:", *wrong]) if wrong else None


if __name__ == "__main__":
    sys.exit(main())
