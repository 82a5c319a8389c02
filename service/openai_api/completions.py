"""`/v1/completions`: one prompt or several, gone on with by one version."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from contracts.generation import EndEvent, TokenEvent, TokenLogprob
from service.admission import TicketOf
from service.deps import Ctx, Sticky, json_only
from service.openai_api.answers import ANSWERED, Completion, CompletionChoice, Logprobs
from service.openai_api.asking import ask
from service.openai_api.requests import CompletionRequest

KIND = "text_completion"

router = APIRouter()


@router.post(
    "/completions",
    response_model=Completion,
    dependencies=[Depends(json_only)],
    responses=ANSWERED,
)
async def complete(
    asked: CompletionRequest,
    context: Ctx,
    request: Request,
    response: Response,
    ticket: TicketOf,
    sticky: Sticky = None,
) -> Any:
    """Go on with a text; `system_fingerprint` is the version that did."""
    beginnings: list[dict[str, Any]] = [
        {"prompt" if isinstance(prompt, str) else "token_ids": prompt} for prompt in asked.prompt
    ]
    asking = await ask(context, ticket, asked, "cmpl", beginnings, sticky=sticky)
    echoed = [str(prompt) if asked.echo else "" for prompt in asked.prompt for _ in range(asked.n)]
    shown = asked.logprobs is not None
    if asked.stream:
        first = [_choice(i, text, None, None) for i, text in enumerate(echoed) if text]
        render = _Renderer(shown)
        return await asking.stream(request, KIND, [*first], render, asked.include_usage)
    answers, usage = await asking.whole(request)
    choices = [
        _choice(i, echoed[i] + said.text, _logprobs(said.tokens) if shown else None, said.end)
        for i, said in enumerate(answers)
    ]
    response.headers.update(asking.admitted.headers)
    return Completion(**asking.head, choices=choices, usage=usage)


class _Renderer:
    """Choices of chunks; knows how much of each answer went before."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._offsets: dict[int, int] = {}

    def __call__(self, index: int, event: TokenEvent | EndEvent) -> CompletionChoice:
        if isinstance(event, EndEvent):
            return _choice(index, "", None, event)
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + len(event.text)
        return _choice(index, event.text, _logprobs([event], offset) if self._shown else None, None)


def _choice(
    index: int, text: str, logprobs: Logprobs | None, end: EndEvent | None
) -> CompletionChoice:
    reason = None if end is None else end.finish_reason
    return CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=reason)


def _logprobs(events: list[TokenEvent], offset: int = 0) -> Logprobs:
    """Of the tokens in these events, the text of which begins at the character `offset`."""
    found: list[TokenLogprob] = []
    offsets = []
    for event in events:
        within = 0
        for one in event.logprobs or ():
            found.append(one)
            offsets.append(offset + min(within, len(event.text)))
            # A part of a character has no text of its own: the whole begins with its first part.
            within += 0 if one.is_part else len(one.token)
        offset += len(event.text)
    return Logprobs(
        tokens=[one.token for one in found],
        token_logprobs=[one.logprob for one in found],
        top_logprobs=[_top(one) for one in found],
        text_offset=offsets,
    )


def _top(one: TokenLogprob) -> dict[str, float]:
    """By text; of tokens that look alike, such as parts of characters, the likeliest."""
    alike = sorted((*one.top, one), key=lambda token: token.logprob)
    return {token.token: token.logprob for token in alike}
