"""What a task goes on from, as token ids, and the limits that it must keep."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

from contracts.errors import FieldError, InvalidRequest
from contracts.generation import BEGINNINGS, GenerateTask
from memit_core.tokens import encode_text

NEWEST_TEXTS = 8
"""Texts whose token ids are kept."""


class Encoder:
    """Texts to token ids; each of the newest once, as a prompt that several versions are asked."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids = lru_cache(maxsize=NEWEST_TEXTS)(self._ids)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(encode_text(self.tokenizer, text)[0])  # as facts are tokenised too


def beginning(
    task: GenerateTask, encoder: Encoder, limit: int, unknown: Mapping[int, str]
) -> list[int]:
    """Ids of the prompt, of the chat in the model's own template, or as they were given.

    Args:
        limit: tokens of prompt and answer together.
        unknown: tokens that the model cannot read, by id.

    Raises:
        InvalidRequest: it has no tokens, one that the model cannot read, or too many; or the model
            has no template for chats, or one that refuses this chat. A bias is for no token of it.
    """
    field = next(f"/{name}" for name in BEGINNINGS if getattr(task, name) is not None)
    tokenizer = encoder.tokenizer
    ids = _ids(task, encoder)
    if not ids:
        raise _refused(field, "tokenises to nothing")
    if len(ids) >= limit:
        reason = f"has {len(ids)} tokens; at most {limit - 1} leave room for an answer"
        raise _refused(field, reason, limit - 1)
    if len(ids) + task.sampling.max_tokens > limit and not task.cut_to_fit:
        reason = (
            f"is {task.sampling.max_tokens} after a prompt of {len(ids)} tokens; "
            f"{limit} fit together"
        )
        raise _refused("/max_tokens", reason, limit)
    strange = next((unknown[i] for i in ids if i in unknown), None)
    if strange is not None:
        reason = f"holds the token {strange!r}, which the model has no embedding for"
        raise _refused(field, reason)
    for token in task.sampling.logit_bias:
        if token >= len(tokenizer) or token in unknown:
            raise _refused(f"/logit_bias/{token}", "is no token of the model")
    return ids


def _ids(task: GenerateTask, encoder: Encoder) -> list[int]:
    tokenizer = encoder.tokenizer
    if task.token_ids is not None:
        for place, token in enumerate(task.token_ids):
            if not 0 <= token < len(tokenizer):
                reason = f"is {token}; the model has tokens 0 to {len(tokenizer) - 1}"
                raise _refused(f"/token_ids/{place}", reason, len(tokenizer) - 1)
        return list(task.token_ids)
    text = _chat(task, tokenizer) if task.prompt is None else task.prompt
    return list(encoder.ids(text))


def _chat(task: GenerateTask, tokenizer: Any) -> str:
    """The chat up to where the assistant's turn begins, or as far as it has come."""
    if tokenizer.chat_template is None:
        raise _refused("/messages", "cannot be read: the model has no chat template")
    messages = [message.model_dump() for message in task.messages or ()]
    if "developer" not in tokenizer.chat_template:
        for message in messages:
            message["role"] = message["role"].replace("developer", "system")
    going_on = task.continue_final_message
    try:
        text: str = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=not going_on,
            continue_final_message=going_on,
        )
    except (TemplateError, ValueError) as error:
        raise _refused("/messages", f"do not fit the model's chat template: {error}") from error
    return text


def cut_to_fit(task: GenerateTask, prompt_tokens: int, limit: int) -> GenerateTask:
    """The task with no more than what `limit` leaves for the answer, if it may be cut."""
    room = limit - prompt_tokens
    if not task.cut_to_fit or task.sampling.max_tokens <= room:
        return task
    sampling = task.sampling.model_copy(update={"max_tokens": room})
    return task.model_copy(update={"sampling": sampling})


def _refused(field: str, reason: str, limit: int | None = None) -> InvalidRequest:
    error = FieldError(field=field, reason=reason, limit=limit)
    return InvalidRequest(f"{field} {reason}", errors=[error])
