"""Capability items: what they are, and which answer counts as the model's."""

from __future__ import annotations

import json

import pytest
import torch

from memit_core.edit import Editor
from memit_core.eval.benchmark import Options, run
from memit_core.eval.capability import (
    KINDS,
    CapabilityScores,
    Item,
    accuracy,
    capability_items,
    right_answers,
)
from memit_core.eval.datasets import COUNTERFACT
from memit_core.eval.report import as_json
from memit_core.progress import silent
from memit_core.target_scores import score_targets
from tests.tiny_models import TEXT
from tests.unit.memit_core.planted import saying
from tests.unit.memit_core.test_eval_benchmark import RECORDS

ITEMS = tuple(
    Item(kind, prompt, "the", ("and", "in"))
    for kind, prompt in zip(KINDS, ("The boy saw", "3 + 4 =", "She walks"), strict=True)
)
"""Of which each answer is one token of the tiny tokenizer."""


def test_the_items_are_what_they_say() -> None:
    items = capability_items()
    of = {kind: [item for item in items if item.kind == kind] for kind in KINDS}
    assert sum(map(len, of.values())) == len(items)
    assert len(of["cloze"]) >= 100
    assert len(of["grammar"]) >= 60
    assert len(of["arithmetic"]) == 100
    for item in items:
        assert len({item.right, *item.wrong}) == 1 + len(item.wrong) >= 2
        assert all(text == text.strip() != "" for text in (item.prompt, item.right, *item.wrong))
    assert len({(item.prompt, item.right) for item in items}) == len(items)


def test_arithmetic_is_right_and_drawn_by_the_seed() -> None:
    items = [item for item in capability_items(3) if item.kind == "arithmetic"]
    for item in items:
        solved, _, asked = item.prompt.rpartition("\n")
        assert asked not in solved
        a, sign, b, _ = asked.split()
        result = int(a) + int(b) if sign == "+" else int(a) - int(b)
        assert result == int(item.right) >= 0
        assert {abs(result - int(wrong)) for wrong in item.wrong} <= {1, 2, 10}
    asked = [item.prompt.splitlines()[-1].split() for item in items]
    assert {sign for _, sign, *_ in asked} == {"+", "-"}
    assert {len(a) for a, *_ in asked} == {1, 2}
    assert capability_items(3) == capability_items(3) != capability_items(4)


def test_the_likeliest_answer_a_token_is_the_models(any_editor: Editor) -> None:
    """Against plain forwards; answers of unlike lengths."""
    model = any_editor.base
    items = [
        Item("cloze", prompt, "Lisbon", ("the old bridge", "a fox"))
        for prompt in ("The boy", "Anna Keller was born in", "The river runs through", "He said")
    ]

    def plainly(prompt: str, answer: str) -> float:
        ids = model.tokenizer(prompt)["input_ids"]
        added = model.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model.view(torch.tensor([ids + added])).logits[0].double()
        log_p = logits.log_softmax(-1)
        return sum(float(log_p[len(ids) + i - 1, t]) for i, t in enumerate(added)) / len(added)

    expected = [
        plainly(item.prompt, item.right) > max(plainly(item.prompt, wrong) for wrong in item.wrong)
        for item in items
    ]
    assert right_answers(model, items) == expected
    swapped = [Item("cloze", one.prompt, one.wrong[0], (one.right, one.wrong[1])) for one in items]
    both = [a or b for a, b in zip(expected, right_answers(model, swapped), strict=True)]
    assert any(both), "no item tells the model's answers apart"


def test_a_planted_model_is_found_better_worse_or_undecided(any_editor: Editor) -> None:
    base = any_editor.base
    assert right_answers(saying(base, "the"), ITEMS) == [True] * 3
    assert right_answers(saying(base, "and"), ITEMS) == [False] * 3
    tied = [score.p for score in score_targets(saying(base, "of"), [("The boy", "the")] * 2)]
    assert tied[0] == tied[1]
    assert right_answers(saying(base, "of"), ITEMS) == [False] * 3


def test_accuracy_has_kinds_and_intervals() -> None:
    items = [*ITEMS, Item("cloze", "A", "b", ("c",))]
    found = accuracy(items, [1, 0, 1, 0])
    assert found.values == {"cloze": 0.5, "arithmetic": 0, "grammar": 1, "all": 0.5}
    assert found.ci95["all"] == pytest.approx(1.96 * 0.5 / 2)
    assert found.ci95["cloze"] == pytest.approx(1.96 * 0.5 / 2**0.5)
    assert found.ci95["grammar"] is None
    assert accuracy(items[:1], [1]).values["grammar"] is None


def test_edited_models_are_averaged(any_editor: Editor) -> None:
    base = any_editor.base
    scores = CapabilityScores(saying(base, "the"), ITEMS, silent)
    both = scores.both([scores.right(saying(base, word)) for word in ("the", "and")])
    assert both is not None
    assert [summary.values["all"] for summary in both] == [1, 0.5]
    nothing = CapabilityScores(base, (), silent)
    assert nothing.right(base) == []
    assert nothing.both([[]]) is None


def test_it_goes_with_a_measurement_of_edits(any_editor: Editor) -> None:
    options = Options(generations=0, capability=True, held_out=TEXT)
    result = run(any_editor, COUNTERFACT, RECORDS[:1], options)
    before = accuracy(capability_items(), right_answers(any_editor.base, capability_items()))
    assert result.capability is not None
    assert result.capability[0] == before
    told = json.loads(json.dumps(as_json(result, any_editor), allow_nan=False))["capability"]
    assert set(told) == {"before", "after"}
    assert set(told["after"]["ci95"]) == {*KINDS, "all"}
    assert told["before"]["all"] == pytest.approx(100 * (before.values["all"] or 0))
    without = run(any_editor, COUNTERFACT, RECORDS[:1], Options(generations=0, held_out=TEXT))
    assert as_json(without, any_editor)["capability"] is None
