"""The context of a chat, through the model's own template: people ask in chats.

The prompt is a user's turn, with the template's text before and after it, and the target is what
the assistant answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from memit_core.errors import MemitError

MARK = "memit prompt"
"""Where the prompt goes when the template is asked."""


@dataclass(frozen=True)
class ChatContext:
    """Text before a prompt and after it, special tokens written out."""

    before: str
    after: str


def chat_context(tokenizer: Any) -> ChatContext | None:
    """What stands around a user's turn; None where the tokenizer has no chat template.

    Raises:
        MemitError: the template refuses a user's turn, or leaves out what the user says.
    """
    if not tokenizer.chat_template:
        return None
    before, found, after = opened_chat(tokenizer, MARK).partition(MARK)
    if not found:
        raise MemitError("the chat template leaves out what the user says")
    return ChatContext(before, after)


def opened_chat(tokenizer: Any, said: str) -> str:
    """A chat of one user's turn, up to where the assistant's begins.

    Raises:
        MemitError: the template refuses it.
    """
    turn = [{"role": "user", "content": said}]
    try:
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise MemitError(f"the chat template refuses a user's turn: {error}") from error
    return str(text)
