"""Checks of facts that need the model's tokenizer, before an edit is accepted.

A worker publishes the base model's `tokenizer.json` once in the registry. Until it has, the
worker makes these checks when it runs the edit.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer

from contracts.chat_prompts import ChatMessage
from contracts.errors import FieldError
from contracts.facts import Fact, composed
from contracts.transport import TOKENIZER_ARTEFACT, UNKNOWN_TOKENS_ARTEFACT
from registry.registry import Registry

log = logging.getLogger(__name__)

_NOTHING = "tokenises to nothing with this model's tokenizer"


@dataclass(frozen=True)
class _Tokens:
    """What is published of one base model."""

    base: str
    tokenizer: Tokenizer
    unknown: frozenset[int]
    """Tokens that the model has no embedding for."""


class TokenChecks:
    """Holds the tokenizer of the base model that was asked for last."""

    def __init__(self, registry: Registry, max_fact_tokens: int) -> None:
        self._registry = registry
        self._max_fact_tokens = max_fact_tokens
        self._lock = threading.Lock()
        self._loaded: _Tokens | None = None

    def check(self, base: str, facts: Sequence[tuple[int, Fact]]) -> list[FieldError]:
        """What is wrong with `facts`, each with its index in the request, for the model `base`.

        Nothing is wrong as long as no tokenizer is published for it.
        """
        tokens = self._tokens(base)
        if tokens is None:
            return []
        return [error for index, fact in facts for error in self._check(tokens, index, fact)]

    def _check(self, tokens: _Tokens, index: int, fact: Fact) -> Iterator[FieldError]:
        before, _ = fact.parts
        subject_end = len(composed(f"{before}{fact.subject.rstrip()}"))
        prompt = composed(fact.filled)
        text = f"{prompt} {composed(fact.target_new).strip()}"
        # One by one: the encodings of a batch of long facts would be most of this process's memory.
        encoding = tokens.tokenizer.encode(text)
        if not _covers(encoding, subject_end - 1, subject_end):
            yield _error(index, "subject", _NOTHING)
        if not _covers(encoding, len(prompt) + 1, len(text)):
            yield _error(index, "target_new", _NOTHING)
        limit = self._max_fact_tokens
        if len(encoding.ids) > limit:
            reason = (
                f"and target_new must have at most {limit} tokens together with "
                f"the subject filled in, they have {len(encoding.ids)}"
            )
            yield _error(index, "prompt", reason, limit)
        yield from _unknown(tokens, index, "prompt", encoding)
        for name in ("paraphrase_prompts", "neighborhood_prompts"):
            for i, asked in enumerate(getattr(fact, name)):
                encoding = tokens.tokenizer.encode(composed(asked))
                field = f"{name}/{i}"
                if len(encoding.ids) > limit:
                    reason = f"must have at most {limit} tokens, has {len(encoding.ids)}"
                    yield _error(index, field, reason, limit)
                yield from _unknown(tokens, index, field, encoding)
        for i, chat in enumerate(fact.chat_prompts):
            yield from self._check_chat(tokens, index, f"chat_prompts/{i}", chat)

    def _check_chat(
        self, tokens: _Tokens, index: int, field: str, chat: Sequence[ChatMessage]
    ) -> Iterator[FieldError]:
        """What the chat template puts around the texts is not counted: it is the worker's."""
        encodings = [tokens.tokenizer.encode(composed(message.content)) for message in chat]
        limit, count = self._max_fact_tokens, sum(len(one.ids) for one in encodings)
        if count > limit:
            reason = f"must have at most {limit} tokens in all its messages, has {count}"
            yield _error(index, field, reason, limit)
        for i, encoding in enumerate(encodings):
            yield from _unknown(tokens, index, f"{field}/{i}/content", encoding)

    def _tokens(self, base: str) -> _Tokens | None:
        with self._lock:
            if self._loaded is None or self._loaded.base != base:
                artefacts = self._registry.artefacts(base)
                data = artefacts.get(TOKENIZER_ARTEFACT)
                if data is None:
                    return None
                unknown = json.loads(artefacts.get(UNKNOWN_TOKENS_ARTEFACT) or b"[]")
                tokenizer = Tokenizer.from_buffer(data)
                self._loaded = _Tokens(base, tokenizer, frozenset(unknown))
                log.info("loaded the tokenizer of %s", base[:12])
            return self._loaded


def _unknown(tokens: _Tokens, index: int, field: str, encoding: Encoding) -> Iterator[FieldError]:
    for token, token_id in zip(encoding.tokens, encoding.ids, strict=True):
        if token_id in tokens.unknown:
            reason = f"holds the token {token!r}, which the model has no embedding for"
            yield _error(index, field, reason)
            return


def _covers(encoding: Encoding, start: int, stop: int) -> bool:
    """Whether a token holds a character of `start:stop`."""
    return any(first < stop and last > start for first, last in encoding.offsets)


def _error(index: int, field: str, reason: str, limit: float | None = None) -> FieldError:
    return FieldError(field=f"/facts/{index}/{field}", reason=reason, index=index, limit=limit)
