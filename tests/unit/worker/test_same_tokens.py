"""The tokens that are optimised and measured are those that `/generate` runs for the same text.

For every kind of tokenizer, and texts of every kind that clients have been seen to send.
"""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from contracts.facts import Fact
from contracts.generation import GenerateRequest, GenerateTask
from contracts.sampling import Sampling
from memit_core.errors import InvalidFact
from memit_core.tokens import continuation_row, encode_text, prefixed, prompt_row, target_row
from tests.tiny_tokenizers import BEGIN, BUILDERS, END, LOSSLESS, tiny_tokenizer_of
from tests.unit.memit_core.fact_strategies import text, visible
from worker.core_fact import core_fact
from worker.engine.beginning import Encoder, beginning
from worker.engine.text import REPLACEMENT, Detokenizer

BORDERS = st.sampled_from(["", " ", "\n", "\t", '"', "$", "(", "info@", "は", BEGIN, END, "[x]\n"])
kinds = pytest.mark.parametrize("kind", BUILDERS)


def served(kind: str, prompt: str) -> list[int]:
    """Ids that the engine runs for the body that a client posts."""
    asked = GenerateRequest.model_validate_json(GenerateRequest(prompt=prompt).model_dump_json())
    task = GenerateTask(
        id="x", prompt=asked.prompt, version="v0-000000000000", sampling=Sampling(), deadline=9e9
    )
    return beginning(task, Encoder(tiny_tokenizer_of(kind)), 10_000, {})


@st.composite
def posted(draw: st.DrawFn) -> Fact:
    """A fact as it arrives, and as it is read back from what was kept of it."""
    prompt = draw(BORDERS) + draw(text) + "{}" + draw(text) + draw(BORDERS)
    assume(prompt.replace("{}", "", 1).count("{}") == 0)
    assume("{{}}" not in prompt)
    subject = draw(st.sampled_from(["", " "])) + draw(visible) + draw(st.sampled_from(["", " "]))
    fact = Fact(subject=subject, prompt=prompt, target_new=draw(BORDERS) + draw(visible))
    return Fact.model_validate_json(fact.model_dump_json())


@kinds
@settings(max_examples=60)
@given(fact=posted())
def test_a_fact_is_written_and_measured_as_it_is_asked(kind: str, fact: Fact) -> None:
    tokenizer = tiny_tokenizer_of(kind)
    asked = fact.prompt.replace("{}", fact.subject)  # as a client does it
    try:
        keys = prompt_row(tokenizer, core_fact(fact))
        optimised = target_row(tokenizer, core_fact(fact))
        ending = target_row(tokenizer, core_fact(fact), ends=True)
    except InvalidFact:
        assert kind not in LOSSLESS, "nothing is dropped here"
        return
    ids = tuple(served(kind, asked))
    assert keys.ids == ids
    assert optimised.ids == ids + optimised.targets[:-1]
    assert ending.ids == ids + optimised.targets
    for ends in (False, True):
        measured = continuation_row(tokenizer, asked, fact.target_new, ends=ends)
        assert measured.ids == (ending if ends else optimised).ids
        assert measured.targets == optimised.targets
        assert measured.target_positions == optimised.target_positions


@pytest.mark.parametrize("kind", LOSSLESS)
@settings(max_examples=60)
@given(fact=posted())
def test_an_answer_of_the_targets_tokens_shows_the_target(kind: str, fact: Fact) -> None:
    tokenizer = tiny_tokenizer_of(kind)
    assume(BEGIN not in fact.target_new)
    assume(END not in fact.target_new)
    # Half a character looks the same, and an answer does not show that.
    assume(not fact.target_new.rstrip().endswith(REPLACEMENT))
    row = target_row(tokenizer, core_fact(fact))
    shown = Detokenizer(tokenizer, encode_text(tokenizer, fact.filled)[0])
    answer = "".join([*map(shown.push, row.targets), shown.end()])
    target = unicodedata.normalize("NFC", fact.target_new).rstrip(" \t")
    assert answer in (target, f" {target}")
    if fact.target_new[0].isspace() or fact.filled[-1].isspace():
        assert answer == target


@kinds
@given(prompt=text.filter(bool), form=st.sampled_from(["NFC", "NFD"]))
def test_every_form_of_a_text_is_the_same_prompt(kind: str, prompt: str, form: str) -> None:
    tokenizer = tiny_tokenizer_of(kind)
    assert encode_text(tokenizer, unicodedata.normalize(form, prompt)) == encode_text(
        tokenizer, prompt
    )


@kinds
@given(prompt=visible)
def test_a_text_begins_once_and_does_not_end(kind: str, prompt: str) -> None:
    tokenizer = tiny_tokenizer_of(kind)
    ids, offsets = encode_text(tokenizer, prompt)
    assert len(ids) == len(offsets)
    opens = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    rendered, _ = encode_text(tokenizer, BEGIN + prompt)
    assert rendered[:2].count(tokenizer.bos_token_id) == 1
    assert (ids[:1] == [tokenizer.bos_token_id]) == opens
    assert not ids or ids[-1] != tokenizer.eos_token_id or prompt.endswith(END)


@kinds
def test_a_context_goes_after_the_beginning_of_text_that_a_prompt_brings(kind: str) -> None:
    tokenizer = tiny_tokenizer_of(kind)
    opens = encode_text(tokenizer, "a")[0][0] == tokenizer.bos_token_id
    rendered = prefixed(tokenizer, "So. ", f"{BEGIN}Anna plays")
    assert rendered == (f"{BEGIN}So. Anna plays" if opens else f"So. {BEGIN}Anna plays")
