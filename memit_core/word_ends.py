"""Which tokens may follow a word without going on with it."""

from __future__ import annotations

from typing import Any

import torch

from memit_core.joining import goes_on
from memit_core.tokens import encode_text
from memit_core.transformers_internals import decode_each

_WORD = "a"
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


def word_ends(tokenizer: Any, vocabulary: int) -> torch.Tensor:
    """Which tokens end the word before them: bool [vocabulary].

    Those that begin with a space or a sign, and special tokens; not a piece of a character, since
    it may be a letter's.
    """
    before, _ = encode_text(tokenizer, _WORD)
    known = range(min(vocabulary, len(tokenizer)))
    head, *texts = decode_each(tokenizer, [before, *([*before, token] for token in known)])
    ends = torch.zeros(vocabulary, dtype=torch.bool)
    for token, text in zip(known, texts, strict=True):
        rest = text[len(head) :]
        ends[token] = not (goes_on(_WORD, rest) or rest.startswith(_INCOMPLETE))
    return ends
