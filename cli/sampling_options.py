"""How `memit generate` and `memit chat` choose tokens: what is not given, the service decides."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer

from cli.errors import CommandFailed
from contracts.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """The options of a generation."""

    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens to generate at most.", show_default="64")
    ] = None
    min_tokens: Annotated[
        int | None, typer.Option(help="Tokens before which nothing ends an answer.")
    ] = None
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.", show_default="0")] = None
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling; 1 is off.")] = None
    top_k: Annotated[int | None, typer.Option(help="Only the k likeliest; 0 is off.")] = None
    min_p: Annotated[
        float | None, typer.Option(help="Only tokens with this part of the likeliest one's chance.")
    ] = None
    repetition_penalty: Annotated[float | None, typer.Option(help="1 is off.")] = None
    presence_penalty: Annotated[float | None, typer.Option(help="0 is off.")] = None
    frequency_penalty: Annotated[float | None, typer.Option(help="0 is off.")] = None
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(metavar="TOKEN=BIAS", help="Add to a token's logit; may be repeated."),
    ] = None
    seed: Annotated[int | None, typer.Option(help="For repeatable sampling.")] = None
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be repeated.")
    ] = None
    stop_token_id: Annotated[
        list[int] | None, typer.Option(help="End before this token; may be repeated.")
    ] = None
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after an end.")] = False

    def sampling(self) -> dict[str, Any]:
        """What was given, as fields of `POST /generate`.

        Raises:
            CommandFailed: a bias has no `=`.
        """
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        given["stop_token_ids"] = given.pop("stop_token_id")
        if self.logit_bias is not None:
            given["logit_bias"] = dict(map(_bias, self.logit_bias))
        names = [name for name in Sampling.model_fields if given.get(name) is not None]
        return {name: given[name] for name in names}


def _bias(text: str) -> tuple[str, str]:
    token, equals, bias = text.partition("=")
    if not equals:
        raise CommandFailed(f"--logit-bias {text}: must be TOKEN=BIAS, such as 17=-100")
    return token, bias
