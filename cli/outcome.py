"""What came of an edit: waited for, and said."""

from __future__ import annotations

import typer

from cli import output
from cli.client import Client
from cli.errors import CommandFailed
from cli.follow import follow
from contracts.edits import Edit, EditState


def wait_for_end(client: Client, edit_id: str) -> Edit:
    """The edit once it has ended, its progress shown meanwhile; Ctrl-C leaves it to go on.

    Raises:
        Disconnected, ProblemAnswer: see `follow`.
        typer.Exit: Ctrl-C, with exit code 130.
    """
    messages = output.messages()
    try:
        return follow(client, edit_id, messages)
    except KeyboardInterrupt:
        output.say(messages, f"{edit_id} goes on; see {client.url}/edits/{edit_id}")
        raise typer.Exit(130) from None


def require_committed(ended: Edit) -> None:
    """
    Raises:
        CommandFailed: it was not committed; says why.
    """
    if ended.state is EditState.COMMITTED:
        return
    if ended.problem is None:
        raise CommandFailed(f"{ended.id} was {ended.state}")
    reasons = [f"  {error.field} {error.reason}".rstrip() for error in ended.problem.errors]
    raise CommandFailed(
        "\n".join([f"{ended.id} was {ended.state}: {ended.problem.detail}", *reasons])
    )


def say_serving(ended: Edit) -> None:
    """Name the version that a committed edit made, and whether it is active."""
    serving = "now active" if ended.activated else "not active"
    if ended.not_activated is not None:
        serving += f": {ended.not_activated}"
    output.say(output.messages(), f"{ended.id} committed {ended.version}, {serving}")
