"""Text to token ids: which token is the subject's last, which positions predict the target.

`encode_text` is the only way from a text to what a model reads: for keys, z, every measure and
every generation alike. Everything else works on token ids and character offsets. Nothing is decoded
and tokenised again, and no user text ever goes through `str.format`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from memit_core.errors import InvalidFact
from memit_core.facts import Fact
from memit_core.joining import compose, separator

LINE = "\n"
"""Goes before a subject that would be the very first token; see `contexts_of`."""


@dataclass(frozen=True)
class Row:
    """One sequence. `lookup` is the index of the subject's last token.

    `targets` are the ids to predict. `ids` holds the prompt and all of them but the last; where
    `ends`, the last one too, so that the end of `ids` predicts what follows the target.
    """

    ids: tuple[int, ...]
    lookup: int
    targets: tuple[int, ...] = ()
    ends: bool = False

    @property
    def target_positions(self) -> range:
        """Where the targets are predicted, one after another."""
        stop = len(self.ids) - self.ends
        return range(stop - len(self.targets), stop)


@dataclass(frozen=True)
class TokenBatch:
    """Rows padded on the right; int64 [rows, tokens] each, mask 1 at real tokens."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    lookup: torch.Tensor
    """int64 [rows]."""

    def inputs(self) -> dict[str, torch.Tensor]:
        """Keyword arguments of a model's forward."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }


def encode_text(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of a text that goes on, and the characters of its composed form under each.

    The text is composed (NFC). What the tokenizer puts before every text is there once, also where
    the text begins with it, as one that a chat template has made does. What it puts after every
    text is left out. Special tokens written in the text are those tokens.
    """
    encoded = tokenizer(compose(text), return_offsets_mapping=True)
    ids, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
    special = set(tokenizer.all_special_ids)
    put = [i in special and tuple(at) == (0, 0) for i, at in zip(ids, offsets, strict=True)]
    # Of a text without tokens of its own, an opening alone is left.
    while put and put[-1] and not (len(put) == 1 and ids[0] == tokenizer.bos_token_id):
        del ids[-1], offsets[-1], put[-1]
    opening = put.index(False) if False in put else 0
    if opening and ids[opening : 2 * opening] == ids[:opening]:
        del ids[:opening], offsets[:opening]
    return ids, offsets


def prompt_row(tokenizer: Any, fact: Fact, prefix: str = "", suffix: str = "") -> Row:
    """`prefix` + the filled prompt + `suffix`; after the beginning-of-text that the prompt may
    bring.

    Raises:
        InvalidFact: no token holds a character of the subject.
    """
    before, _ = fact.parts
    ids, offsets = encode_text(tokenizer, prefixed(tokenizer, prefix, f"{fact.filled}{suffix}"))
    begin = compose(f"{prefix}{before}")
    end = compose(f"{prefix}{before}{fact.subject.rstrip()}")
    return Row(tuple(ids), _lookup(offsets, len(begin), len(end), fact))


def prefixed(tokenizer: Any, prefix: str, text: str) -> str:
    """`prefix` before a text, or after the beginning-of-text that it begins with."""
    begin = tokenizer.bos_token or ""
    opens = begin and text.startswith(begin) and _puts_before(tokenizer, tokenizer.bos_token_id)
    return f"{begin}{prefix}{text[len(begin) :]}" if opens else f"{prefix}{text}"


def _puts_before(tokenizer: Any, token: int) -> bool:
    """Whether the tokenizer begins every text with this token."""
    return bool(encode_text(tokenizer, "a")[0][0] == token)


def target_row(
    tokenizer: Any,
    fact: Fact,
    prefix: str = "",
    suffix: str = "",
    *,
    max_tokens: int | None = None,
    ends: bool = False,
) -> Row:
    """`prefix` + the filled prompt + `suffix` + the target, without its last token unless `ends`.

    Raises:
        InvalidFact: the subject or target tokenises to nothing, or the row is too long.
    """
    row = prompt_row(tokenizer, fact, prefix, suffix)
    text = prefixed(tokenizer, prefix, f"{fact.filled}{suffix}")
    targets = target_ids(tokenizer, text, fact.target_new)
    if not targets:
        raise InvalidFact("tokenises to nothing", subject=fact.subject, field="target_new")
    if max_tokens is not None and len(row.ids) + len(targets) > max_tokens:
        raise InvalidFact(
            f"and target_new are {len(row.ids) + len(targets)} tokens, at most {max_tokens}",
            subject=fact.subject,
            field="prompt",
            limit=max_tokens,
        )
    return Row(row.ids + _upto(targets, ends), row.lookup, tuple(targets), ends)


