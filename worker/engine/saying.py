"""What an answer says: text as it becomes certain, and the log-probabilities that go with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from contracts.generation import TokenLogprob
from worker.engine.text import Detokenizer, StopStrings

Said = tuple[str, list[TokenLogprob]]
"""More text, and the log-probabilities of the tokens that begin in it."""


class Saying:
    """Text and log-probabilities of one answer.

    A token's log-probability goes out with the first character of its text; that of a token without
    text, or with a part of a character, with the text that comes next.
    """

    def __init__(
        self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str], min_tokens: int
    ) -> None:
        """Begin after `prompt`; no stop string counts within the first `min_tokens` tokens."""
        self._text = Detokenizer(tokenizer, prompt)
        self._stop = StopStrings(stop)
        self._free = min_tokens
        self._made = 0
        self._given = 0
        self._waiting: list[tuple[int, TokenLogprob]] = []
        """Where a token's text begins among all that was made, and its log-probability."""

    @property
    def stopped(self) -> bool:
        """A stop string is complete."""
        return self._stop.found

    def push(self, token: int, hidden: str, logprob: TokenLogprob | None) -> Said:
        """One token more; `hidden` is how a stop string names it, if it is a special token."""
        self._wait(logprob)
        piece = self._text.push(token)
        self._made += len(piece)
        self._free -= 1
        if self._free >= 0:
            return self._give(piece)
        return self._give(self._stop.push(piece) + self._stop.push_hidden(hidden))

    def end(self) -> Said:
        """The rest, without an incomplete character, and the log-probabilities of all tokens left.

        After a stop string there are none of what it took away.
        """
        piece = self._text.end()
        self._made += len(piece)
        text = self._stop.push(piece) + self._stop.end()
        if self.stopped:
            return self._give(text)
        left = [one for _, one in self._waiting]
        self._waiting = []
        return text, left

    def _wait(self, logprob: TokenLogprob | None) -> None:
        if logprob is not None:
            self._waiting.append((self._made, logprob))

    def _give(self, text: str) -> Said:
        self._given += len(text)
        count = sum(start < self._given for start, _ in self._waiting)
        out = [one for _, one in self._waiting[:count]]
        self._waiting = self._waiting[count:]
        return text, out
