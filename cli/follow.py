"""Follows an edit to its end, with a bar for each of its stages."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bars

from cli.client import Client, Disconnected
from cli.output import say
from contracts.edits import Edit, EditState, Progress

LOST_SECONDS = 60.0
SAY_SECONDS = 30.0
"""Between two lines on how far a stage is, where there is no terminal to draw bars on."""
RECONNECT_SECONDS = 1.0
STAGES = {
    "prepare": "plan the facts",
    "templates": "sample contexts",
    "covariance": "measure the old memory",
    "factors": "factorise the old memory",
    "z": "optimise z",
    "calibrate": "search, in seconds",
    "insert": "insert into the layers",
    "evaluate": "evaluate",
}


def follow(client: Client, edit_id: str, console: Console) -> Edit:
    """Show an edit's progress until it has ended; returns how it stands then.

    A service that goes away meanwhile is waited for, the edit is not lost with it.

    Raises:
        Disconnected: the service stayed away for `LOST_SECONDS`.
        ProblemAnswer: it refused, e.g. there is no such edit.
    """
    with StageBars(console) as bars:
        lost_since: float | None = None
        while True:
            try:
                for event in client.events("GET", f"/edits/{edit_id}/events"):
                    lost_since = None
                    if event.event == "progress":
                        bars.show(Progress.model_validate_json(event.data))
                    elif event.event == "end":
                        ended = Edit.model_validate_json(event.data)
                        if ended.state is EditState.COMMITTED:
                            bars.finish()
                        return ended
            except Disconnected:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > LOST_SECONDS:
                    raise
            time.sleep(RECONNECT_SECONDS)


class StageBars:
    """One bar a stage on a terminal, elsewhere a line a stage and now and then on how far it is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._stage: str | None = None
        self._said = 0.0
        self._task: TaskID = self._bars.add_task("wait for a worker", total=None, note="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def show(self, progress: Progress) -> None:
        """Bring the bars to where the edit is."""
        title = STAGES.get(progress.stage, progress.stage)
        if progress.stage != self._stage:
            self.finish()
            self._stage = progress.stage
            self._task = self._bars.add_task(title, total=progress.total, note="")
            self._say(f"{title} ({progress.total})")
        elif time.monotonic() - self._said > SAY_SECONDS:
            self._say(f"{title}: {progress.done} of {progress.total}  {_note(progress)}".rstrip())
        self._bars.update(
            self._task, completed=progress.done, total=progress.total, note=_note(progress)
        )

    def _say(self, line: str) -> None:
        if not self._console.is_terminal:
            say(self._console, line)
            self._said = time.monotonic()

    def finish(self) -> None:
        """The stage that is shown is done."""
        task = self._bars.tasks[self._task]
        total = task.total or 1
        self._bars.update(self._task, completed=total, total=total, note=_loss_only(task.fields))


def _note(progress: Progress) -> str:
    parts = []
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.eta_seconds is not None:
        parts.append(f"{progress.eta_seconds:.0f} s left")
    return ", ".join(parts)


def _loss_only(fields: dict[str, str]) -> str:
    note = fields["note"].partition(",")[0]
    return note if note.startswith("loss") else ""
