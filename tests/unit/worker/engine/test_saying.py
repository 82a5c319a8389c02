"""Log-probabilities go with the text that their tokens begin, and with no other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from contracts.generation import TokenLogprob
from tests.tiny_models import tiny_tokenizer
from tests.unit.worker.engine.test_text import sentencepiece_tokenizer
from worker.engine.saying import Saying
from worker.engine.text import REPLACEMENT, TokenTexts

TOKENIZER = tiny_tokenizer()
PAD = TOKENIZER.pad_token_id


def ids(text: str) -> list[int]:
    found: list[int] = TOKENIZER(text)["input_ids"]
    return found


def said(
    answer: Sequence[int], stop: Sequence[str] = (), *, min_tokens: int = 0, rest: bool = True
) -> list[tuple[str, list[int]]]:
    """What goes out, as text and token ids; special tokens are hidden parts of stop strings."""
    saying = Saying(TOKENIZER, ids("The"), stop, min_tokens)
    out = []
    for token in answer:
        hidden = "<|pad|>" if token == PAD else ""
        out.append(saying.push(token, hidden, TokenLogprob(token="", token_id=token, logprob=-1)))
        if saying.stopped:
            break
    if rest and not saying.stopped:
        out.append(saying.end())
    return [(text, [one.token_id for one in shown]) for text, shown in out if text or shown]


def test_a_held_back_text_holds_its_tokens_back() -> None:
    e, n, d, x = (ids(letter)[0] for letter in "ENDx")
    assert said([x, e, n, x], ["END"]) == [("x", [x]), ("ENx", [e, n, x])]
    assert said([x, e, n, d, x], ["END"]) == [("x", [x])]


def test_a_token_that_a_stop_string_cuts_in_two_is_shown_with_its_first_part() -> None:
    the = ids(" the")
    assert len(the) == 1
    assert said(the, ["e"]) == [(" th", the)]
    assert said(the, ["he sea"]) == [(" t", the), ("he", [])]


def test_tokens_without_text_come_with_the_text_that_follows_or_the_end() -> None:
    x = ids("x")[0]
    assert said([x, PAD, x]) == [("x", [x]), ("x", [PAD, x])]
    assert said([x, PAD]) == [("x", [x]), ("", [PAD])]
    assert said([PAD, x], ["<|pad|>"]) == []


def test_a_character_that_stays_incomplete_gives_no_text_but_its_tokens() -> None:
    tower = ids("🗼")
    assert len(tower) > 1
    assert said(tower[:-1]) == [("", tower[:-1])]
    assert said(tower) == [("🗼", tower)]


def test_a_stop_string_counts_only_after_min_tokens() -> None:
    x, y = ids("x")[0], ids("y")[0]
    assert said([x, x, y, x, y], ["x"], min_tokens=2) == [("x", [x]), ("x", [x]), ("y", [y])]
    assert said([x, y, x, y], ["yx"], min_tokens=2) == [
        ("x", [x]),
        ("y", [y]),
        ("x", [x]),
        ("y", [y]),
    ]


@pytest.mark.parametrize(
    ("token", "text"), [(ids(" the")[0], " the"), (PAD, "<|pad|>"), (ids("🗼")[0], REPLACEMENT)]
)
def test_the_text_of_a_token(token: int, text: str) -> None:
    assert TokenTexts(TOKENIZER).of(token) == text


def test_the_text_of_a_token_keeps_a_space_that_the_decoder_drops_at_a_beginning() -> None:
    tokenizer = sentencepiece_tokenizer()
    texts = TokenTexts(tokenizer)
    rome, byte = tokenizer.convert_tokens_to_ids(["▁Rome", "<0xF0>"])
    assert [texts.of(t) for t in (rome, byte)] == [" Rome", REPLACEMENT]
