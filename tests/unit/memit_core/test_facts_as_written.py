"""Facts as users write them: what is edited for each is what the plain reference edits.

The rows are compared with the reference's own reading of the text; z, keys and Δ on two families,
one of whose blocks look back eight tokens only.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from memit_core.facts import Fact, group_facts
from memit_core.tokens import Row, prompt_row, subject_row, target_row
from tests.reference import Reference
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.unit.memit_core.examples import (
    CONTEXTS,
    HPARAMS,
    by_layer,
    editor_of,
    loaded_tiny,
    settings_of,
)

SENTENCE = (
    "the keeper of the lighthouse, who wrote a letter every evening and, when the music stopped, "
    "carried it to the town herself; nobody knows why."
)
FACTS = {
    "start": Fact("Anna Keller", "{} works as a", "chemist"),
    "middle": Fact("Mount Elbrus", "The mountain called {} is located in", "the Caucasus"),
    "end": Fact("Martin Okafor", "The author of the book is {}", "from Berlin"),
    "nothing but the subject": Fact("Therefore", "{}", "the council"),
    "many tokens": Fact("Lisbon", "{} is known for its", "Zwölfuhrläuten-Xylophonquartett"),
    "a sentence": Fact("Paris", "In the old story {} is", SENTENCE),
    "target with a space of its own": Fact("Geneva", "{} lies in", " France"),
    "target with lines around": Fact("Geneva", "{} lies in", "\nFrance \n"),
    "prompt with a space of its own": Fact("Geneva", "{} lies in ", "France"),
    "accents": Fact("Café Zoë", "The owner of {} speaks", "Português"),
    "no spaces": Fact("東京タワー", "{}は", "大阪にあります。"),
    "right to left": Fact("القاهرة", "تقع مدينة {} في", "البرتغال"),
    "right to left, pointed": Fact("שָׁלוֹם", "The word {} means", "בית"),
    "left and right": Fact("Anna كيلر", "I met {} (in Lisbon) and", "ate"),
    "emoji": Fact("👩‍👩‍👧 Fox 🦊", "{} is a song by", "Martin"),
    "repeated before": Fact("Anna", "Anna said that {} is", "right"),
    "repeated after": Fact("Anna", "{} and Anna and Anna are", "friends"),
    "repeated around": Fact("the", "the fox and {} garden and the", "bridge"),
    "part of a word": Fact("Ann", "{}a Keller lives in", "Vienna"),
    "inside a word": Fact("ighthous", "The l{}e is", "old"),
    "before an apostrophe": Fact("Martin", "{}'s native language is", "Portuguese"),
    "before a full stop": Fact("Anna Keller", "I know {}. She lives in", "Berlin"),
    "in quotes": Fact("The Silent Orchard", "The book “{}” was written by", "Anna"),
    "punctuation": Fact("O'Brien & Sons, Inc. (1931)!", "{} was founded in", "Vienna"),
    "braces": Fact("{name}", "The template {} and {x} is", "{y}"),
    "percent and backslash": Fact(r"%s \n $1", "{} costs 5%", "more"),
    "digits": Fact("1931", "In {} the company moved to", "Lisbon"),
    "question": Fact("Anna Keller", "What is the native language of {}?", "It is Portuguese."),
    "question and answer": Fact("France", "Q: What is the capital of {}?\nA:", "Lyon"),
    "lines": Fact("Mount Elbrus", "Name: {}\n\nPlace:\t", "Portugal"),
}


every_fact = pytest.mark.parametrize("fact", FACTS.values(), ids=FACTS)


@pytest.fixture(scope="module")
def reading() -> Reference:
    """The reference as a reader of texts; its model is of no interest."""
    templates = [context + "{}" for context in CONTEXTS]
    return Reference("llama", tiny_model("llama"), tiny_tokenizer(), templates)


@every_fact
def test_rows_are_what_the_reference_reads(fact: Fact, reading: Reference) -> None:
    tokenizer = reading.tokenizer
    for context in CONTEXTS:
        text, position = reading.prompt(context + "{}", fact)
        ids, target = reading.ids(text), reading.target(text, fact.target_new)
        assert prompt_row(tokenizer, fact, context) == Row(tuple(ids), position)
        row = target_row(tokenizer, fact, context)
        assert row == Row((*ids, *target[:-1]), position, tuple(target))
        assert tokenizer.decode(ids + target).startswith(text)
        assert tokenizer.decode(ids + target).endswith(fact.target_new)
    kl, position = reading.kl_prompt(fact.subject)
    assert subject_row(tokenizer, fact) == Row(tuple(reading.ids(kl)), position)


@every_fact
def test_the_subjects_last_token_is_known_by_its_text(fact: Fact, reading: Reference) -> None:
    """Decoded up to `lookup` the prompt holds the whole subject; one token less and it does not."""
    row = prompt_row(reading.tokenizer, fact)
    upto = fact.parts[0] + fact.subject
    assert reading.tokenizer.decode(row.ids[: row.lookup + 1]).startswith(upto)
    assert not reading.tokenizer.decode(row.ids[: row.lookup]).startswith(upto)


# z differs from the reference's as test_against_reference.py explains.
Z, DELTA = 1e-3, 2e-4


def relative(ours: torch.Tensor, expected: torch.Tensor, scale: torch.Tensor) -> float:
    return float((ours.double() - expected).norm() / scale.norm())


@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_every_fact_is_edited_as_the_reference_edits_it(name: str) -> None:
    """All at once: rows of 5 to 80 tokens in one batch, three facts of one subject in one group."""
    hparams = replace(HPARAMS, v_num_grad_steps=3)
    editor = editor_of(loaded_tiny(name), hparams)
    groups = group_facts(FACTS.values())
    assert max(len(group.facts) for group in groups) == 3
    targets = editor.targets(groups)
    templates = [context + "{}" for context in editor.prepare().contexts]
    reference = Reference(name, editor.loaded.model, editor.loaded.tokenizer, templates)
    settings = settings_of(hparams)
    for group, ours in zip(groups, targets, strict=True):
        expected = reference.compute_z(group.facts, settings)
        assert relative(ours.z, expected.z, expected.z - expected.h0) < Z, group.subject
        assert ours.loss == pytest.approx(expected.losses[-1], rel=1e-4)
    covariances = {layer: c.double() for layer, c in editor.prepare().covariance.items()}
    solved = editor.solve(groups)
    inserted = reference.insert(
        [list(group.facts) for group in groups], [t.z for t in targets], covariances, settings
    )
    for layer, change in by_layer(editor, solved).items():
        delta = change.matrix(torch.device("cpu"))
        assert relative(delta, inserted[layer].delta, inserted[layer].delta) < DELTA
