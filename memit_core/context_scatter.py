"""How the key of a name varies with the text before it: its scatter about the name's mean key.

A fact is written at its subject's keys in a few contexts. In another text the key differs a little,
and what hundreds of facts write along that difference adds up to noise at each other's subjects.
Added to C, the scatter keeps them from writing there (the within-class scatter of Fisher's
discriminant, 1936, with a name as a class and the texts before it as its members).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

from memit_core.errors import MemitError
from memit_core.structure import Structure
from memit_core.tokens import Row, collate, encode, pad_id
from memit_core.trace import run_until

NAMES = 200
SENTENCES = 20
SENTENCE_CHARS = range(30, 120)
TOGETHER = 8
"""Names that are run together, each after every sentence."""


def scatter_rows(tokenizer: Any, corpus: str) -> list[list[Row]]:
    """By name, the name after every sentence; `lookup` is its last token.

    Raises:
        MemitError: the corpus has fewer than two sentences, or no words.
    """
    before, names = sentences(corpus), phrases(corpus)
    if len(before) < 2 or not names:
        raise MemitError(
            "the covariance corpus has too few sentences for mom2_context_weight: "
            "give a longer corpus, or leave mom2_context_weight out"
        )
    rows = [[encode(tokenizer, f"{text} {name}")[0] for text in before] for name in names]
    return [[Row(tuple(ids), len(ids) - 1) for ids in of_name] for of_name in rows]


def sentences(corpus: str) -> list[str]:
    """Up to `SENTENCES` sentences of a line, taken evenly from the whole corpus."""
    found = (
        part.strip()
        for line in corpus.splitlines()
        for part in re.split(r"(?<=[.!?])\s+|(?<=[。！？।])", line)
    )
    whole = [part for part in found if len(part) in SENTENCE_CHARS and not part[-1].isalnum()]
    return _evenly(list(dict.fromkeys(whole)), SENTENCES)


def phrases(corpus: str) -> list[str]:
    """Up to `NAMES` names: one to three capitalised words within a sentence.

    Where a script has no capitals, or the text too few names, any words stand in for them.
    """
    words = corpus.split()
    names: set[str] = set()
    run: list[str] = []
    for before, word in pairwise(words):
        inside = before[-1].isalnum() and len(run) < 3
        if not (inside and word[0].isupper()):
            run = []
        if inside and word.strip(_MARKS).istitle():
            run.append(word.strip(_MARKS))
            names.add(" ".join(run))
    if len(names) < NAMES:
        names |= {word.strip(_MARKS) for word in words} - {""}
    return _evenly(sorted(names), NAMES)


_MARKS = ".,;:!?\"'()[]*_"


def _evenly(items: Sequence[str], count: int) -> list[str]:
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


@torch.no_grad()
def context_scatter(
    view: Any,
    structure: Structure,
    layers: Sequence[int],
    tokenizer: Any,
    rows: Sequence[Sequence[Row]],
    tell: Callable[[int], None],
) -> dict[int, torch.Tensor]:
    """By layer the mean of (k - k̄)(k - k̄)ᵀ, [m, m] float64 on the CPU; k̄ is a name's mean key.

    Args:
        rows: as `scatter_rows` gives them.
        tell: called with the number of tokens done.
    """
    device = next(view.parameters()).device
    m = structure.intermediate
    sums = {layer: torch.zeros(m, m, dtype=torch.float64) for layer in layers}
    done = 0
    for start in range(0, len(rows), TOGETHER):
        tell(done)
        some = rows[start : start + TOGETHER]
        flat = [row for of_name in some for row in of_name]
        batch = collate(flat, pad_id(tokenizer), device)

        def reader(layer: int, names: int = len(some), batch: Any = batch) -> Any:
            def read(keys: torch.Tensor) -> None:
                at = torch.arange(len(batch.lookup), device=keys.device)
                k = keys[at, batch.lookup].float().view(names, -1, keys.shape[-1])
                off = (k - k.mean(1, keepdim=True)).flatten(0, 1)
                sums[layer] += (off.T @ off).cpu().double()

            return read

        seen = {structure.projections[layer]: reader(layer) for layer in layers}
        run_until(view, structure.projections[layers[-1]], batch, seen)
        done += sum(len(row.ids) for row in flat)
    degrees = sum(len(of_name) - 1 for of_name in rows)
    return {layer: total / degrees for layer, total in sums.items()}
