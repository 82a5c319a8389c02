"""Backups made again and again while real edits commit: each can be served, and edited further."""

from __future__ import annotations

import threading
from pathlib import Path

from redis import Redis
from typer.testing import CliRunner

from cli.main import app
from contracts.edits import EditState
from registry import FolderStore, Registry
from registry.checkup import examine
from registry.retention import Policy, consider, give_up
from tests.unit.worker.workshop import Workshop, fact

EDITS = 8
COPIES = 4
"""At least so many of each, however slow the one or the other is just then."""
PRUNED = Policy(keep=1, older_than=0)


def test_while_real_edits_commit_and_weights_go(
    workshop: Workshop, redis_url: str, tmp_path: Path
) -> None:
    first = workshop.version([fact("Ada")])
    over = threading.Event()
    copies: list[Path] = []
    failed: list[str] = []

    def keep_copying() -> None:
        while not over.is_set():
            home = tmp_path / f"copy{len(copies)}"
            for folder in (home, tmp_path / "kept"):  # a new one, and one that grows
                made = CliRunner().invoke(
                    app, ["backup", str(folder), "--home", str(tmp_path), "--json"]
                )
                if made.exit_code != 0:
                    failed.append(f"{made.output} {made.exception!r}")
            copies.append(home)

    copying = threading.Thread(target=keep_copying)
    copying.start()
    try:
        number = 0
        while number < EDITS or len(copies) < COPIES:
            number += 1
            workshop.version([fact(f"Town {number}")])
            list(give_up(workshop.registry, PRUNED, consider(workshop.registry, PRUNED)))
    finally:
        over.set()
        copying.join()
    assert failed == []
    seen = set()
    for home in (*copies, tmp_path / "kept"):
        assert CliRunner().invoke(app, ["doctor", "--home", str(home)]).exit_code == 0
        registry = Registry(FolderStore(home / "registry"))
        seen.add(registry.versions.tip())
        assert registry.ledger.live(registry.versions.resolve("active"))
    assert len(seen) > 2, "they were made in between edits"

    with Redis.from_url(redis_url) as redis:
        for home in (copies[len(copies) // 2], tmp_path / "kept"):
            restored = Workshop(home / "registry", redis)
            for waiting in restored.registry.edits.unfinished():
                restored.runner.run(waiting)
            before = restored.registry.versions.get(restored.active).live_count
            end = restored.run([fact("Eve")])
            assert (end.state, end.activated) == (EditState.COMMITTED, True)
            assert restored.registry.versions.get(restored.active).live_count == before + 1
            restored.maker.rebuild(first)
            assert restored.registry.versions.describe(first).weights_kept
            assert examine(restored.registry).findings == []
