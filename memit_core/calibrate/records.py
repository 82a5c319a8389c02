"""What a calibration writes and asks: the packaged facts, or the user's own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import resources
from itertools import chain, zip_longest
from typing import Any

import torch

from memit_core.eval.records import Record
from memit_core.facts import Fact
from memit_core.model import Model
from memit_core.tokens import encode_text

NEIGHBORS = 4
"""Asked of each fact."""


def packaged_records() -> list[Record]:
    """About a hundred well-known subjects, each with an object that is not its own.

    Of every object's subjects, every other one is edited; the others are the neighbours. Relations
    take turns, so that the first few records are of many kinds.
    """
    data = _packaged()
    by_relation = [list(_of_relation(one, data["openings"])) for one in data["relations"]]
    in_turns = chain.from_iterable(zip_longest(*by_relation))
    return [replace(record, index=i) for i, record in enumerate(filter(None, in_turns))]


def _of_relation(relation: dict[str, Any], openings: Sequence[str]) -> Iterator[Record]:
    objects: dict[str, list[str]] = relation["objects"]
    flat = [(subject, true) for true, subjects in objects.items() for subject in subjects]
    edited, kept = flat[::2], flat[1::2]
    answers = list(objects)
    for i, (subject, true) in enumerate(edited):
        place = answers.index(true)
        # Every other object has its turn.
        new = answers[(place + 1 + i % (len(answers) - 1)) % len(answers)]
        alike = sorted(kept, key=lambda one, true=true: one[1] != true)  # type: ignore[misc]
        yield Record(
            index=i,
            fact=Fact(subject, relation["prompt"], new, target_true=true),
            paraphrases=_in_other_words(
                subject, relation["paraphrases"], openings[i % len(openings)]
            ),
            neighbors=tuple(
                (relation["prompt"].replace("{}", other), answer)
                for other, answer in alike[:NEIGHBORS]
            ),
        )


def _in_other_words(subject: str, prompts: Sequence[str], opening: str) -> tuple[str, ...]:
    """Each wording; every other one after a sentence about something else."""
    filled = [prompt.replace("{}", subject) for prompt in prompts]
    return tuple(f"{opening} {text}" if i % 2 else text for i, text in enumerate(filled))


def _packaged() -> dict[str, Any]:
    """`openings`, sentences about something else, and `relations`."""
    file = resources.files("memit_core") / "data" / "calibration_facts.json"
    data: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return data


def users_records(base: Model, facts: Sequence[Fact]) -> list[Record]:
    """The user's facts, with what they lack to be measured by.

    Without a `target_true` it is what the model says now; without paraphrases it is the fact's own
    prompt after a sentence about something else; without neighbours they are the packaged facts'.
    """
    openings = _packaged()["openings"]
    others = [record.neighbors for record in packaged_records()]
    records = []
    for i, fact in enumerate(facts):
        true = fact.target_true or said_now(base, fact.filled)
        opening = openings[i % len(openings)]
        neighbors = tuple((prompt, true) for prompt in fact.neighborhood_prompts)
        records.append(
            Record(
                index=i,
                fact=Fact(fact.subject, fact.prompt, fact.target_new, target_true=true),
                paraphrases=fact.paraphrase_prompts or (f"{opening} {fact.filled}",),
                neighbors=neighbors or others[i % len(others)],
            )
        )
    return records


@torch.no_grad()
def said_now(base: Model, prompt: str) -> str:
    """The most probable next token that holds a letter or digit, as text."""
    ids = torch.tensor([encode_text(base.tokenizer, prompt)[0]], device=base.device)
    logits = base.view(input_ids=ids, use_cache=False).logits[0, -1]
    for token in logits.argsort(descending=True).tolist():
        text: str = base.tokenizer.decode([token], skip_special_tokens=True).strip()
        if any(character.isalnum() for character in text):
            return text
    raise ValueError("the vocabulary holds no letter")
