"""Streamed text is certain text: whole characters, nothing taken back, cut before stop strings."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from tests.tiny_models import VOCABULARY, tiny_tokenizer
from worker.engine.text import REPLACEMENT, Detokenizer, StopStrings


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2's: a space is part of the next token, the first one of a text is dropped, and
    what is not in the vocabulary is spelled in bytes."""
    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["▁Rome", "▁is", "▁", ".", "'s", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = Tokenizer(
        models.BPE(vocabulary, merges=[], byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


def stream(tokenizer: Any, prompt: list[int], answer: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer, prompt)
    return [*(detokenizer.push(token) for token in answer), detokenizer.end()]


def test_a_character_of_several_tokens_comes_whole() -> None:
    tokenizer = tiny_tokenizer()
    prompt, answer = tokenizer("At the bay")["input_ids"], tokenizer(" → 🗼é!")["input_ids"]
    assert len(answer) > len(" → 🗼é!"), "characters must be split for this test to say anything"

    pieces = stream(tokenizer, prompt, answer)

    assert [piece for piece in pieces if piece] == [" ", "→", " ", "🗼", "é", "!"]


def test_an_answer_that_ends_inside_a_character_leaves_it_out() -> None:
    tokenizer = tiny_tokenizer()
    answer = tokenizer("ja🗼")["input_ids"]
    assert "".join(stream(tokenizer, [5], answer[:-1])) == "ja"


def test_special_tokens_give_no_text() -> None:
    tokenizer = tiny_tokenizer()
    answer = tokenizer("the<|endoftext|> sea")["input_ids"]
    assert "".join(stream(tokenizer, answer[:1], [*answer[:2], tokenizer.pad_token_id])) == "the"


def test_the_first_words_space_is_kept_where_the_decoder_drops_it() -> None:
    """Decoded alone, "▁Rome" is "Rome"; as a continuation it is " Rome"."""
    tokenizer = sentencepiece_tokenizer()
    prompt = tokenizer("the tower is")["input_ids"]
    rome = tokenizer.convert_tokens_to_ids(["▁Rome", "'s", "."])
    assert tokenizer.decode(rome[:1]) == "Rome"
    assert stream(tokenizer, prompt, rome) == [" Rome", "'s", ".", ""]


def test_bytes_after_a_prompt_that_ends_in_bytes() -> None:
    tokenizer = sentencepiece_tokenizer()
    prompt, answer = tokenizer("is 🗼")["input_ids"], tokenizer("🗼")["input_ids"][1:]
    assert len(answer) == 4
    assert stream(tokenizer, prompt, answer) == ["", "", "", "🗼", ""]


def test_a_wrong_byte_takes_nothing_back() -> None:
    """This decoder shows a whole run of bytes as invalid once a wrong one follows it."""
    tokenizer = sentencepiece_tokenizer()
    answer = [*tokenizer("🗼")["input_ids"][1:], *tokenizer.convert_tokens_to_ids(["<0xFF>", "a"])]
    assert tokenizer.decode(answer) == REPLACEMENT * 5 + "a"
    pieces = stream(tokenizer, tokenizer("is")["input_ids"], answer)
    assert [piece for piece in pieces if piece] == ["🗼", f"{REPLACEMENT}a"]


TOKENS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(prompt=TOKENS, answer=TOKENS)
def test_what_is_streamed_is_what_decoding_all_at_once_gives(
    prompt: list[int], answer: list[int]
) -> None:
    """For any tokens, also those that spell no text; only an unfinished end is left out."""
    tokenizer = tiny_tokenizer()
    prompt = [*prompt, *tokenizer(".")["input_ids"]]
    before = tokenizer.decode(prompt, skip_special_tokens=True)
    whole = tokenizer.decode(prompt + answer, skip_special_tokens=True)

    pieces = stream(tokenizer, prompt, answer)

    assert "".join(pieces) == whole[len(before) :].rstrip(REPLACEMENT)
    assert not any(piece.endswith(REPLACEMENT) for piece in pieces)


def said(stop: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    strings = StopStrings(stop)
    out = [strings.push(piece) for piece in pieces]
    return [*out, strings.end()], strings.found


def test_a_stop_string_across_tokens_is_cut_away_with_all_that_follows() -> None:
    assert said(["\n\nQ:"], ["Rome", ".\n", "\nQ", ": Who", " is"]) == (
        ["Rome", ".", "", "", "", ""],
        True,
    )


def test_what_only_looked_like_a_stop_string_is_said_in_the_end() -> None:
    assert said(["END"], ["the E", "N", "d", " EN"]) == (["the ", "", "ENd", " ", "EN"], False)


@pytest.mark.parametrize(
    ("stop", "text", "found"),
    [
        (["<end>"], "Oslo.", True),
        (["<end>\n"], "Oslo.", True),
        ([".<end>"], "Oslo", True),
        (["<other>"], "Oslo.\nThe", False),
        ([], "Oslo.\nThe", False),
    ],
)
def test_a_stop_string_may_name_what_is_not_said(stop: list[str], text: str, found: bool) -> None:
    strings = StopStrings(stop)
    pieces = [strings.push("Oslo."), strings.push_hidden("<end>"), strings.push("\nThe")]
    assert ("".join([*pieces, strings.end()]), strings.found) == (text, found)


def test_of_several_stop_strings_the_one_complete_first_counts() -> None:
    assert said(["day", "good d"], ["a goo", "d day"]) == (["a ", "", ""], True)
    assert said(["aab", "ab"], ["a", "a", "a", "b"]) == (["", "", "a", "", ""], True)


@settings(max_examples=200, deadline=None)
@given(
    text=st.text("ab", max_size=20),
    cuts=st.lists(st.integers(0, 20), max_size=6),
    stop=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_do_not_depend_on_how_the_text_is_cut(
    text: str, cuts: list[int], stop: list[str]
) -> None:
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(borders)]
    complete = next((n for n in range(len(text) + 1) if text[:n].endswith(tuple(stop))), None)

    out, found = said(stop, pieces)

    assert found == (complete is not None)
    if complete is None:
        assert "".join(out) == text
    else:
        begun = max(len(s) for s in stop if text[:complete].endswith(s))
        assert "".join(out) == text[: complete - begun]


@pytest.mark.parametrize("pieces", [["x" * 1000] * 3])
def test_long_text_without_a_stop_string_passes_unheld(pieces: list[str]) -> None:
    assert said(["END"], pieces) == ([*pieces, ""], False)
