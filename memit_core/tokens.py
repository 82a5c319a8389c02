"""Text to token ids: which token is the subject's last, which positions predict the target.

Everything works on token ids and character offsets. Nothing is decoded and tokenised again, and
no user text ever goes through `str.format`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from memit_core.errors import InvalidFact
from memit_core.facts import Fact

LINE = "\n"
"""Goes before a subject that would be the very first token; see `contexts_of`."""


@dataclass(frozen=True)
class Row:
    """One sequence. `lookup` is the index of the subject's last token.

    `targets` are the ids to predict; the first is predicted at index len(ids) - len(targets),
    the last at the end of `ids`, which holds the prompt and all targets but the last.
    """

    ids: tuple[int, ...]
    lookup: int
    targets: tuple[int, ...] = ()

    @property
    def target_positions(self) -> range:
        return range(len(self.ids) - len(self.targets), len(self.ids))


@dataclass(frozen=True)
class Batch:
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


def encode(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids with the tokenizer's own beginning-of-text, and their character offsets.

    An end-of-text that a tokenizer appends is left out: the text goes on.
    """
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
    while len(ids) > 1 and ids[-1] in tokenizer.all_special_ids and offsets[-1] == (0, 0):
        ids.pop()
        offsets.pop()
    return ids, offsets


def prompt_row(tokenizer: Any, fact: Fact, prefix: str = "") -> Row:
    """`prefix` + the filled prompt.

    Raises:
        InvalidFact: no token holds a character of the subject.
    """
    before, _ = fact.parts
    ids, offsets = encode(tokenizer, prefix + fact.filled)
    return Row(tuple(ids), _lookup(offsets, len(prefix) + len(before), fact))


def target_row(
    tokenizer: Any, fact: Fact, prefix: str = "", *, max_tokens: int | None = None
) -> Row:
    """`prefix` + the filled prompt + all of the target but its last token.

    Raises:
        InvalidFact: the subject or target tokenises to nothing, or the row is too long.
    """
    row = prompt_row(tokenizer, fact, prefix)
    targets = target_ids(tokenizer, prefix + fact.filled, fact.target_new)
    if not targets:
        raise InvalidFact("tokenises to nothing", subject=fact.subject, field="target_new")
    if max_tokens is not None and len(row.ids) + len(targets) > max_tokens:
        raise InvalidFact(
            f"and target_new are {len(row.ids) + len(targets)} tokens, at most {max_tokens}",
            subject=fact.subject,
            field="prompt",
            limit=max_tokens,
        )
    return Row(row.ids + tuple(targets[:-1]), row.lookup, tuple(targets))


def subject_row(tokenizer: Any, fact: Fact) -> Row:
    """ "{subject} is a": where the KL term looks (official code); not at the very first token."""
    for before in ("", LINE):
        ids, offsets = encode(tokenizer, f"{before}{fact.subject} is a")
        row = Row(tuple(ids), _lookup(offsets, len(before), fact))
        if row.lookup:
            break
    return row


def contexts_of(tokenizer: Any, fact: Fact, contexts: Sequence[str]) -> tuple[str, ...]:
    """`contexts`, the empty one a line break where the subject would be the very first token.

    Every token attends to the first, whose state hardly says which word it is; a fact that is
    read there is written into every text (Yang et al., "The Fall of ROME", 2406.11263).
    """
    if prompt_row(tokenizer, fact).lookup:
        return tuple(contexts)
    return tuple(context or LINE for context in contexts)


def continuation_row(tokenizer: Any, prompt: str, target: str) -> Row:
    """Any prompt with a target to score; it has no subject, so `lookup` is 0."""
    ids, _ = encode(tokenizer, prompt)
    targets = target_ids(tokenizer, prompt, target)
    return Row((*ids, *targets[:-1]), 0, tuple(targets))


def target_ids(tokenizer: Any, prompt: str, target: str) -> list[int]:
    """Ids of " " + target as they follow `prompt`.

    They are what the whole text has beyond the prompt's own ids; where the tokenizer merges over
    the border, what it has beyond those of a word. By itself a target would get a word mark of its
    own from some tokenizers (Llama 2's), and with it a second space.
    """
    target = target.strip()
    for before in (prompt, *_ANCHORS):
        first, _ = encode(tokenizer, before)
        whole, _ = encode(tokenizer, f"{before} {target}")
        if whole[: len(first)] == first:
            return whole[len(first) :]
    alone: list[int] = tokenizer(f" {target}", add_special_tokens=False)["input_ids"]
    return alone


_ANCHORS = ("a", "0", ".")


def _lookup(offsets: Sequence[tuple[int, int]], begin: int, fact: Fact) -> int:
    """Index of the last token over the subject, which begins at character `begin`.

    A character may span several tokens. The last one may have none: a normaliser joins a
    combining mark with the letter before it, or drops what cannot be seen.
    """
    end = begin + len(fact.subject)
    over = [i for i, (start, stop) in enumerate(offsets) if max(start, begin) < min(stop, end)]
    if not over:
        raise InvalidFact("tokenises to nothing", subject=fact.subject, field="subject")
    return over[-1]


def collate(rows: Sequence[Row], pad: int, device: torch.device) -> Batch:
    """Pad rows on the right into one batch."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.ids)] = 1
    return Batch(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        position_ids=torch.arange(width).expand(len(rows), width).contiguous().to(device),
        lookup=torch.tensor([row.lookup for row in rows], device=device),
    )


def pad_id(tokenizer: Any) -> int:
    """Any valid id for padding; padded positions are masked."""
    return int(tokenizer.pad_token_id or tokenizer.eos_token_id or 0)
