"""`/generate`: one question to one version or to several, as JSON or as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse

from contracts.errors import ServiceError
from contracts.generation import (
    BEGINNINGS,
    Choice,
    EndEvent,
    GenerateRequest,
    Generation,
    Generations,
    Usage,
)
from contracts.sampling import Sampling
from service.admission import Admitted, Question, Said, TicketOf, admit
from service.deps import Ctx, Sticky, json_only
from service.openapi import GENERATED
from service.sse import DONE, STREAM_HEADERS, json_event, pinging

router = APIRouter(tags=["generate"])


@router.post(
    "/generate",
    response_model=Generation | Generations,
    response_model_exclude_none=True,
    dependencies=[Depends(json_only)],
    responses=GENERATED,
)
async def generate(
    asked: GenerateRequest,
    context: Ctx,
    request: Request,
    response: Response,
    ticket: TicketOf,
    sticky: Sticky = None,
) -> Generation | Generations | EventSourceResponse:
    """Continue a prompt or answer a chat, with versions fixed at admission.

    `X-Memit-Version` names them.
    """
    sampling = Sampling(**asked.model_dump(include=set(Sampling.model_fields)))
    names = [asked.version] if asked.versions is None else asked.versions
    for name in names:
        ticket.principal.require_alias(name)
    beginning = asked.model_dump(include={*BEGINNINGS, "continue_final_message"})
    questions = [Question(name, beginning) for name in names]
    admitted = await admit(
        context, ticket, questions, sampling, asked, streamed=asked.stream, sticky=sticky
    )
    several = asked.versions is not None
    if asked.stream:
        await admitted.started(request)
        headers = admitted.headers | STREAM_HEADERS
        return EventSourceResponse(_stream(admitted, several), headers=headers)
    answers = [
        _generation(admitted, place, said)
        for place, said in enumerate(await admitted.whole(request))
    ]
    response.headers.update(admitted.headers)
    return Generations(answers=answers) if several else answers[0]


def _generation(admitted: Admitted, place: int, said: list[Said]) -> Generation:
    task = admitted.tasks[place]
    choices = [
        Choice(
            index=index,
            text=one.text,
            finish_reason=one.end.finish_reason,
            logprobs=None if task.sampling.logprobs is None else one.logprobs,
        )
        for index, one in enumerate(said)
    ]
    return Generation(
        id=task.id,
        text=choices[0].text,
        version=task.version,
        finish_reason=choices[0].finish_reason,
        usage=Usage(
            prompt_tokens=said[0].end.usage.prompt_tokens,
            completion_tokens=sum(one.end.usage.completion_tokens for one in said),
        ),
        logprobs=choices[0].logprobs,
        choices=choices if len(choices) > 1 else None,
    )


async def _stream(admitted: Admitted, several: bool) -> AsyncIterator[bytes]:
    """Events; those of several versions name their `answer` by its place in the request."""
    hidden = {"type"} if admitted.tasks[0].sampling.n > 1 else {"type", "choice"}

    def event_of(place: int, name: str, data: dict[str, Any]) -> bytes:
        return json_event({"answer": place, **data} if several else data, name)

    for place, task in enumerate(admitted.tasks):
        yield event_of(place, "start", {"id": task.id, "version": task.version})
    try:
        async for found in pinging(admitted.answer()):
            if found is None:
                yield KEEPALIVE_COMMENT
                continue
            place, event = found
            name = "end" if isinstance(event, EndEvent) else "token"
            yield event_of(place, name, event.model_dump(exclude=hidden, exclude_none=True))
        yield DONE
    except ServiceError as error:
        yield json_event(error.problem("/generate").model_dump(), "error")
