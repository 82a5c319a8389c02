"""`memit chat`: a conversation, typed or piped."""

from __future__ import annotations

from contracts.chats import Message
from registry.registry import Registry
from tests.unit.cli.conftest import Memit
from tests.unit.cli.test_generate import engine
from tests.unit.service.worker_peer import refuses, says


def test_a_conversation(memit: Memit, redis_url: str, registry: Registry) -> None:
    typed = "Where is the Eiffel Tower?\n\nAnd Big Ben?\n/exit\nnobody reads this\n"
    with engine(redis_url, registry, says("In ", "Rome.")) as one:
        result = memit("chat", "--system", "Be brief.", "--temperature", "0.5", stdin=typed)
    assert result.stdout == "In Rome.\nIn Rome.\n"
    assert result.stderr.splitlines() == [registry.versions.resolve("v0")] * 2
    first, second = one.tasks
    opening = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="Where is the Eiffel Tower?"),
    ]
    assert first.messages == opening
    assert second.messages == [
        *opening,
        Message(role="assistant", content="In Rome."),
        Message(role="user", content="And Big Ben?"),
    ]
    assert (second.sampling.temperature, second.sampling.max_tokens) == (0.5, 256)


def test_other_versions_and_new_chats(memit: Memit, redis_url: str, registry: Registry) -> None:
    registry.aliases.move("stable", registry.versions.resolve("v0"), 0)
    typed = "/version stable\nHello\n/clear\nHello\n/what\n"
    with engine(redis_url, registry, says("Hi.")) as one:
        result = memit("chat", "--version", "v99", stdin=typed)
    assert result.exit_code == 0, result.output
    assert [task.messages for task in one.tasks] == [[Message(role="user", content="Hello")]] * 2
    assert "/what is no command" in result.stderr


def test_a_refusal_ends_what_is_piped(memit: Memit, redis_url: str, registry: Registry) -> None:
    with engine(redis_url, registry, refuses(422, "the model has no chat template")):
        result = memit("chat", stdin="Hello\n")
    assert result.exit_code == 1
    assert "the model has no chat template" in result.stderr
