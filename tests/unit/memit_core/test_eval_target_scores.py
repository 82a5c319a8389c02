"""Scores of targets against plain forwards of the whole model, one question at a time."""

from __future__ import annotations

import math

import pytest
import torch

from memit_core.edit import Editor
from memit_core.errors import MemitError
from memit_core.target_scores import BATCH_TOKENS, TargetScore, score_targets

QUESTIONS = [
    ("Anna Keller works as a", "baker in Geneva"),
    ("The capital of France is", "P"),  # the same row as the next but for the target
    ("The capital of France is", "S"),
    ("The boy", "ran away"),
    ("The capital of France is", "P"),
    ("I think that the river that runs through the city is the old one in", "Lisbon"),
]


def plainly(editor: Editor, prompt: str, target: str) -> tuple[list[float], list[bool]]:
    """From the logits of one unpadded forward over the whole text."""
    tokenizer = editor.loaded.tokenizer
    before = tokenizer(prompt)["input_ids"]
    after = tokenizer(f" {target}", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = editor.base.view(torch.tensor([before + after])).logits[0].double()
    log_p, hits = [], []
    for i, token in enumerate(after):
        row = logits[len(before) + i - 1]
        log_p.append(float(row[token] - torch.logsumexp(row, 0)))
        hits.append(int(row.argmax()) == token)
    return log_p, hits


def test_each_question_as_if_asked_alone(editor: Editor) -> None:
    scores = score_targets(editor.base, QUESTIONS)
    for score, (prompt, target) in zip(scores, QUESTIONS, strict=True):
        log_p, hits = plainly(editor, prompt, target)
        assert score.log_p == pytest.approx(log_p, abs=1e-4)
        assert list(score.hits) == hits


def test_what_the_model_says_itself_is_a_greedy_hit(any_editor: Editor) -> None:
    model = any_editor.base
    tokenizer = model.tokenizer
    ids = tokenizer("The boy", return_tensors="pt")["input_ids"]
    best = int(model.view(ids).logits[0, -1].argmax())
    # a target is scored as it follows a space, so the question is asked for the best such token
    spaced = {tokenizer.decode([i]): i for i in range(len(tokenizer))}
    words = [w for w in spaced if w.startswith(" ") and w.strip().isalpha()]
    scores = score_targets(model, [("The boy", w.strip()) for w in words])
    for word, score in zip(words, scores, strict=True):
        if len(score.hits) == 1:
            assert score.greedy == (spaced[word] == best)


def test_more_questions_than_a_batch_come_back_in_order(any_editor: Editor) -> None:
    model = any_editor.base
    words = ["the", "of", "was", "and the old", "in Vienna", "not known"]
    many = [(f"{'so ' * (i % 7)}{i} is", words[i % 6]) for i in range(BATCH_TOKENS // 2)]
    told: list[tuple[int, int]] = []

    def progress(stage: str, done: int, total: int, *, loss: float | None = None) -> None:
        told.append((done, total))

    together = score_targets(model, many, progress)
    for question, score in list(zip(many, together, strict=True))[::11]:
        assert score_targets(model, [question])[0].log_p == pytest.approx(score.log_p, abs=1e-4)
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1] == len(many)


def test_p_is_the_mean_over_tokens_and_greedy_needs_all() -> None:
    score = TargetScore((math.log(0.5), math.log(0.125)), (True, False))
    assert score.p == pytest.approx(0.25)
    assert not score.greedy
    assert TargetScore((-1.0, -2.0), (True, True)).greedy


def test_a_target_of_nothing_is_refused(any_editor: Editor) -> None:
    with pytest.raises(MemitError, match="tokenises to nothing"):
        score_targets(any_editor.base, [("The boy", " ")])
