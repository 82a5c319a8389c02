"""Progress of work in this very process, on the bars that edits of a service are shown on."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console

from cli.follow import StageBars
from contracts.edits import Progress

INTERVAL_SECONDS = 0.2


class TerminalProgress:
    """A `memit_core.progress.ProgressCallback` that shows each stage and its seconds left."""

    def __init__(self, console: Console) -> None:
        self._bars = StageBars(console)
        self._stage, self._first = "", 0
        self._began = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._bars.finish()
        self._bars.__exit__(kind, *rest)

    def __call__(self, stage: str, done: int, total: int, *, loss: float | None = None) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._first = stage, now, done
        elif now - self._shown < INTERVAL_SECONDS and done < total:
            return
        self._shown = now
        here = done - self._first
        left = (now - self._began) / here * (total - done) if here > 0 else None
        self._bars.show(
            Progress(
                stage=stage, done=done, total=total, loss=loss, eta_seconds=left, at=time.time()
            )
        )
