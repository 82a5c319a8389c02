"""Trains a small model until it knows a synthetic world; a minute or two on one core.

A small model trained on sentences alone reads a name's tokens where they stand, from its first
block on, and looks the fact up at the end of the prompt. Large models gather what they know of a
subject at its last token first, and there MEMIT writes. To have it so here, most of the sentences
in a batch lend each other the state of their subject's last token after an early block, and go on
with the object of the person that was lent.

Training is chaotic: a last bit of float32 that one processor rounds otherwise makes another model
in 200 steps, which learns an edit otherwise. In float64 every processor makes the same.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.muon import Muon
from tests.reference import hooked
from tests.synthetic_world import OTHER_SENTENCES, Statement, World
from tests.tiny_models import VOCABULARY


@dataclass(frozen=True)
class Recipe:
    """How a model is trained."""

    rows: int = 20
    """Of a batch."""
    sentences: int = 4
    """About people, in each row."""
    lent: float = 0.7
    """Share of the sentences that get the subject of another."""
    others: float = 0.1
    """Weight of a token that belongs to no object: most are names, which nothing foretells."""
    matrix_lr: float = 5e-3
    """Muon's, for the matrices of the blocks."""
    vector_lr: float = 5e-3
    """Adam's, for embeddings, norms and biases."""
    warm_steps: int = 20
    nearly: float = 0.3
    """Mean loss of the objects, in nats a token, at which the rates begin to fall."""
    cool_steps: int = 200
    most_steps: int = 600


@dataclass(frozen=True)
class Batch:
    """Rows of sentences, padded on the right; int64 [rows, tokens] each."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    objects: torch.Tensor
    """Bool [rows, tokens]: the tokens of objects."""
    subjects: torch.Tensor
    """Row and position of each subject's last token, [sentences, 2]."""
    lenders: torch.Tensor
    """Of each sentence, which one's subject it gets, [sentences]; itself where none is lent."""


class Batches:
    """Batches without end, every fact in every wording equally often."""

    def __init__(
        self, world: World, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int
    ) -> None:
        self._world, self._tokenizer, self._recipe = world, tokenizer, recipe
        self._draw = random.Random(seed)

    def __iter__(self) -> Iterator[Batch]:
        size = self._recipe.rows * self._recipe.sentences
        everything, waiting = self._world.statements, list[Statement]()
        while True:
            if len(waiting) < size:
                waiting += self._draw.sample(everything, len(everything))
            yield self._batch(waiting[:size])
            waiting = waiting[size:]

    def _batch(self, said: list[Statement]) -> Batch:
        lenders = self._lenders(len(said))
        each = self._recipe.sentences
        texts: list[str] = []
        spans: list[tuple[int, int, int, int]] = []  # row, subject's end, object's begin and end
        for i, (one, lender) in enumerate(zip(said, lenders, strict=True)):
            if i % each == 0:
                texts.append("")
            before = texts[-1] + " " * bool(texts[-1])
            subject_end = len(before) + one.wording.index("{}") + len(one.person)
            prompt = before + one.prompt
            whole = f"{prompt} {self._world.object(said[lender].person, one.relation)}"
            spans.append((len(texts) - 1, subject_end, len(prompt), len(whole)))
            texts[-1] = f"{whole}."
        texts.append(" ".join(self._draw.sample(OTHER_SENTENCES, 2)))
        return self._encoded(texts, spans, lenders)

    def _lenders(self, count: int) -> list[int]:
        lenders = list(range(count))
        chosen = self._draw.sample(lenders, round(self._recipe.lent * count))
        for i, lender in zip(chosen, self._draw.sample(chosen, len(chosen)), strict=True):
            lenders[i] = lender
        return lenders

    def _encoded(
        self, texts: list[str], spans: list[tuple[int, int, int, int]], lenders: list[int]
    ) -> Batch:
        encoded = self._tokenizer(
            texts, return_offsets_mapping=True, padding=True, return_tensors="pt"
        )
        starts, ends = encoded["offset_mapping"].unbind(-1)
        real = ends > 0
        objects = torch.zeros_like(real)
        subjects = []
        for row, subject_end, begin, end in spans:
            objects[row] |= real[row] & (starts[row] >= begin) & (ends[row] <= end)
            within = real[row] & (starts[row] < subject_end)
            subjects.append((row, int(within.nonzero()[-1])))
        return Batch(
            encoded["input_ids"],
            encoded["attention_mask"],
            objects,
            torch.tensor(subjects),
            torch.tensor(lenders),
        )


