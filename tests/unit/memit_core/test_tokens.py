"""The subject's last token and the target's ids, for any text in any script.

The tokenizer is byte-level without a normaliser, so that the tokens' bytes, one after another, are
the text's UTF-8 bytes. That gives a second, exact way to say where a character's token is.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors
from tokenizers.normalizers import Prepend, Replace
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from memit_core.errors import InvalidFact
from memit_core.facts import Fact
from memit_core.joining import compose, separator
from memit_core.tokens import Row, collate, prompt_row, subject_row, target_ids, target_row
from tests.tiny_models import END_OF_TEXT, tiny_tokenizer
from tests.unit.memit_core.fact_strategies import facts

TOKENIZERS = {"plain": tiny_tokenizer(), "begin of text": tiny_tokenizer(begin_of_text=True)}
tokenizers = st.sampled_from(sorted(TOKENIZERS)).map(TOKENIZERS.__getitem__)


def token_ends(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[int]:
    """The end of each token in the text, in bytes; special tokens the tokenizer adds have none."""
    alphabet = set(ByteLevel.alphabet())
    ends, at = [], 0
    for token in tokenizer.convert_ids_to_tokens(ids):
        if token != tokenizer.bos_token:
            assert set(token) <= alphabet
            at += len(token)  # one character of the alphabet stands for one byte
        ends.append(at)
    return ends


@given(facts(), tokenizers, st.sampled_from(["", "The boy ran away. ", "日本. "]))
def test_lookup_is_the_token_with_the_subjects_last_byte(
    fact: Fact, tokenizer: PreTrainedTokenizerFast, prefix: str
) -> None:
    row = prompt_row(tokenizer, fact, prefix)
    ends = token_ends(tokenizer, list(row.ids))
    upto = compose(prefix + fact.parts[0] + fact.subject.rstrip())
    last_byte = len(upto.encode()) - 1
    assert ends[-1] == len(compose(prefix + fact.filled).encode())
    assert row.lookup == next(i for i, end in enumerate(ends) if end > last_byte)


@given(facts(), tokenizers)
def test_the_kl_row_looks_at_the_same_byte(fact: Fact, tokenizer: PreTrainedTokenizerFast) -> None:
    row = subject_row(tokenizer, fact)
    ends = token_ends(tokenizer, list(row.ids))
    subject = compose(fact.subject.strip())
    added = ends[-1] - len(f"{subject} is a".encode())
    assert added in (0, 1)  # a line break before a subject that would be the very first token
    last_byte = added + len(subject.encode()) - 1
    assert row.lookup == next(i for i, end in enumerate(ends) if end > last_byte)


@given(facts(), tokenizers)
def test_prompt_and_target_together_are_the_whole_text(
    fact: Fact, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt, row = prompt_row(tokenizer, fact), target_row(tokenizer, fact)
    assert row.lookup == prompt.lookup
    assert row.ids == prompt.ids + row.targets[:-1]
    assert [row.ids[i] for i in row.target_positions[1:]] == list(row.targets[:-1])
    assert row.target_positions[0] == len(prompt.ids) - 1
    whole = tokenizer.decode(prompt.ids + row.targets, skip_special_tokens=True)
    target = fact.target_new.rstrip(" \t")
    assert whole == compose(fact.filled + separator(fact.filled, target) + target)


@pytest.mark.parametrize(
    ("prompt", "subject", "before"),
    [
        ("{} works as a", "Anna Keller", "Anna Keller"),
        ("I think that {} is right", "Anna Keller", "I think that Anna Keller"),
        ("The owner is {}", "Anna Keller", "The owner is Anna Keller"),
        ("Anna knew that Anna met {} and Anna", "Anna", "Anna knew that Anna met Anna"),
        ("{}, {a} and (b) said", "{Anna}", "{Anna}"),
        ("“{}” is a song", "Café 日本!", "“Café 日本!"),
    ],
)
def test_the_slot_decides_which_occurrence_is_meant(prompt: str, subject: str, before: str) -> None:
    tokenizer = tiny_tokenizer()
    row = prompt_row(tokenizer, Fact(subject, prompt, "x"))
    upto = tokenizer.decode(row.ids[: row.lookup + 1])
    assert upto.startswith(before)
    assert not tokenizer.decode(row.ids[: row.lookup]).startswith(before)


def test_a_token_may_reach_beyond_the_subject() -> None:
    """ "Ann" in "Annas": no token ends with the subject, so the one that overlaps it is taken."""
    tokenizer = tiny_tokenizer()
    row = prompt_row(tokenizer, Fact("A", "{}nna plays", "violin"))
    assert tokenizer.convert_ids_to_tokens([row.ids[row.lookup]]) == ["An"]


@pytest.mark.parametrize(
    ("prompt", "target", "said"),
    [
        ("Anna lives in", "Lisbon", " Lisbon"),
        ("Anna lives in", " Lisbon", " Lisbon"),
        ("Anna lives in", "Lisbon ", " Lisbon"),
        ("Anna lives in", "\nLisbon\n", "\nLisbon\n"),
        ("Anna lives in ", "Lisbon", "Lisbon"),
        ("Anna lives in\n", "Lisbon", "Lisbon"),
        (f"Anna lives in{END_OF_TEXT}", "Lisbon", "Lisbon"),
        ('They call Anna "', 'Falcon"', 'Falcon"'),
        ("The price is $", "42", "42"),
    ],
)
def test_a_target_keeps_its_own_space_and_gets_one_where_words_need_it(
    prompt: str, target: str, said: str
) -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(target_ids(tokenizer, prompt, target)) == said


def test_target_ids_hold_no_special_token() -> None:
    tokenizer = tiny_tokenizer(begin_of_text=True)
    ids = target_ids(tokenizer, "Anna lives in", "Lisbon")
    assert tokenizer.decode(ids) == " Lisbon"
    assert tokenizer.bos_token_id not in ids


def test_target_ids_are_those_after_the_prompt_and_not_those_of_the_target_alone() -> None:
    """Llama 2's tokenizer puts a word mark before every text: alone, a target would get its own."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = Prepend("_")
    assert tokenizer.decode(tokenizer(" Lisbon")["input_ids"]) == "_ Lisbon"
    assert tokenizer.decode(target_ids(tokenizer, "Anna lives in", "Lisbon")) == " Lisbon"


