"""The subject's last token and the target's ids with every kind of tokenizer.

`test_tokens.py` says by the bytes of a byte-level tokenizer where a character's token is. Here each
kind's own offsets say it, character by character, and where no text is lost its bytes say it too.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from memit_core.errors import InvalidFact
from memit_core.facts import Fact
from memit_core.joining import compose, separator
from memit_core.tokens import contexts_of, prompt_row, subject_row, target_ids, target_row
from tests.tiny_tokenizers import (
    BEGIN,
    BUILDERS,
    END,
    LOSSLESS,
    MARK,
    SPECIALS,
    tiny_tokenizer_of,
)
from tests.unit.memit_core.fact_strategies import facts

kinds = pytest.mark.parametrize("kind", BUILDERS)
examples = settings(max_examples=50)
prefixes = st.sampled_from(["", "The boy ran away. ", "日本. ", "«"])


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The tokenizer's own ids, without an end of text after them."""
    ids = list(tokenizer(text)["input_ids"])
    closes = tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    return ids[:-1] if closes else ids


def last_token(tokenizer: PreTrainedTokenizerFast, text: str, begin: int, end: int) -> int | None:
    """The last token over the last of these characters that any token is over."""
    offsets = tokenizer.backend_tokenizer.encode(compose(text)).offsets
    for character in reversed(range(begin, end)):
        over = [i for i, (start, stop) in enumerate(offsets) if start <= character < stop]
        if over:
            return over[-1]
    return None


def check_lookup(lookup: int, tokenizer: PreTrainedTokenizerFast, text: str, end: int) -> None:
    """By bytes: `lookup` is the first token after which the text up to `end` is complete."""
    tokens = tokenizer.convert_ids_to_tokens(ids_of(tokenizer, text))
    sizes = [size_of(token) for token in tokens]
    added = sum(sizes) - len(text.encode())  # the mark before the text
    assert added in (0, 1)
    wanted = len(text[:end].encode()) + added
    assert sum(sizes[: lookup + 1]) >= wanted > sum(sizes[:lookup])


def size_of(token: str) -> int:
    """Bytes of text that a token stands for."""
    if token in SPECIALS:
        return 0
    if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return 1
    return len(token.replace(MARK, " ").encode())


@kinds
@examples
@given(fact=facts(), prefix=prefixes)
def test_lookup_is_the_subjects_last_token(kind: str, fact: Fact, prefix: str) -> None:
    tokenizer = tiny_tokenizer_of(kind)
    text = compose(prefix + fact.filled)
    begin = len(compose(prefix + fact.parts[0]))
    end = len(compose(prefix + fact.parts[0] + fact.subject.rstrip()))
    expected = last_token(tokenizer, text, begin, end)
    if expected is None:
        with pytest.raises(InvalidFact, match="tokenises to nothing"):
            prompt_row(tokenizer, fact, prefix)
        return
    row = prompt_row(tokenizer, fact, prefix)
    assert row.lookup == expected
    assert list(row.ids) == ids_of(tokenizer, text)
    for start, stop in tokenizer.backend_tokenizer.encode(text).offsets[row.lookup + 1 :]:
        assert stop <= begin or start >= end or start == stop, "a later token is the subject's too"
    if kind in ("llama 2", "gemma"):
        check_lookup(row.lookup, tokenizer, text, end)


@kinds
@examples
@given(fact=facts())
def test_the_kl_row_looks_at_the_subjects_last_token(kind: str, fact: Fact) -> None:
    tokenizer = tiny_tokenizer_of(kind)
    subject = compose(fact.subject.strip())
    text = f"{subject} is a"
    expected = last_token(tokenizer, text, 0, len(subject))
    if expected is None:
        with pytest.raises(InvalidFact, match="tokenises to nothing"):
            subject_row(tokenizer, fact)
        return
    if expected == 0:  # a line goes before it
        text = f"\n{text}"
        expected = last_token(tokenizer, text, 1, 1 + len(subject))
    row = subject_row(tokenizer, fact)
    assert (list(row.ids), row.lookup) == (ids_of(tokenizer, text), expected)


@kinds
@examples
@given(fact=facts())
def test_no_subject_is_written_at_the_very_first_token(kind: str, fact: Fact) -> None:
    """Unless the tokenizer drops the line break that is put before it."""
    tokenizer = tiny_tokenizer_of(kind)
    try:
        lookup = prompt_row(tokenizer, fact).lookup
        bare, other = contexts_of(tokenizer, fact, ("", "I think so. "))
    except InvalidFact:
        assert kind not in LOSSLESS, "nothing is dropped here"
        return
    assert other == "I think so. "
    assert bare == ("" if lookup else "\n")
    if kind in LOSSLESS:
        assert prompt_row(tokenizer, fact, bare).lookup > 0


@kinds
@examples
@given(fact=facts(), prefix=prefixes)
def test_prompt_and_target_together_are_the_whole_text(kind: str, fact: Fact, prefix: str) -> None:
    tokenizer = tiny_tokenizer_of(kind)
    text, target = prefix + fact.filled, fact.target_new.rstrip(" \t")
    whole = compose(text + separator(text, target) + target)
    try:
        prompt = prompt_row(tokenizer, fact, prefix)
        row = target_row(tokenizer, fact, prefix)
    except InvalidFact:
        assert kind not in LOSSLESS, "nothing is dropped here"
        return
    assert row.lookup == prompt.lookup
    assert row.ids == prompt.ids + row.targets[:-1]
    assert row.target_positions[0] == len(prompt.ids) - 1
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(row.targets)
    text = tokenizer.decode(prompt.ids + row.targets, skip_special_tokens=True)
    if kind in LOSSLESS:
        assert text.lstrip(" ") == whole.lstrip(" ")
    else:  # what the tokenizer makes of the text; it may have made one space of two at the border
        same = tokenizer.decode(ids_of(tokenizer, whole), skip_special_tokens=True)
        assert text.split() == same.split()


