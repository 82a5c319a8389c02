"""Checks of facts that need the model's tokenizer, before an edit is accepted.

A worker publishes the base model's `tokenizer.json` once in the registry. Until it has, the
worker makes these checks when it runs the edit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

from tokenizers import Encoding, Tokenizer

from contracts.errors import FieldError
from contracts.facts import Fact
from contracts.transport import TOKENIZER_ARTEFACT
from registry.registry import Registry

log = logging.getLogger(__name__)

_NOTHING = "tokenises to nothing with this model's tokenizer"


class TokenChecks:
    """Holds the tokenizer of the base model that was asked for last."""

    def __init__(self, registry: Registry, max_fact_tokens: int) -> None:
        self._registry = registry
        self._max_fact_tokens = max_fact_tokens
        self._lock = threading.Lock()
        self._loaded: tuple[str, Tokenizer] | None = None

    def check(self, base: str, facts: Sequence[tuple[int, Fact]]) -> list[FieldError]:
        """What is wrong with `facts`, each with its index in the request, for the model `base`.

        Nothing is wrong as long as no tokenizer is published for it.
        """
        tokenizer = self._tokenizer(base)
        if tokenizer is None:
            return []
        return [error for index, fact in facts for error in self._check(tokenizer, index, fact)]

    def _check(self, tokenizer: Tokenizer, index: int, fact: Fact) -> Iterator[FieldError]:
        head, _, tail = fact.prompt.partition("{}")
        subject_end = len(head) + len(fact.subject)
        target = subject_end + len(tail) + 1
        text = f"{head}{fact.subject}{tail} {fact.target_new}"
        # One by one: the encodings of a batch of long facts would be most of this process's memory.
        encoding = tokenizer.encode(text)
        if not _covers(encoding, subject_end - 1, subject_end):
            yield _error(index, "subject", _NOTHING)
        if not _covers(encoding, target, len(text)):
            yield _error(index, "target_new", _NOTHING)
        if len(encoding.ids) > self._max_fact_tokens:
            reason = (
                f"and target_new must have at most {self._max_fact_tokens} tokens together with "
                f"the subject filled in, they have {len(encoding.ids)}"
            )
            yield _error(index, "prompt", reason, self._max_fact_tokens)

    def _tokenizer(self, base: str) -> Tokenizer | None:
        with self._lock:
            if self._loaded is None or self._loaded[0] != base:
                data = self._registry.artefacts(base).get(TOKENIZER_ARTEFACT)
                if data is None:
                    return None
                self._loaded = (base, Tokenizer.from_buffer(data))
                log.info("loaded the tokenizer of %s", base[:12])
            return self._loaded[1]


def _covers(encoding: Encoding, start: int, stop: int) -> bool:
    """Whether a token holds a character of `start:stop`."""
    return any(first < stop and last > start for first, last in encoding.offsets)


def _error(index: int, field: str, reason: str, limit: float | None = None) -> FieldError:
    return FieldError(field=f"/facts/{index}/{field}", reason=reason, index=index, limit=limit)
