"""What a report measures of very many or very long prompts."""

from __future__ import annotations

from memit_core.facts import Fact
from memit_core.tokens import encode_text
from tests.tiny_models import tiny_tokenizer
from worker.measured_prompts import FACT_TOKENS, LEAST_TOKENS, within_budget

TOKENIZER = tiny_tokenizer()


def fact(number: int, prompts: int, length: int) -> Fact:
    asked = tuple(f"{number}.{i} " + "ẞ" * length for i in range(prompts))
    return Fact(f"Anna {number}", "{} plays", "violin", "piano", asked, asked[: prompts // 2])


def tokens(facts: list[Fact]) -> int:
    texts = [p for f in facts for p in (*f.paraphrase_prompts, *f.neighborhood_prompts)]
    return sum(len(encode_text(TOKENIZER, text)[0]) for text in texts)


def test_usual_facts_are_measured_whole() -> None:
    facts = [fact(i, 4, 5) for i in range(100)]
    assert within_budget(TOKENIZER, facts) == (facts, 1.0)


def test_long_ones_are_left_out_until_the_rest_fits() -> None:
    facts = [fact(i, 32, 200) for i in range(20)]
    kept, share = within_budget(TOKENIZER, facts)
    budget = max(LEAST_TOKENS, FACT_TOKENS * len(facts))
    assert budget / 2 < tokens(kept) <= budget < tokens(facts)
    assert 0 < share < 1
    assert [one.content for one in kept] == [one.content for one in facts]
    for one, whole in zip(kept, facts, strict=True):
        assert set(one.paraphrase_prompts) <= set(whole.paraphrase_prompts)
    assert within_budget(TOKENIZER, facts) == (kept, share)


def test_what_is_left_out_does_not_depend_on_the_order() -> None:
    facts = [fact(i, 32, 50) for i in range(20)]
    forwards, share = within_budget(TOKENIZER, facts)
    backwards, again = within_budget(TOKENIZER, facts[::-1])
    assert (backwards[::-1], again) == (forwards, share)


def test_a_prompt_that_stands_twice_counts_twice() -> None:
    twice = Fact("Anna", "{} plays", "violin", "piano", ("Anna plays",) * 2)
    assert within_budget(TOKENIZER, [twice]) == ([twice], 1.0)


def test_facts_without_measuring_prompts_cost_nothing() -> None:
    facts = [Fact("Anna", "{} plays", "violin")]
    assert within_budget(TOKENIZER, facts) == (facts, 1.0)
