"""A worker or a service that can be stopped at any point, and whose clock and devices can fail.

The program is the product's own; around a few of its functions stands a look at the fuse
(`tests.chaos.fuse`). Run by `tests.chaos.stack`, or as `python -m tests.chaos.victim worker`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.fuse import Watch
from tests.chaos.points import kind_of

CLOCK = "clock"
"""File of the home: seconds by which the clock is wrong."""
QUICK = {"worker.editor_lock.LOCK_SECONDS": 5.0, "worker.recovery.SWEEP_SECONDS": 3.0}
"""Waiting for the dead, shortened: what is waited for stays the same."""


def begin(program: str, arguments: Sequence[str], env: dict[str, str], log: str, test: int) -> None:
    """Be that program, in a process that was forked for the process `test`."""
    os.environ.clear()
    os.environ.update(env)
    with Path(log).open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    threading.Thread(target=_end_with, args=(test,), daemon=True).start()
    sys.exit(run(program, arguments))


def run(program: str, arguments: Sequence[str]) -> int:
    """`worker` or `service`, watched."""
    home = Path(os.environ["MEMIT_HOME"])
    watch = Watch(home)
    _watch_store(watch, program)
    _watch_clock(home / CLOCK)
    if program == "service":
        return _service(watch)
    return _worker(watch, arguments)


def _service(watch: Watch) -> int:
    import service.jobs
    from service.__main__ import main

    _around(service.jobs.Jobs, "enqueue", watch, "queue")
    main()
    return 0


def _worker(watch: Watch, arguments: Sequence[str]) -> int:
    import worker.edit_run
    import worker.editor_lock
    import worker.engine.versioned
    import worker.main
    import worker.progress
    import worker.recovery
    import worker.warm_up

    if os.environ.get("CHAOS_QUICK"):
        for name, seconds in QUICK.items():
            module, _, constant = name.rpartition(".")
            setattr(sys.modules[module], constant, seconds)
    _before(worker.edit_run.EditRunner, "_run_one", watch, lambda *_: "job")
    _before(worker.warm_up.WarmUp, "__call__", watch, lambda *_: "warm")
    _before(worker.progress.EditProgress, "__call__", watch, lambda _, stage, *__: f"stage {stage}")
    _around(worker.engine.versioned.ServingView, "install", watch, "swap")
    _spoil_numbers(watch)
    return worker.main.main(list(arguments))


def _spoil_numbers(watch: Watch) -> None:
    """z, the solution and logits that are not finite, and devices without memory."""
    from memit_core.insert import Insertion
    from memit_core.z_optimisation import Optimisation
    from worker.engine.batch import KeyValueBatch

    optimise, solve, forward = Optimisation.run, Insertion._solved_keys, KeyValueBatch.forward

    def targets(self: Optimisation, *given: Any) -> Any:
        spoilt, found = watch.at("compute z"), optimise(self, *given)
        for target in found if spoilt else ():
            target.z.fill_(float("nan"))
        return found

    def solved(self: Insertion, *given: Any) -> Any:
        spoilt, found = watch.at("solve"), solve(self, *given)
        return found * float("nan") if spoilt else found

    def logits(self: KeyValueBatch, *given: Any) -> Any:
        spoilt, found = watch.at("forward"), forward(self, *given)
        return found * float("nan") if spoilt else found

    Optimisation.run = targets  # type: ignore[method-assign]
    Insertion._solved_keys = solved  # type: ignore[method-assign]
    KeyValueBatch.forward = logits  # type: ignore[method-assign]


def _watch_store(watch: Watch, program: str) -> None:
    """Before a file of the registry is written, before it has its name, and after."""
    import registry.folder_store as store

    write, link = store._link_new, store._link

    def link_new(folder: int, name: str, data: bytes) -> bool:
        kind = kind_of(path_of(folder, name))
        watch.at(f"{kind} before")
        watch.at(f"{program} write")
        won = write(folder, name, data)
        watch.at(f"{kind} after")
        return won

    def hard_link(folder: int, old: str, other: int, new: str) -> None:
        watch.at(f"{kind_of(path_of(other, new))} middle")
        link(folder, old, other, new)

    def path_of(folder: int, name: str) -> str:
        return str(Path(f"/proc/self/fd/{folder}").readlink() / name)

    store._link_new = link_new
    store._link = hard_link


def _watch_clock(file: Path) -> None:
    """`time.time` goes wrong as the file says."""
    right, read_at, wrong = time.time, 0.0, 0.0

    def now() -> float:
        nonlocal read_at, wrong
        if time.monotonic() - read_at > 0.2:
            read_at = time.monotonic()
            wrong = float(file.read_text()) if file.exists() else 0.0
        return right() + wrong

    time.time = now


def _before(owner: Any, name: str, watch: Watch, point: Callable[..., str]) -> None:
    real = getattr(owner, name)

    def watched(*given: Any, **named: Any) -> Any:
        watch.at(point(*given))
        return real(*given, **named)

    setattr(owner, name, watched)


def _around(owner: Any, name: str, watch: Watch, point: str) -> None:
    real = getattr(owner, name)

    def watched(*given: Any, **named: Any) -> Any:
        watch.at(f"{point} before")
        found = real(*given, **named)
        watch.at(f"{point} after")
        return found

    setattr(owner, name, watched)


def _end_with(test: int) -> None:
    """No process outlives the test. Its parent is another one, which lives as long as we do."""
    try:
        while True:
            os.kill(test, 0)
            time.sleep(0.5)
    except ProcessLookupError:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
