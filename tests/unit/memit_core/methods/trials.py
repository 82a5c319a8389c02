"""What a method does to a small trained model that knows a made-up world."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from benchmarks.family_efficacy import HPARAMS, Questions, questions, said
from memit_core.edit import Editor
from memit_core.methods import METHODS, Method
from memit_core.progress import silent
from memit_core.weights import Solved
from tests.trained_models import the_world, trained_model

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Learned:
    """Shares of prompts with the right greedy answer, in percent."""

    facts: float
    before: float
    """Of the facts, by the unedited model."""
    neighbours: float
    """Facts of other people, relative to what the unedited model says of them."""


@cache
def world_editor(family: str) -> Editor:
    return Editor(trained_model(family), HPARAMS, corpus=the_world().text, z_dtype="float32")


def asked(count: int, seed: int = 0) -> Questions:
    """As many facts, and what is asked of them."""
    world = the_world()
    return questions(world, world.edits(count, seed=seed))


def method_on(family: str, name: str) -> Method:
    return METHODS[name](world_editor(family))


def learned(family: str, solved: Solved, questions: Questions) -> Learned:
    """How facts and neighbours are answered with these changes."""
    editor = world_editor(family)
    base, model = editor.base, editor.model_with(solved)
    return Learned(
        facts=said(model, questions.edited),
        before=said(base, questions.edited),
        neighbours=said(model, questions.neighbours) - said(base, questions.neighbours),
    )


def tried(family: str, name: str, count: int, **given: Any) -> Learned:
    """Write so many facts at once, and ask."""
    questions, method = asked(count), method_on(family, name)
    options = method.options(questions.facts, given)
    return learned(family, method.solve(questions.facts, options, silent), questions)
