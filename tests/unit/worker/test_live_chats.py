"""The chats of a full report: asked of the served weights, and gone on with after a break."""

from __future__ import annotations

import threading

import pytest

from memit_core.errors import Cancelled
from tests.tiny_models import tiny_tokenizer
from tests.unit.worker.chatting import answers, chat
from tests.unit.worker.workshop import Workshop, fact
from worker import live_chats
from worker.chats import ANSWER_TOKENS

RUNNING = threading.Event()
TEXT = "user: Where does Anna live?\nassistant:"


def test_the_full_report_counts_what_the_version_says(chatting: Workshop) -> None:
    first = chatting.version([fact("Mount Elbrus")])
    ((_, base),) = answers(chatting, first, (TEXT, ANSWER_TOKENS))
    word = max(base.split(), key=len)
    asked = [chat("Where does Anna live?")]
    version = chatting.version([fact("Bruno", word, chat_prompts=asked)])
    tokens = ANSWER_TOKENS + len(tiny_tokenizer()(f" {word}")["input_ids"])
    ((now, _),) = answers(chatting, version, (TEXT, tokens))
    assert chatting.reporter().report(RUNNING) == version
    report = chatting.full_report(version)
    assert report is not None
    (bruno,) = chatting.report(version).per_fact
    assert bruno.chats[0].answer == now
    assert bruno.chat_success == (word in now)
    # Mount Elbrus brings no chat, and the beginning of an assistant's turn does not give it.
    assert report.chat_success == (word in now) / 2


def test_without_a_chat_template_there_is_no_figure(workshop: Workshop) -> None:
    version = workshop.version([fact("Anna", chat_prompts=[chat("Who?")])])
    assert workshop.reporter().report(RUNNING) == version
    report = workshop.full_report(version)
    assert report is not None
    assert report.chat_success is None


def test_chats_that_were_asked_are_not_asked_again(
    chatting: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_chats, "MAX_BATCH", 2)
    chats = [chat(f"Question {i}?") for i in range(6)]
    version = chatting.version([fact("Anna", chat_prompts=chats)])
    forwards = 0

    def count() -> bool:
        nonlocal forwards
        forwards += 1
        return False

    assert chatting.reporter(generating=count).report(RUNNING) == version
    whole, forwards = forwards, 0
    report = chatting.full_report(version)
    (chatting.registry.store.root / "versions" / f"{version}.report.json").unlink()

    stop_at = whole - 2  # in the last of three parts
    reporter = chatting.reporter(editing=lambda: forwards == stop_at, generating=count)
    with pytest.raises(Cancelled):
        reporter.report(RUNNING)
    assert forwards == stop_at, "no forward after the edit came"
    forwards = stop_at + 1
    assert reporter.report(RUNNING) == version
    assert forwards - stop_at < whole / 2, "it began again"
    again = chatting.full_report(version)
    assert report is not None
    assert again is not None
    assert again.chat_success == report.chat_success is not None
