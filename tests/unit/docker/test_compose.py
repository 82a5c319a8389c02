"""The compose file gives each process every setting that its code reads, and a disk to write to."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts.settings import Settings
from registry.folder_store import FolderStore
from registry.keys import Keys
from service.listening import prepare_keys

ROOT = Path(__file__).parents[3]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PROCESSES = ("service", "worker")
FIXED = {
    "home": "the volumes are mounted in it",
    "scratch": "a volume is mounted there",
    "redis_url": "the Redis of the compose file",
    "redis_password_file": "made by `init`",
    "first_key_file": "made by `init`",
    "host": "all of the container's; compose publishes it on 127.0.0.1",
    "port": "MEMIT_PORT is the one that compose publishes",
}
"""Settings that have one value in the containers, and why."""


def variable(field: str) -> str:
    return f"MEMIT_{field.upper()}"


def passed(process: str) -> dict[str, Any]:
    """What its container sets; None: taken from the shell or `.env`."""
    image = (ROOT / "docker" / f"{process}.Dockerfile").read_text()
    return {
        **dict(re.findall(r"^(?:ENV)? +(MEMIT_\w+)=(\S+)", image, re.MULTILINE)),
        **COMPOSE["services"][process]["environment"],
    }


def of_settings(node: ast.AST) -> str | None:
    """The field, property or method that is read here, of something called settings."""
    if not isinstance(node, ast.Attribute):
        return None
    owner = node.value.func if isinstance(node.value, ast.Call) else node.value
    name = getattr(owner, "id", getattr(owner, "attr", ""))
    return node.attr if name.lower().endswith("settings") else None


def behind() -> dict[str, set[str]]:
    """The fields that each property and method of the settings reads."""
    tree = ast.parse((ROOT / "contracts" / "settings.py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {
        function.name: {
            node.attr
            for node in ast.walk(function)
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "self"
        }
        for function in functions
    }


def read(process: str) -> set[str]:
    """The fields that its code reads."""
    found: set[str] = set()
    for file in (ROOT / process).rglob("*.py"):
        nodes = ast.walk(ast.parse(file.read_text()))
        found.update(name for node in nodes if (name := of_settings(node)))
    through = behind()
    return {field for name in found for field in through.get(name, {name})}


def test_no_line_is_there_twice() -> None:
    """Docker refuses a file in which a key is given twice; this project's reader takes the last."""

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"twice in line {node.start_mark.line + 1}: {keys}"
            return super().construct_mapping(node, deep)

    for file in ROOT.glob("docker-compose*.yml"):
        yaml.load(file.read_text(), Strict)  # noqa: S506 - a safe loader


def test_every_setting_is_found_where_it_is_read() -> None:
    """One that nobody reads is dead, or read in a way that the tests below do not see."""
    assert read("service") | read("worker") == set(Settings.model_fields)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_container_gets_the_settings_that_its_process_reads(process: str) -> None:
    settings = {variable(field) for field in Settings.model_fields}
    assert passed(process).keys() & settings == {variable(field) for field in read(process)}


@pytest.mark.parametrize("process", PROCESSES)
def test_whoever_starts_the_containers_chooses_the_other_settings(process: str) -> None:
    known = {variable(field) for field in Settings.model_fields} | {"MEMIT_MODEL_CACHE"}
    assert {name for name in passed(process) if name.startswith("MEMIT_")} <= known
    ours = {name for name, value in passed(process).items() if value is not None}
    assert ours & known <= {variable(field) for field in FIXED} | {"MEMIT_MODEL_CACHE"}


def test_the_worker_writes_to_volumes_that_are_its_own() -> None:
    """Its root file system is read-only, and `init` gives away volumes that are root's at first."""
    targets = dict(volume.split(":")[:2] for volume in COMPOSE["services"]["worker"]["volumes"])
    assert COMPOSE["services"]["worker"]["read_only"]
    environment = passed("worker")
    settings = Settings(home=environment["MEMIT_HOME"], scratch=environment["MEMIT_SCRATCH"])
    written = {str(settings.registry_path), str(settings.scratch_path)}
    written.add(environment["MEMIT_MODEL_CACHE"])
    assert set(targets.values()) - {"/run/memit"} == written
    given = {volume.split(":")[0] for volume in COMPOSE["services"]["init"]["volumes"]}
    assert targets.keys() <= given


def init(secrets: Path) -> None:
    """Run the script of `init`, with this folder in place of its volume and all files one's own."""
    (script,) = COMPOSE["services"]["init"]["command"]
    script = script.replace("$$", "$").replace("/run/memit", str(secrets))
    lines = [line for line in script.splitlines() if "chown" not in line]
    subprocess.run(["/bin/sh", "-euc", "\n".join(lines)], check=True)


def test_the_first_key_is_made_once_and_taken_in(tmp_path: Path) -> None:
    """The service listens on all addresses of its container, so it does not start without one."""
    init(tmp_path)
    file = tmp_path / "first-key"
    made = file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    init(tmp_path)
    assert file.read_text() == made
    other = tmp_path / "other"
    other.mkdir()
    init(other)
    assert (other / "first-key").read_text() != made

    environment = passed("service")
    assert environment["MEMIT_FIRST_KEY_FILE"] == "/run/memit/first-key"
    settings = Settings(home=tmp_path, host=environment["MEMIT_HOST"], first_key_file=file)
    prepare_keys(settings)
    (key,) = Keys(FolderStore(settings.registry_path)).all()
    assert made.startswith(f"memit_{key.id.removeprefix('key-')}_")


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_no_container_may_do_more_than_it_needs(name: str) -> None:
    """`init` alone is root, without a network, to give volumes away."""
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "pid", "ipc", "devices"}
    mounted = [volume.split(":")[0] for volume in service.get("volumes", ())]
    assert set(mounted) <= COMPOSE["volumes"].keys(), "no folder of the machine, nor its Docker"
    if name == "init":
        assert (service["cap_add"], service["network_mode"]) == (["CHOWN"], "none")
    else:
        assert service["user"] == "10001:10001"
        assert "cap_add" not in service
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("process", PROCESSES)
def test_an_image_is_built_of_what_is_locked(process: str) -> None:
    """torch alone has no hash (ADR 9); base images have a tag, no `latest`."""
    text = (ROOT / "docker" / f"{process}.Dockerfile").read_text().replace("\\\n", " ")
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.\d+-slim", base) for base in bases)
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == ["10001:10001"]
    installs = re.findall(r"pip(?: --python \S+)? install ([^&\n]*)", text)
    packages = [one for one in installs if not one.rstrip().endswith("--no-build-isolation .")]
    locked = [one for one in packages if f"-r {process}.txt" in one]
    assert len(locked) == 1
    assert all(
        flag in locked[0] for flag in ("--require-hashes", "--no-deps", "--only-binary :all:")
    )
    assert [one.split("-r ")[1].strip() for one in packages if one not in locked] == (
        ["torch.txt"] if process == "worker" else []
    )
    assert "ADD " not in text


def test_images_that_are_taken_as_they_are_have_a_tag() -> None:
    taken = {one["image"] for one in COMPOSE["services"].values() if "image" in one}
    assert all(re.fullmatch(r"[\w/]+:\d[\w.-]*", image) for image in taken)