def _upto(targets: Sequence[int], ends: bool) -> tuple[int, ...]:
    return tuple(targets if ends else targets[:-1])


def subject_row(tokenizer: Any, fact: Fact) -> Row:
    """ "{subject} is a": where the KL term looks (official code); not at the very first token."""
    for before in ("", LINE):
        subject = compose(f"{before}{fact.subject.strip()}")
        ids, offsets = encode_text(tokenizer, f"{subject} is a")
        row = Row(tuple(ids), _lookup(offsets, len(before), len(subject), fact))
        if row.lookup:
            break
    return row


def contexts_of(tokenizer: Any, fact: Fact, contexts: Sequence[str]) -> tuple[str, ...]:
    """`contexts`, the empty one a line break where the subject would be the very first token.

    Every token attends to the first, whose state hardly says which word it is; a fact that is
    read there is written into every text (Yang et al., "The Fall of ROME", 2406.11263).

    A prompt that brings special tokens, and so may be a chat itself, stands bare instead of in
    another chat.
    """
    bare = "" if prompt_row(tokenizer, fact).lookup else LINE
    if brings_special(tokenizer, fact.filled):
        contexts = ["" if brings_special(tokenizer, context) else context for context in contexts]
    return tuple(context or bare for context in contexts)


def brings_special(tokenizer: Any, text: str) -> bool:
    """Whether special tokens are written in the text, as in a chat's."""
    return any(token in text for token in tokenizer.all_special_tokens)


def continuation_row(tokenizer: Any, prompt: str, target: str, *, ends: bool = False) -> Row:
    """Any prompt with a target to score; it has no subject, so `lookup` is 0."""
    ids, _ = encode_text(tokenizer, prompt)
    targets = target_ids(tokenizer, prompt, target)
    return Row((*ids, *_upto(targets, ends)), 0, tuple(targets), ends)


def joined(tokenizer: Any, prompt: str, target: str) -> str:
    """The target as it follows the prompt, with the space that belongs there; see `joining`.

    Blanks at its end are left out. After a special token, such as that of an assistant's turn,
    there is no space.
    """
    target = target.rstrip(" \t")
    return target if _ends_special(tokenizer, prompt) else f"{separator(prompt, target)}{target}"


def _ends_special(tokenizer: Any, prompt: str) -> bool:
    return any(prompt.endswith(token) for token in tokenizer.all_special_tokens)


def target_ids(tokenizer: Any, prompt: str, target: str) -> list[int]:
    """Ids of the joined target as they follow `prompt`.

    They are what the whole text has beyond the prompt's own ids; where the tokenizer merges over
    the border, what it has beyond those of a word. By itself, or after a special token, a target
    would get a word mark of its own from some tokenizers (Llama 2's), and with it a second space.
    """
    text = joined(tokenizer, prompt, target)
    befores = _BEFORE_DIGITS if text[:1].isdigit() else _BEFORE_TEXT
    if not _ends_special(tokenizer, prompt):
        befores = (prompt, *befores)
    for before in befores:
        first, _ = encode_text(tokenizer, before)
        whole, _ = encode_text(tokenizer, f"{before}{text}")
        if whole[: len(first)] == first:
            return whole[len(first) :]
    alone: list[int] = tokenizer(compose(text), add_special_tokens=False)["input_ids"]
    return alone


_BEFORE_TEXT: tuple[str, ...] = ("0", ".", "a")
_BEFORE_DIGITS: tuple[str, ...] = ("a", ".", "0")
"""What a tokenizer hardly merges with what follows."""


def _lookup(offsets: Sequence[tuple[int, int]], begin: int, end: int, fact: Fact) -> int:
    """Index of the last token over the subject, the characters `begin:end` of the composed text.

    A character may span several tokens. The last one may have none: a normaliser drops what
    cannot be seen.
    """
    over = [i for i, (start, stop) in enumerate(offsets) if max(start, begin) < min(stop, end)]
    if not over:
        raise InvalidFact("tokenises to nothing", subject=fact.subject, field="subject")
    return over[-1]


def collate(rows: Sequence[Row], device: torch.device) -> TokenBatch:
    """Pad rows on the right into one batch, with the id 0: padded positions are masked."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.ids)] = 1
    return TokenBatch(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        position_ids=torch.arange(width).expand(len(rows), width).contiguous().to(device),
        lookup=torch.tensor([row.lookup for row in rows], device=device),
    )
