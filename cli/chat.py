"""`memit chat`: talk to a version in the model's own chat template."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from cli import output
from cli.client import Client
from cli.dataclass_command import command_of
from cli.errors import CommandFailed
from cli.generate import echo_stream
from cli.options import DEFAULT_URL, Url
from cli.sampling_options import SamplingOptions
from contracts.versions import ACTIVE

HELP = "/version VERSION asks another version, /clear forgets the chat, /exit ends."
CHAT_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class ChatOptions(SamplingOptions):
    """Talk to the model: what you type is answered as it is made; Ctrl-D or /exit ends."""

    version: Annotated[str, typer.Option(help="Version or alias that answers.")] = ACTIVE
    system: Annotated[str | None, typer.Option(help="What the model is told before all.")] = None
    url: Url = DEFAULT_URL


class Chat:
    """One conversation; `say` adds a question and its answer."""

    def __init__(self, client: Client, options: ChatOptions) -> None:
        self.version = options.version
        self._client = client
        self._sampling = {"max_tokens": CHAT_TOKENS, **options.sampling()}
        self._system = [{"role": "system", "content": options.system}] if options.system else []
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._messages: list[dict[str, Any]] = list(self._system)

    def say(self, text: str) -> None:
        """Print the answer as it comes.

        Raises:
            CommandFailed: there is none; the question is forgotten.
        """
        asked = [*self._messages, {"role": "user", "content": text}]
        body = {"messages": asked, "version": self.version, "stream": True, **self._sampling}
        said, end = echo_stream(self._client, body)
        output.say(output.messages(), end.version, "dim")
        self._messages = [*asked, {"role": "assistant", "content": said}]


def run(options: ChatOptions) -> None:
    with Client(options.url) as client:
        chat = Chat(client, options)
        if sys.stdin.isatty():
            output.say(output.messages(), HELP, "dim")
        for line in _lines():
            _take(chat, line)


chat = command_of(ChatOptions, run, "chat")


def _take(chat: Chat, line: str) -> None:
    match line.split():
        case ["/version", version]:
            chat.version = version
        case ["/clear"]:
            chat.clear()
        case [command, *_] if command.startswith("/"):
            output.say(output.messages(), f"{command} is no command. {HELP}", "red")
        case _:
            try:
                chat.say(line)
            except CommandFailed as failed:
                if not sys.stdin.isatty():
                    raise
                output.say(output.messages(), f"error: {failed}", "red")


def _lines() -> Iterator[str]:
    """What is typed, without blank lines, up to its end or `/exit`."""
    while True:
        if sys.stdin.isatty():
            typer.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line or line.strip() == "/exit":
            return
        if line.strip():
            yield line.strip()
