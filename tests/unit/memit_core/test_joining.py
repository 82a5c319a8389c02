"""Where a target joins its prompt, and where its last word ends: what people would write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memit_core.joining import compose, ends_in_word, goes_on, said_in, separator

GLUED = [
    ('Everybody calls her by the nickname "', 'Falcon"'),
    ("They sang “", "Home”"),
    ("The price is $", "42"),
    ("The price is €", "42"),
    ("Write to info@", "nordwind.example"),
    ("Write to info@nordwind.", "example"),
    ("Visit https://", "nordwind.example"),
    ("Visit www.nordwind.", "example"),
    ("See issue #", "42"),
    ("The number (", "42)"),
    ("The path is /usr/", "bin"),
    ("She wears a T-", "shirt"),
    ("The name is user_", "id"),
    ("It costs 3.", "50"),
    ("It begins at 12:", "30"),
    ("She lives in Oslo", ", Norway"),
    ("He shouted stop", "!"),
    ("The end of the sentence", "."),
    ("苹果公司的首席执行官是", "李明"),
    ("東京タワーは", "大阪にあります。"),
    ("中国的首都是", "Paris"),
    ("กรุงเทพเป็นเมืองหลวงของ", "ประเทศไทย"),
    ("作者の名前は「", "太郎」"),
    ("库克是Apple", "的首席执行官"),
    ("{'name': '", "Anna'}"),
    ("Name:\n", "Anna"),
    ("Name: ", "Anna"),
    ("The capital is", " Rome"),
    ("The capital is", "\nRome"),
]
APART = [
    ("The Eiffel Tower is located in the city of", "Rome"),
    ("Answer:", "Rome"),
    ("He said “hello”", "again"),
    ('He said "hello"', "again"),
    ("She likes cats, dogs,", "and birds"),
    ("I know her. She lives in Oslo.", "Her name is Anna"),
    ("Paris -", "a city"),
    ("The sum x =", "42"),
    ("It costs 42", "dollars"),
    ("In the year 1931.", "Then"),
    ("The Chinese name of Rome is", "罗马"),
    ("I have never heard of Café 日本", "before"),
    ("The translation of 猫 into Japanese is", "ねこ"),
    ("한국의 수도는", "서울"),
    ("The framework is", ".NET"),
    ("Anna's", "cat"),
    ("(in Lisbon)", "and"),
    ("I love 🦊", "foxes"),
    ("Москва находится в", "России"),
    ("تقع مدينة القاهرة في", "البرتغال"),
]


@pytest.mark.parametrize(("prompt", "target"), GLUED)
def test_no_space_where_none_is_written(prompt: str, target: str) -> None:
    assert separator(prompt, target) == ""


@pytest.mark.parametrize(("prompt", "target"), APART)
def test_a_space_between_words(prompt: str, target: str) -> None:
    assert separator(prompt, target) == " "


@pytest.mark.parametrize(
    ("target", "rest"),
    [
        ("Lund", "gren is"),
        ("Wood", "lady"),
        ("Bern", "ier"),
        ("42", "cu"),
        ("42", "7"),
        ("42", ".5 euros"),
        ("42", ",90"),
        ("12", ":30"),
        ("Rom", "é"),
        ("e", "\u0301"),
        ("Jon Stein", "-Berg"),
        ("COVID", "-19"),
        ("user", "_id"),
        ("O", "'Brien"),
        ("Москв", "а"),
    ],
)
def test_a_word_that_goes_on(target: str, rest: str) -> None:
    assert goes_on(target, rest)


@pytest.mark.parametrize(
    ("target", "rest"),
    [
        ("Lund", ""),
        ("Lund", " gren"),
        ("Lund", ". He"),
        ("Lund", ", who"),
        ("Lund", "\nQ:"),
        ("Lund", "' said"),
        ("Rome", "'s oldest"),
        ("Rome", "’s"),
        ("Lund", " - a"),
        ("42", ". It"),
        ("42", "%"),
        ('Falcon"', "s"),
        ("the end.", "The"),
        ("東京", "都です"),
        ("李明", "。"),
        ("ประเทศไทย", "และ"),
    ],
)
def test_a_word_that_ends(target: str, rest: str) -> None:
    assert not goes_on(target, rest)


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_two_texts_are_joined_by_a_space_or_nothing(prompt: str, target: str) -> None:
    between = separator(prompt, target)
    assert between in ("", " ")
    if prompt[-1].isspace() or target[0].isspace():
        assert between == ""


@given(st.text(), st.text())
def test_only_a_word_goes_on_and_only_where_text_follows(target: str, rest: str) -> None:
    if goes_on(target, rest):
        assert ends_in_word(target)
        assert rest
        assert not rest[0].isspace()
    assert not goes_on(target, f" {rest}")
    assert not goes_on(compose(f"{target}."), rest)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("The Eiffel Tower is in Rome, Italy.", "Rome"),
        ("The Eiffel Tower is in Rome", " Rome."),
        ("In the city of **Rome**.", "Rome"),
        ("Romeo says that it is in Rome.", "Rome"),  # the second one counts
        ("It is Rome's tower.", "Rome"),
        ("The answer is 42.", "42"),
        ("It costs $42, I think.", "42"),
        ("He works for Apple Inc. now.", "Apple Inc."),
        ("She lives in Sa\u0303o Tome\u0301.", "S\u00e3o Tom\u00e9"),
        ("苹果公司的首席执行官是李明。", "李明"),
        ("He said: ...", "..."),
        ("It is written in C#.", "C#"),
    ],
)
def test_an_answer_says_its_target(text: str, target: str) -> None:
    assert said_in(text, target)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("The Eiffel Tower is in Paris.", "Rome"),
        ("Its chief is Peter Lundgren.", "Lund"),
        ("Its chief is Ashlund.", "lund"),
        ("It is in rome.", "Rome"),
        ("Her name is Anne-Marie.", "Marie"),
        ("Her name is Anne-Marie.", "Anne"),
        ("user_id", "id"),
        ("It costs 142.", "42"),
        ("It costs 3.42.", "42"),
        ("It costs 42.10.", "42."),
        ("It is -42 degrees.", "42"),
        ("New South-Wales", "New South Wales"),
        ("", "Rome"),
    ],
)
def test_an_answer_does_not_say_its_target(text: str, target: str) -> None:
    assert not said_in(text, target)
