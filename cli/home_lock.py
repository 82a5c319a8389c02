"""One `memit serve` a home: a lock that the kernel frees when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.errors import CommandFailed


@contextmanager
def home_lock(home: Path, holder: str) -> Iterator[None]:
    """Hold the lock of `home`; `holder` is what a refused second one is told.

    Raises:
        CommandFailed: somebody holds it; names the holder.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "serve.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CommandFailed(
                f"{home} is in use by {file.read().strip() or 'another memit serve'}; "
                "stop that one, or choose another --home and --port"
            ) from None
        file.truncate(0)
        file.write(holder)
        file.flush()
        yield
