"""Facts asked in chats: through the model's template, by the served weights and by the base."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.edits import EditState
from contracts.facts import Fact
from contracts.reports import ChatReport, FactReport
from tests.tiny_models import tiny_tokenizer
from tests.unit.worker.chatting import TEMPLATE, answers, chat, loaded_with
from tests.unit.worker.conftest import MakeWorkshop
from tests.unit.worker.workshop import Workshop, fact
from worker.chats import ANSWER_TOKENS, CHAT_TOKENS, CHATS, MORE_TOKENS, OPENING, Chat, chats_of


def said(report: ChatReport) -> tuple[str | None, str | None]:
    return report.answer, report.base_answer


def test_a_facts_own_chats_are_asked_of_the_version_and_of_the_base(chatting: Workshop) -> None:
    chats = [chat("Where does Anna live?"), chat("Hello.", "Hi.", "And Anna?")]
    one = fact("Anna", chat_prompts=chats)
    version = chatting.version([one])
    (report,) = chatting.report(version).per_fact
    tokens = len(tiny_tokenizer()(" Lisbon")["input_ids"]) + ANSWER_TOKENS
    expected = answers(
        chatting,
        version,
        ("user: Where does Anna live?\nassistant:", tokens),
        ("user: Hello.\nassistant: Hi.\nuser: And Anna?\nassistant:", tokens),
    )
    assert [said(asked) for asked in report.chats] == expected
    assert [asked.prompt for asked in report.chats] == [0, 1]
    assert any(new != old for new, old in expected), "the edit changes no answer"


def test_a_fact_without_chats_is_the_beginning_of_an_assistants_turn(chatting: Workshop) -> None:
    version = chatting.version([fact("Anna")])
    report = chatting.report(version)
    (asked,) = report.per_fact[0].chats
    text = f"user: {OPENING}\nassistant: Anna lives in the town of"
    tokens = len(tiny_tokenizer()(" Lisbon")["input_ids"]) + MORE_TOKENS
    assert [said(asked)] == answers(chatting, version, (text, tokens))
    assert asked.prompt is None
    assert (report.chat_success, report.base_chat_success) == (asked.success, asked.base_success)


@pytest.mark.parametrize(
    ("answer", "success"),
    [(" Lund, who", True), ("Lund", True), (" Lundgren", False), (" the Lund", False), ("", False)],
)
def test_an_assistants_turn_has_to_go_on_with_the_target(answer: str, success: bool) -> None:
    assert Chat("fact", None, (), "Lund", 3).success(answer) is success


def test_an_answer_counts_that_holds_the_target(chatting: Workshop) -> None:
    """Targets are words that the base says: edited so little, it says them still."""
    text = "user: Where does Anna live?\nassistant:"
    first = chatting.version([fact("Mount Elbrus")])
    ((_, base),) = answers(chatting, first, (text, ANSWER_TOKENS))
    word = max(base.split(), key=len)
    asked = chat("Where does Anna live?")
    facts = [
        fact("Anna", word, chat_prompts=[asked]),
        fact("Bruno", word[:-1], chat_prompts=[asked]),
    ]
    whole, part = chatting.report(chatting.version(facts)).per_fact
    assert whole.chats[0].base_answer == part.chats[0].base_answer
    assert (base_success(whole), base_success(part)) == (True, False)


def base_success(report: FactReport) -> bool | None:
    return report.chats[0].base_success


def test_shares_are_over_chats_and_then_over_facts(chatting: Workshop) -> None:
    facts = [
        fact("Anna", chat_prompts=[chat("Anna?"), chat("Who?"), chat("Refuse.")]),
        fact("Bruno"),
    ]
    report = chatting.report(chatting.version(facts))
    anna, bruno = report.per_fact
    known = [one.success for one in anna.chats]
    assert known[2] is None
    assert anna.chat_success == (bool(known[0]) + bool(known[1])) / 2
    assert bruno.chat_success is not None
    assert report.chat_success == (anna.chat_success + bruno.chat_success) / 2
    assert (report.chats_asked, report.chat_reason) == (3, None)
    assert anna.chats[2].reason is not None
    assert "it is refused" in anna.chats[2].reason


@pytest.mark.parametrize(
    ("template", "asked", "reason"),
    [
        (None, "Anna?", "the model has no chat template"),
        (TEMPLATE, "Refuse.", "do not fit the model's chat template: it is refused"),
        ("{{ messages[0].content }}", None, "do not fit the model's chat template"),
        (TEMPLATE, "Anna? " * 300, "tokens; at most 255 leave room"),
    ],
)
def test_a_chat_that_cannot_be_asked_fails_no_edit(
    make_workshop: MakeWorkshop, template: str | None, asked: str | None, reason: str
) -> None:
    workshop = make_workshop(loaded=loaded_with(template))
    end = workshop.run([fact("Anna", chat_prompts=[chat(asked)] if asked else [])])
    assert end.state is EditState.COMMITTED
    assert end.version is not None
    report = workshop.report(end.version)
    assert report.success is not None
    assert (report.chat_success, report.base_chat_success, report.chats_asked) == (None, None, 0)
    assert reason in (report.chat_reason or "")


def test_a_retraction_needs_no_reason(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop(loaded=loaded_with(None))
    one = fact("Anna")
    workshop.version([one])
    report = workshop.report(workshop.version([], retract=[one.id]))
    assert (report.chat_success, report.chat_reason) == (None, None)


def by_id(facts: list[Fact]) -> dict[str, Fact]:
    return {one.id: one for one in facts}


def test_of_many_chats_first_ones_come_first_and_the_order_of_facts_is_nothing() -> None:
    tokenizer = loaded_with(TEMPLATE).tokenizer
    asked: Any = [chat(f"Question {i}?") for i in range(8)]
    facts = [fact(f"Anna {i}", chat_prompts=asked) for i in range(CHATS // 2 + 1)]
    chosen = chats_of(tokenizer, by_id(facts))
    assert len(chosen) == CHATS
    places = [one.place for one in chosen]
    assert places.count(0) == len(facts)
    assert places.count(1) == CHATS - len(facts)
    assert chosen == chats_of(tokenizer, by_id(facts[::-1]))


def test_of_long_chats_as_many_are_asked_as_there_are_tokens_for() -> None:
    tokenizer = loaded_with(TEMPLATE).tokenizer
    long = "ẞ" * 500
    size = len(tokenizer(long)["input_ids"])
    facts = [fact(f"Anna {i}", chat_prompts=[chat(long)]) for i in range(CHATS)]
    assert len(chats_of(tokenizer, by_id(facts))) == CHAT_TOKENS // size < CHATS
