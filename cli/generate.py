"""`memit generate`: ask a version of the model to go on."""

from __future__ import annotations

from json import dumps, loads
from typing import Annotated, Any

import typer

from cli import output
from cli.client import Client, ProblemAnswer
from cli.options import DEFAULT_URL, Json, Url
from contracts.errors import Problem
from contracts.generation import EndEvent, Generation, TokenEvent
from contracts.versions import ACTIVE


def generate(
    prompt: Annotated[str, typer.Argument(help="What the model shall continue.")],
    version: Annotated[str, typer.Option(help="Version or alias that answers.")] = ACTIVE,
    max_tokens: Annotated[int, typer.Option(help="Tokens to generate at most.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling; 1 is off.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Only the k likeliest tokens; 0 is off.")] = 0,
    repetition_penalty: Annotated[float, typer.Option(help="1 is off.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="For repeatable sampling.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be repeated.")
    ] = None,
    stop_token_id: Annotated[
        list[int] | None, typer.Option(help="End before this token; may be repeated.")
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show text as it comes.")] = False,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Print how the model continues a prompt; the version that answered goes to stderr."""
    request = {
        "prompt": prompt,
        "version": version,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": stop or [],
        "stop_token_ids": stop_token_id or [],
        "stream": stream,
    }
    with Client(url) as client:
        if stream:
            _stream(client, request, json)
            return
        answer = client.read(Generation, client.call("POST", "/generate", body=request))
    if json:
        output.print_json(answer)
        return
    typer.echo(answer.text)
    _say(answer.version, answer.finish_reason, answer.usage.completion_tokens)


def _stream(client: Client, request: dict[str, Any], json: bool) -> None:
    """Print the text, or with `json` one event a line, as it comes."""
    for sent in client.events("POST", "/generate", request):
        if sent.event == "error":
            raise ProblemAnswer(Problem.model_validate_json(sent.data))
        if json and sent.event in ("start", "token", "end"):
            typer.echo(dumps({"event": sent.event, **loads(sent.data)}, ensure_ascii=False))
        elif sent.event == "token":
            typer.echo(TokenEvent.model_validate_json(sent.data).text, nl=False)
        elif sent.event == "end":
            end = EndEvent.model_validate_json(sent.data)
            typer.echo()
            _say(end.version, end.finish_reason, end.usage.completion_tokens)


def _say(version: str, finish_reason: str, tokens: int) -> None:
    output.say(output.messages(), f"{version}, {tokens} tokens, ended by {finish_reason}", "dim")