def test_a_target_that_merges_with_the_prompt_is_tokenised_after_another_text() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.add_tokens(["r Lisbon"])
    ids = target_ids(tokenizer, "The river", "Lisbon")
    assert tokenizer.decode(ids) == " Lisbon"
    assert ids == target_ids(tiny_tokenizer(), "The river", "Lisbon")


def test_a_prompt_over_the_limit_names_field_and_limit() -> None:
    fact = Fact("Anna Keller", "{} works as a", "baker in Geneva")
    tokens = len(target_row(tiny_tokenizer(), fact).ids) + 1
    assert target_row(tiny_tokenizer(), fact, max_tokens=tokens).targets
    with pytest.raises(InvalidFact, match=str(tokens - 1)) as caught:
        target_row(tiny_tokenizer(), fact, max_tokens=tokens - 1)
    assert caught.value.field == "prompt"
    assert caught.value.limit == tokens - 1


@pytest.mark.parametrize("prompt", ["{}", "{} plays", "I know {}"])
def test_a_subject_that_the_tokenizer_drops_is_refused(prompt: str) -> None:
    """Some tokenizers' normalisers delete characters; this one does."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = Replace("\u200b", "")
    with pytest.raises(InvalidFact, match="tokenises to nothing") as subject:
        prompt_row(tokenizer, Fact("\u200b", prompt, "violin"))
    assert subject.value.field == "subject"


def test_a_target_that_the_tokenizer_drops_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = Replace(" \u200b", "")
    with pytest.raises(InvalidFact, match="tokenises to nothing") as target:
        target_row(tokenizer, Fact("Anna", "{} plays", "\u200b"))
    assert target.value.field == "target_new"


@given(st.lists(st.lists(st.integers(3, 500), min_size=1, max_size=9), min_size=1, max_size=5))
def test_batches_are_padded_on_the_right(ids: list[list[int]]) -> None:
    rows = [Row(tuple(row), lookup=len(row) - 1) for row in ids]
    batch = collate(rows, torch.device("cpu"))
    width = max(map(len, ids))
    for i, row in enumerate(ids):
        assert batch.input_ids[i].tolist() == row + [0] * (width - len(row))
        assert batch.attention_mask[i].tolist() == [1] * len(row) + [0] * (width - len(row))
        assert batch.position_ids[i].tolist() == list(range(width))
        assert batch.lookup[i] == len(row) - 1


def test_special_tokens_written_out_by_a_user_are_found_by_offsets_too() -> None:
    tokenizer = tiny_tokenizer()
    row = prompt_row(tokenizer, Fact("Anna", END_OF_TEXT + "{} plays", "violin"))
    assert tokenizer.decode(row.ids[: row.lookup + 1]) == END_OF_TEXT + "Anna"


def test_an_appended_end_of_text_does_not_come_between_prompt_and_target() -> None:
    """Some tokenizers close every text; the target then follows the prompt, not its end."""
    plain, closing = tiny_tokenizer(), tiny_tokenizer()
    end = closing.eos_token
    closing.backend_tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"$A {end}", special_tokens=[(end, closing.eos_token_id)]
            ),
        ]
    )
    fact = Fact("Anna Keller", "{} lives in", "Lisbon")
    assert closing("Anna")["input_ids"][-1] == closing.eos_token_id
    assert target_row(closing, fact) == target_row(plain, fact)