class _Lending:
    """A forward hook: after its block, subjects' states are those of whom they were lent."""

    def __init__(self) -> None:
        self.batch: Batch | None = None

    def __call__(self, _module: Any, _args: Any, output: Any) -> Any:
        assert self.batch is not None
        states = output if isinstance(output, torch.Tensor) else output[0]
        rows, positions = self.batch.subjects.unbind(-1)
        lent = states.clone()
        lent[rows, positions] = states[rows, positions][self.batch.lenders]
        return lent if isinstance(output, torch.Tensor) else (lent, *output[1:])


class _Rates:
    """Up, then level, then down to nothing from the step on that objects are nearly known."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._loss, self._cooling = math.log(VOCABULARY), 0
        self.step = 0

    @property
    def share(self) -> float:
        """Of the full rate."""
        cooled = 1 - self._cooling / self._recipe.cool_steps
        return min(1.0, (self.step + 1) / self._recipe.warm_steps) * cooled

    def after(self, loss: float) -> bool:
        """Notes a step's loss of the objects; False when it was the last step."""
        self.step += 1
        self._loss += 0.1 * (loss - self._loss)
        known = self._cooling or self._loss < self._recipe.nearly
        ends_soon = self.step >= self._recipe.most_steps - self._recipe.cool_steps
        self._cooling += bool(known or ends_soon)
        return self._cooling < self._recipe.cool_steps


@contextmanager
def in_float64() -> Iterator[None]:
    """Also where a model's own code asks for float32: norms, softmax and rotary embeddings."""
    with (
        mock.patch.object(torch, "float32", torch.float64),
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
    ):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def train(
    model: PreTrainedModel,
    block: str,
    world: World,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    seed: int = 0,
) -> float:
    """Trains in place, by the model's own forward and without dropout; see `in_float64`.

    Args:
        block: path of the block after which a subject's last token holds what is known of it.

    Returns:
        The last loss of the objects, in nats a token.
    """
    model.eval().requires_grad_()
    optimizers = _optimizers(model, block, recipe)
    rates, lending = _Rates(recipe), _Lending()
    with hooked(model.get_submodule(block), lending):
        for batch in Batches(world, tokenizer, recipe, seed):
            lending.batch = batch
            loss, of_objects = _losses(model, batch, recipe.others)
            model.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, rate in optimizers:
                optimizer.param_groups[0]["lr"] = rate * rates.share
                optimizer.step()
            if not rates.after(of_objects):
                return of_objects
    raise AssertionError("there is no last batch")


def _optimizers(
    model: PreTrainedModel, block: str, recipe: Recipe
) -> list[tuple[torch.optim.Optimizer, float]]:
    """Each with its full rate: Muon for the blocks' matrices, Adam for all else."""
    blocks = block.rpartition(".")[0] + "."
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for path, parameter in model.named_parameters():
        inside = path.startswith(blocks) and parameter.dim() == 2
        (matrices if inside else others).append(parameter)
    return [
        (Muon(matrices), recipe.matrix_lr),
        (torch.optim.Adam(others, betas=(0.9, 0.98)), recipe.vector_lr),
    ]


def _losses(model: PreTrainedModel, batch: Batch, others: float) -> tuple[torch.Tensor, float]:
    """The weighted loss, and the mean over the tokens of objects alone."""
    logits = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
    ).logits[:, :-1]
    each = functional.cross_entropy(
        logits.transpose(1, 2), batch.input_ids[:, 1:], reduction="none"
    )
    objects, real = batch.objects[:, 1:], batch.attention_mask[:, 1:]
    weights = torch.where(objects, 1.0, others) * real
    return (each * weights).sum() / weights.sum(), float(each.detach()[objects].mean())
