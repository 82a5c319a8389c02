"""From token ids to text, as they come: no half character, nothing taken back, stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""How a decoder shows bytes that are no character, or not yet one."""


class Detokenizer:
    """Text of an answer's tokens: what decoding prompt and answer together adds to the prompt.

    Decoding starts a little before the new tokens, because decoders treat the first token of a
    text differently (SentencePiece drops its leading space). Special tokens give no text.
    """

    def __init__(self, tokenizer: Any, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt_ids)
        self._start = 0
        self._read = len(self._ids)
        self._head = self._decode(0)

    def push(self, token: int) -> str:
        """The text that is certain after one more token; empty while a character is incomplete."""
        self._ids.append(token)
        text = self._new_text()
        if not text or text.endswith(REPLACEMENT):
            return ""
        self._start, self._read = self._read, len(self._ids)
        self._head = self._decode(self._start)
        return text

    def end(self) -> str:
        """The rest, without an incomplete character at its end."""
        return self._new_text().rstrip(REPLACEMENT)

    def _new_text(self) -> str:
        text = self._decode(self._start)
        if text.startswith(self._head):
            return text[len(self._head) :]
        # A byte-fallback decoder turns a whole run of bytes invalid when a wrong one follows. What
        # was given stays: read on from there.
        return self._decode(self._read)

    def _decode(self, start: int) -> str:
        text: str = self._tokenizer.decode(
            self._ids[start:], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


class TokenTexts:
    """The text of single tokens as it is inside a text; special ones by name."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._before: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
        self._head = self._decode(self._before)
        self._texts: dict[int, str] = {}

    def of(self, token: int) -> str:
        """The token's text, which is made once."""
        if token not in self._texts:
            text = self._decode([*self._before, token])
            known = text.startswith(self._head)
            self._texts[token] = text[len(self._head) :] if known else self._decode([token])
        return self._texts[token]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text


class StopStrings:
    """Cuts a text before the stop string that is complete first, and holds back what may be one.

    The text may have hidden parts, such as special tokens: they are compared but not given out.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""
        self._hidden: set[int] = set()
        """Places in `_held` that are not given out."""
        self.found = False

    def push(self, text: str) -> str:
        """What may be given out now, after `text` more; nothing after a stop string was found."""
        if self.found:
            return ""
        self._held += text
        ends = [(at + len(s), at) for s in self._stop if (at := self._held.find(s)) >= 0]
        if ends:
            self.found = True
            return self._release(min(ends)[1])
        begun = max((_begun(self._held, s) for s in self._stop), default=0)
        return self._release(len(self._held) - begun)

    def push_hidden(self, text: str) -> str:
        """The same for text that is not given out itself."""
        if self.found or not self._stop:
            return ""
        self._hidden |= set(range(len(self._held), len(self._held) + len(text)))
        return self.push(text)

    def end(self) -> str:
        """What was held back and did not become a stop string."""
        return "" if self.found else self._release(len(self._held))

    def _release(self, count: int) -> str:
        text = "".join(c for i, c in enumerate(self._held[:count]) if i not in self._hidden)
        self._held = self._held[count:]
        self._hidden = {i - count for i in self._hidden if i >= count}
        return text


def _begun(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, but not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