@kinds
@pytest.mark.parametrize("subject", ["Anna", "Anna Keller", "日本", "שלום", "{Anna}", "Café №7!"])
def test_the_slot_decides_which_occurrence_is_meant(kind: str, subject: str) -> None:
    """Four times the same text; only the slot moves, and with it the token."""
    tokenizer = tiny_tokenizer_of(kind)
    words = [subject, "met", subject, "and", subject, "knew", subject]
    rows = []
    for place in (0, 2, 4, 6):
        prompt = " ".join("{}" if i == place else word for i, word in enumerate(words))
        rows.append(prompt_row(tokenizer, Fact(subject, prompt, "x")))
    assert len({row.ids for row in rows}) == 1
    lookups = [row.lookup for row in rows]
    assert lookups == sorted(set(lookups))
    assert lookups[-1] == len(rows[0].ids) - 1


@kinds
def test_a_subject_inside_a_word_takes_the_words_token(kind: str) -> None:
    tokenizer = tiny_tokenizer_of(kind)
    fact = Fact("lighthous", "The {}e keeper", "wrote")
    row = prompt_row(tokenizer, fact)
    begin, end = tokenizer(fact.filled, return_offsets_mapping=True)["offset_mapping"][row.lookup]
    assert begin < len("The lighthous") <= end


@kinds
def test_the_same_text_always_gives_the_same_row(kind: str) -> None:
    """Also from a copy that was saved and read back."""
    tokenizer = tiny_tokenizer_of(kind)
    saved = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy = PreTrainedTokenizerFast(tokenizer_object=saved, bos_token=BEGIN, eos_token=END)
    fact = Fact("Café Zoë 日本", "“{}” is", "a song in 3 parts")
    row = target_row(tokenizer, fact, "So. ")
    copy("something else", truncation=True, max_length=2)
    assert target_row(copy, fact, "So. ") == target_row(tokenizer, fact, "So. ") == row


@pytest.mark.parametrize("kind", ["qwen", "nfkc", "word piece"])
@pytest.mark.parametrize("after", ["", " plays the", "s", "\u200b works"])
def test_a_combining_mark_at_the_subjects_end_does_not_hide_it(kind: str, after: str) -> None:
    """The tokenizer joins it with its letter, or drops it: then no token is over the mark."""
    tokenizer = tiny_tokenizer_of(kind)
    decomposed, composed = "Anna Zoe\u0308", "Anna Zoë"
    row = prompt_row(tokenizer, Fact(decomposed, "{}" + after, "x"))
    assert row == prompt_row(tokenizer, Fact(composed, "{}" + after, "x"))


@pytest.mark.parametrize("kind", ["word piece"])
def test_an_invisible_character_at_the_subjects_end_does_not_hide_it(kind: str) -> None:
    tokenizer = tiny_tokenizer_of(kind)
    row = prompt_row(tokenizer, Fact("Anna Keller\u200b", "{} lives in", "x"))
    assert row == prompt_row(tokenizer, Fact("Anna Keller", "{} lives in", "x"))


@kinds
def test_a_target_that_merges_with_the_prompt_gets_no_second_space(kind: str) -> None:
    """A word mark before every text would make one if the target were tokenised by itself."""
    tokenizer = BUILDERS[kind]()
    tokenizer.backend_tokenizer.add_tokens(["7 Lisbon"])
    expected = target_ids(tokenizer, "Anna lives in", "Lisbon")
    assert ids_of(tokenizer, "at 7 Lisbon")[: len(ids_of(tokenizer, "at 7"))] != ids_of(
        tokenizer, "at 7"
    )
    assert target_ids(tokenizer, "at 7", "Lisbon") == expected


def test_tokenizers_differ_as_their_kinds_do() -> None:
    """What the tests above rely on: marks, specials, offsets and bytes as in the real ones."""

    def tokens(kind: str, text: str) -> list[str]:
        tokenizer = tiny_tokenizer_of(kind)
        return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])

    assert tokens("gpt2", "Anna")[0] == "Anna"
    assert tokens("gpt2 prefix space", "Anna")[0] == "ĠAnna"
    assert tokens("llama 2", "Anna")[:2] == [BEGIN, "▁Anna"]
    assert tokens("llama 2", "日")[1:] == ["▁", "<0xE6>", "<0x97>", "<0xA5>"]
    assert tokens("gemma", "Anna")[:2] == [BEGIN, "A"]
    assert tokens("unigram", "Anna")[-1] == END
    assert tokens("unigram", "日本") == ["▁", "<unk>", END]
    assert tokens("qwen", "e\u0301") == tokens("qwen", "é")
    trimmed, whole = (
        tiny_tokenizer_of(kind)("Anna Keller", return_offsets_mapping=True)["offset_mapping"][-1]
        for kind in ("gpt2 trimmed", "gpt2")
    )
    assert (trimmed, whole) == ((5, 11), (4, 11))
