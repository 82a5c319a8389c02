"""`/v1/chat/completions`: a chat in the model's own template, answered by one version."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from contracts.generation import EndEvent, TokenEvent, TokenLogprob
from service.admission import TicketOf
from service.deps import Ctx, Sticky, json_only
from service.openai_api.answers import (
    ANSWERED,
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Delta,
    TokenLogprobs,
    TokenProbability,
)
from service.openai_api.asking import ask
from service.openai_api.requests import ChatRequest

CHUNK = "chat.completion.chunk"

router = APIRouter()


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    dependencies=[Depends(json_only)],
    responses=ANSWERED,
)
async def chat(
    asked: ChatRequest,
    context: Ctx,
    request: Request,
    response: Response,
    ticket: TicketOf,
    sticky: Sticky = None,
) -> Any:
    """Answer a chat, or go on with its last turn; `system_fingerprint` is the version that did."""
    beginning = asked.model_dump(include={"messages", "continue_final_message"})
    asking = await ask(
        context, ticket, asked, "chatcmpl", [beginning], sticky=sticky, cut_to_fit=asked.cut_to_fit
    )
    if asked.stream:
        opening = Delta(role="assistant", content="")
        first: list[BaseModel] = [
            ChatChunkChoice(index=index, delta=opening, finish_reason=None)
            for index in range(asked.n)
        ]
        return await asking.stream(request, CHUNK, first, _chunk_choice, asked.include_usage)
    answers, usage = await asking.whole(request)
    choices = [
        ChatChoice(
            index=index,
            message=AssistantMessage(content=said.text),
            logprobs=_logprobs(said.logprobs) if asked.logprobs else None,
            finish_reason=said.end.finish_reason,
        )
        for index, said in enumerate(answers)
    ]
    response.headers.update(asking.admitted.headers)
    return ChatCompletion(**asking.head, choices=choices, usage=usage)


def _chunk_choice(index: int, event: TokenEvent | EndEvent) -> ChatChunkChoice:
    if isinstance(event, EndEvent):
        return ChatChunkChoice(index=index, delta=Delta(), finish_reason=event.finish_reason)
    logprobs = None if event.logprobs is None else _logprobs(event.logprobs)
    delta = Delta(content=event.text)
    return ChatChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=None)


def _logprobs(found: list[TokenLogprob]) -> ChatLogprobs:
    return ChatLogprobs(
        content=[
            TokenLogprobs(**_probability(one), top_logprobs=[_top(top) for top in one.top])
            for one in found
        ]
    )


def _top(one: TokenLogprob) -> TokenProbability:
    return TokenProbability(**_probability(one))


def _probability(one: TokenLogprob) -> dict[str, Any]:
    return {
        "token": one.token,
        "logprob": one.logprob,
        "bytes": None if one.is_part else list(one.token.encode()),
    }
