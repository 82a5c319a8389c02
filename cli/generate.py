"""`memit generate`: ask versions of the model to go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from json import dumps, loads
from typing import Annotated, Any

import typer
from pydantic import RootModel

from cli import output
from cli.client import Client, ProblemAnswer
from cli.dataclass_command import command_of
from cli.errors import CommandFailed
from cli.options import DEFAULT_URL, Json, Url
from cli.sampling_options import SamplingOptions
from contracts.errors import Problem
from contracts.generation import Choice, EndEvent, Generation, Generations, TokenEvent
from contracts.versions import ACTIVE


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(SamplingOptions):
    """Print how the model continues a prompt; the version that answered goes to stderr."""

    prompt: Annotated[str, typer.Argument(help="What the model shall continue.")]
    version: Annotated[
        list[str] | None,
        typer.Option(
            help="Version or alias that answers; several answer side by side.", show_default=ACTIVE
        ),
    ] = None
    n: Annotated[int, typer.Option(help="Answers to give.")] = 1
    logprobs: Annotated[
        int | None,
        typer.Option(help="With --json: tokens' log-probabilities, and of so many likely ones."),
    ] = None
    stream: Annotated[bool, typer.Option("--stream", help="Show text as it comes.")] = False
    url: Url = DEFAULT_URL
    json: Json = False

    def body(self) -> dict[str, Any]:
        """The request.

        Raises:
            CommandFailed: a bias cannot be read, or several answers would be mixed up.
        """
        body = {"prompt": self.prompt, "n": self.n, "stream": self.stream, **self.sampling()}
        if self.logprobs is not None:
            body["logprobs"] = self.logprobs
        match self.version or []:
            case [one]:
                body["version"] = one
            case [_, *_] as several:
                body["versions"] = several
        if self.stream and not self.json and ("versions" in body or self.n > 1):
            raise CommandFailed("--stream shows one answer; several need --json")
        return body


def run(options: GenerateOptions) -> None:
    body = options.body()
    with Client(options.url) as client:
        if options.stream and options.json:
            for name, data in _events(client, body):
                typer.echo(dumps({"event": name, **loads(data)}, ensure_ascii=False))
            return
        if options.stream:
            _, end = echo_stream(client, body)
            _say(end.version, end.finish_reason, end.usage.completion_tokens)
            return
        answer = client.call("POST", "/generate", body=body)
        read = client.read(RootModel[Generations | Generation], answer).root
    if options.json:
        output.print_json(read)
        return
    answers = read.answers if isinstance(read, Generations) else [read]
    said = [
        (one.version, choice)
        for one in answers
        for choice in one.choices
        or [Choice(index=0, text=one.text, finish_reason=one.finish_reason)]
    ]
    for version, choice in said:
        if len(said) > 1:
            output.say(output.messages(), f"{version}, answer {choice.index + 1}:", "dim")
        typer.echo(choice.text)
    if len(answers) == 1:
        _say(answers[0].version, said[0][1].finish_reason, answers[0].usage.completion_tokens)


generate = command_of(GenerateOptions, run, "generate")


def echo_stream(client: Client, request: dict[str, Any]) -> tuple[str, EndEvent]:
    """Print the text of one answer as it comes; that text, and how it ended.

    Raises:
        CommandFailed: the service refuses or breaks off.
    """
    said, end = "", None
    for name, data in _events(client, request):
        if name == "token":
            piece = TokenEvent.model_validate_json(data).text
            typer.echo(piece, nl=False)
            said += piece
        elif name == "end":
            end = EndEvent.model_validate_json(data)
            typer.echo()
    if end is None:
        raise CommandFailed(f"{client.url} broke off the answer")
    return said, end


def _events(client: Client, request: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for sent in client.events("POST", "/generate", request):
        if sent.event == "error":
            raise ProblemAnswer(Problem.model_validate_json(sent.data))
        if sent.event in ("start", "token", "end"):
            yield sent.event, sent.data


def _say(version: str, finish_reason: str, tokens: int) -> None:
    output.say(output.messages(), f"{version}, {tokens} tokens, ended by {finish_reason}", "dim")
