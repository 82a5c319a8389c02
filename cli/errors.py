"""How a command fails: a message for people, and exit code 1."""

from __future__ import annotations


class CommandFailed(Exception):
    """The command cannot go on; its message is all that the user gets to see."""
