"""Contexts through the model's own chat template: people ask in chats.

A prompt then stands in a turn, with the template's text before it and, where the turn is the
user's, after it: the target is what the assistant answers. Wordings are those of nobody's measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from memit_core.errors import MemitError

OPENING = "What do you know?"
"""What the user says before an assistant's turn that begins with the prompt."""
MARK = "memit prompt"
"""Where the prompt goes when the template is asked."""


@dataclass(frozen=True)
class ChatContext:
    """Text before a prompt and after it, special tokens written out."""

    before: str
    after: str = ""


def chat_contexts(tokenizer: Any, count: int) -> tuple[ChatContext, ...]:
    """The first `count` of: the assistant's turn begins with the prompt; the user's turn is the
    prompt, and the assistant answers. None where the tokenizer has no chat template.

    Raises:
        MemitError: the template refuses a user's turn.
    """
    if not count or not tokenizer.chat_template:
        return ()
    before, found, after = _rendered(tokenizer, MARK).partition(MARK)
    if not found:
        raise MemitError("the chat template leaves out what the user says")
    opened = ChatContext(_rendered(tokenizer, OPENING))
    return (opened, ChatContext(before, after))[:count]


def _rendered(tokenizer: Any, said: str) -> str:
    turn = [{"role": "user", "content": said}]
    try:
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise MemitError(f"the chat template refuses a user's turn: {error}") from error
    return str(text)
