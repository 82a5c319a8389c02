"""Prompts that begin alike are computed once a version and key, and answered as ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_models import TINY
from tests.unit.worker.engine.stage import PROMPTS, Stage, answers, ask, make_stage, run_until
from worker.engine.batch import KeyValueBatch
from worker.engine.engine import Engine
from worker.engine.prefixes import LEAST_TOKENS, Prefixes

OWNER = ("v1", "anna")
SYSTEM = " ".join(f"t{i}" for i in range(3, 63))
MIB = 2**20


@pytest.fixture
def llama(registry_path: Path) -> Stage:
    return make_stage("llama", registry_path)


def states(tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """400 bytes a token."""
    return [(torch.zeros(2, tokens, 25), torch.zeros(2, tokens, 25))]


def test_the_longest_beginning_is_found_of_the_same_owner_alone() -> None:
    kept = Prefixes(MIB)
    kept.keep(OWNER, list(range(100)), states(100))
    kept.keep(OWNER, [*range(60), *range(500, 540)], states(100))
    hit = kept.find(OWNER, [*range(70), 7, 8])
    assert hit is not None
    assert hit.tokens == 70
    hit = kept.find(OWNER, [*range(60), 500, 501, 9])
    assert hit is not None
    assert hit.tokens == 62
    assert kept.find(("v2", "anna"), list(range(100))) is None
    assert kept.find(("v1", "bo"), list(range(100))) is None
    assert kept.find(OWNER, [*range(LEAST_TOKENS - 1), 7, 8]) is None


def test_the_last_token_is_always_asked() -> None:
    kept = Prefixes(MIB)
    kept.keep(OWNER, list(range(100)), states(100))
    hit = kept.find(OWNER, list(range(100)))
    assert hit is not None
    assert hit.tokens == 99


def test_the_least_recently_used_goes_when_bytes_are_used_up() -> None:
    kept = Prefixes(2 * 40_000)
    first, second, third = (list(range(start, start + 100)) for start in (0, 1_000, 2_000))
    kept.keep(OWNER, first, states(100))
    kept.keep(OWNER, second, states(100))
    assert kept.find(OWNER, first) is not None
    kept.keep(OWNER, third, states(100))
    assert kept.size == 80_000
    assert kept.find(OWNER, second) is None
    assert kept.find(OWNER, first) is not None
    kept.keep(OWNER, list(range(3_000, 3_300)), states(300))
    assert kept.find(OWNER, third) is not None, "what fits in nothing drives nothing out"


def test_what_is_known_mostly_is_not_kept_again() -> None:
    kept = Prefixes(MIB)
    ids = list(range(100))
    assert kept.wants(ids, None)
    kept.keep(OWNER, ids, states(100))
    longer = [*ids, 1, 2, 3]
    assert not kept.wants(longer, kept.find(OWNER, longer))
    twice = [*ids, *range(200, 320)]
    assert kept.wants(twice, kept.find(OWNER, twice))
    assert not kept.wants(ids[:LEAST_TOKENS], None)
    assert not Prefixes(0).wants(ids, None)


def computed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Prompt tokens of each piece that is computed from now on."""
    pieces: list[int] = []
    monkeypatch.setattr(engine._pace, "prefilled", lambda tokens, _: pieces.append(tokens))
    return pieces


@pytest.mark.parametrize("name", TINY)
def test_answers_are_those_of_generate_and_only_what_is_new_is_computed(
    name: str, registry_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage(name, registry_path)
    version = stage.publish(1)
    engine = stage.engine(prefix_bytes=MIB)
    asked = [f"{SYSTEM} {PROMPTS[1]}", f"{SYSTEM} {PROMPTS[2]}", f"{SYSTEM} {PROMPTS[5]}"]
    answers(engine, [ask(engine, asked[0], version)])
    pieces = computed(engine, monkeypatch)
    listeners = [ask(engine, prompt, version) for prompt in asked]
    texts = answers(engine, listeners)
    assert texts == [stage.generated(version, prompt) for prompt in asked]
    new = [len(PROMPTS[row].split()) for row in (1, 2, 5)]
    assert sum(new) <= sum(pieces) <= len(asked) * max(new)


def test_other_versions_and_other_keys_find_nothing(
    llama: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = llama.publish(1)
    engine = llama.engine(prefix_bytes=MIB)
    prompt = f"{SYSTEM} t9"
    whole = len(prompt.split())
    answers(engine, [ask(engine, prompt, version)])
    for asked, principal, tokens in (
        (llama.base_version, "local", whole),
        (version, "somebody", whole),
        (version, "local", 1),
    ):
        pieces = computed(engine, monkeypatch)
        (text,) = answers(engine, [ask(engine, prompt, asked, principal=principal)])
        assert text == llama.generated(asked, prompt)
        assert sum(pieces) == tokens


def test_a_prompt_with_a_known_beginning_joins_one_without(
    llama: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = llama.base_version
    engine = llama.engine(prefix_bytes=MIB)
    answers(engine, [ask(engine, f"{SYSTEM} t9", version)])
    pieces = computed(engine, monkeypatch)
    known = f"{SYSTEM} t8 t7".split()
    prompts = [" ".join(words) for words in (known, known[:1:-1], known[::-1])]
    texts = answers(engine, [ask(engine, prompt, version) for prompt in prompts])
    assert texts == [llama.generated(version, prompt) for prompt in prompts]
    assert sum(pieces) == 3 * len(known), "the longest new one is computed whole"


def test_a_prompt_that_gave_no_numbers_is_not_kept(
    llama: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = llama.base_version
    engine = llama.engine(prefix_bytes=MIB)
    forward = KeyValueBatch.forward
    prompt = f"{SYSTEM} t9"

    def spoilt(self: KeyValueBatch, *given: Any) -> torch.Tensor:
        return forward(self, *given) * float("nan")

    with monkeypatch.context() as once:
        once.setattr(KeyValueBatch, "forward", spoilt)
        failed = ask(engine, prompt, version)
        run_until(engine, lambda: failed.done)
    assert failed.problem is not None
    pieces = computed(engine, monkeypatch)
    assert answers(engine, [ask(engine, prompt, version)]) == [llama.generated(version, prompt)]
    assert sum(pieces) == len(prompt.split())
