"""Several processes on one folder: races have one winner, and a killed one breaks nothing."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from contracts.errors import PreconditionFailed
from registry import FolderStore, Registry
from tests.unit.registry.building import accepted, edit_manifest, with_v0

SPAWN = multiprocessing.get_context("spawn")
PROCESSES = 3
ROUNDS = 15
JOIN_SECONDS = 60


def compete(root: Path, name: int, start: Barrier, answers: Connection) -> None:
    """In a process of its own: race for files, alias epochs, version numbers and one edit's key."""
    registry = Registry(FolderStore(root))
    won: dict[str, list[Any]] = {"file": [], "epoch": [], "version": [], "edit": []}
    start.wait()
    for number in range(ROUNDS):
        if registry.store.put_if_absent(f"race/{number}", f"{name}".encode() * 10_000):
            won["file"].append(number)

        record = registry.aliases.get("active")
        assert record is not None
        try:
            moved = registry.aliases.move("active", record.version, record.epoch, f"{name}")
            won["epoch"].append(moved.epoch)
        except PreconditionFailed:
            pass

        own = accepted(f"city {name}-{number}")
        version = None
        while version is None:
            made = edit_manifest(registry, own, registry.versions.tip() + 1)
            version = registry.versions.commit(made)
        won["version"].append(version)
        won["edit"].append(registry.edits.accept(accepted(), f"key {number}", "body"))
    answers.send(won)


def test_every_race_has_exactly_one_winner(registry_path: Path) -> None:
    root, registry = registry_path, Registry(FolderStore(registry_path))
    with_v0(registry)
    start = SPAWN.Barrier(PROCESSES)
    pipes = [SPAWN.Pipe(duplex=False) for _ in range(PROCESSES)]
    running = [
        SPAWN.Process(target=compete, args=(root, name, start, send))
        for name, (_, send) in enumerate(pipes)
    ]
    for process in running:
        process.start()
    for _, send in pipes:
        send.close()
    won = [receive.recv() for receive, _ in pipes]
    for (receive, _), process in zip(pipes, running, strict=True):
        process.join(JOIN_SECONDS)
        assert process.exitcode == 0
        receive.close()

    files = {number: name for name, each in enumerate(won) for number in each["file"]}
    assert sorted(number for each in won for number in each["file"]) == list(range(ROUNDS))
    for number, name in files.items():
        assert registry.store.get(f"race/{number}") == f"{name}".encode() * 10_000

    epochs = {epoch: f"{name}" for name, each in enumerate(won) for epoch in each["epoch"]}
    assert len(epochs) == sum(len(each["epoch"]) for each in won)
    history = registry.aliases.history("active")[1:]
    assert {record.epoch: record.edit_id for record in history} == epochs

    versions = [version for each in won for version in each["version"]]
    log = [registry.versions.by_seq(number) for number in range(1, registry.versions.tip() + 1)]
    assert sorted(versions) == sorted(version for version in log if version), "none lost or doubled"
    assert len(log) == PROCESSES * ROUNDS

    for number in range(ROUNDS):
        answers = [each["edit"][number] for each in won]
        assert len({edit_id for edit_id, _ in answers}) == 1
        assert [new for _, new in answers].count(True) == 1
    assert len(registry.edits.unfinished()) == ROUNDS


def write_until_killed(root: Path, ready: Connection) -> None:
    registry = Registry(FolderStore(root))
    ready.send("writing")
    number = 0
    while True:
        number += 1
        registry.edits.accept(accepted(f"city {number}"))
        registry.blobs.put(str(number).encode() * 100_000)


def test_a_process_killed_while_it_writes_leaves_only_whole_files(registry_path: Path) -> None:
    root, registry = registry_path, Registry(FolderStore(registry_path))
    for _ in range(2):
        receive, send = SPAWN.Pipe(duplex=False)
        process = SPAWN.Process(target=write_until_killed, args=(root, send))
        process.start()
        assert receive.recv() == "writing"
        time.sleep(0.15)
        process.kill()
        process.join(JOIN_SECONDS)
        receive.close()
        send.close()

    accepted_edits = registry.edits.unfinished()
    assert accepted_edits, "the writers got somewhere"
    for edit_id in accepted_edits:
        registry.edits.get(edit_id)
    for path in root.rglob("*"):
        if path.name.endswith(".json"):
            json.loads(path.read_bytes())
        elif path.is_file() and not path.name.startswith("."):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name

    edit = accepted("after the kill")
    registry.edits.accept(edit)
    assert registry.edits.unfinished() == [*accepted_edits, edit.id]
