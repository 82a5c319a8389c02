"""Training of an editing network for one base, on records of facts and other text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from memit_core.errors import MemitError, NonFinite
from memit_core.facts import Fact
from memit_core.loading import LoadedModel
from memit_core.methods.mend import checkpoint, trained
from memit_core.methods.mend.checkpoint import Checkpoint, Standing
from memit_core.methods.mend.lessons import Lessons
from memit_core.methods.mend.losses import EDIT_WEIGHT, Losses
from memit_core.methods.mend.network import LEARNING_RATE, RANK, Network
from memit_core.methods.mend.reach import changed_matrices
from memit_core.progress import ProgressCallback, silent

LARGEST_GRADIENT = 100.0
"""Norm at which a step's gradient is cut, as published."""


@dataclass(frozen=True)
class Options:
    """How a network is trained."""

    steps: int = 1_000
    """At most."""
    seed: int = 0
    rank: int = RANK
    together: int = 1
    """Facts that are written at once in a step."""
    rate: float = 1e-4
    """Adam's, for the network; 1e-6 is published, for runs of many more steps."""
    look_steps: int = 50
    """Steps between two looks at the held-out facts; each ends in a save."""
    patience: int = 6
    """Looks without a better network, after which the training ends."""


@dataclass(frozen=True)
class Outcome:
    """A finished training."""

    file: Path
    standing: Standing


def train(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    corpus: str,
    folder: Path,
    options: Options | None = None,
    progress: ProgressCallback = silent,
) -> Outcome:
    """Train a network, or go on with the training that the folder holds.

    Args:
        facts: with the paraphrases that the edited model is asked in.
        corpus: text that edits shall leave alone; its end is left for measuring.
        folder: is made if it is not there; gets the network's file.

    Raises:
        MemitError: the folder holds a network, or another training; there are too few facts.
        InvalidFact: a fact cannot be tokenised as needed.
        NonFinite: the loss is not finite.
        Cancelled: raised by `progress`; what was last saved stays.
        OSError: a file cannot be written.
    """
    return _Training(loaded, facts, corpus, folder, options or Options()).run(progress)


class _Training:
    def __init__(
        self,
        loaded: LoadedModel,
        facts: Sequence[Fact],
        corpus: str,
        folder: Path,
        options: Options,
    ) -> None:
        self._options, self._file = options, folder / trained.FILE
        if self._file.exists():
            raise MemitError(f"{self._file} exists already; name another folder")
        matrices = changed_matrices(loaded)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            network = Network(matrices, options.rank)
        self._network = network.to(loaded.device)
        self._losses = Losses(loaded, self._network)
        self._lessons = Lessons(loaded.tokenizer, facts, corpus, options.together, options.seed)
        rest = [p for name, p in self._network.named_parameters() if name != "rates"]
        # The learning rates of the edits are learned at their own published rate.
        groups: list[dict[str, Any]] = [
            {"params": rest},
            {"params": [self._network.rates], "lr": LEARNING_RATE},
        ]
        self._adam = torch.optim.Adam(groups, lr=options.rate)
        self._config = {
            "revision": trained.REVISION,
            "base": loaded.digest,
            "model": loaded.name,
            "matrices": list(matrices),
            "rank": options.rank,
            "data": _digest([(*f.content, list(f.paraphrase_prompts)) for f in facts]),
            "text": _digest(corpus),
            "options": {k: v for k, v in asdict(options).items() if k not in ("steps", "patience")},
        }
        folder.mkdir(parents=True, exist_ok=True)
        self._checkpoint = Checkpoint(folder / checkpoint.FILE, self._config)

    def run(self, progress: ProgressCallback) -> Outcome:
        options = self._options
        standing, best = self._begun(progress)
        loss: float | None = None
        while standing.step < options.steps and standing.waited < options.patience:
            progress("train", standing.step, options.steps, loss=loss)
            loss = self._step(standing.step)
            standing.step += 1
            if standing.step % options.look_steps == 0 or standing.step == options.steps:
                best = self._look(standing, best)
                self._checkpoint.save(standing, self._network, best, self._adam)
        progress("train", options.steps, options.steps)
        self._network.load_state_dict(best)
        edit, locality = standing.best
        held_out = {"edit": edit, "locality": locality}
        config = {**self._config, "steps": standing.best_step, "held_out": held_out}
        trained.save_trained(self._file, self._network, config)
        self._checkpoint.remove()
        return Outcome(self._file, standing)

    def _begun(self, progress: ProgressCallback) -> tuple[Standing, dict[str, torch.Tensor]]:
        """Where the training stands, and the best network so far."""
        found = self._checkpoint.load(self._network, self._adam)
        if found is not None:
            return found
        progress("train", 0, self._options.steps)
        before = self._held_out()
        return Standing(0, before, before, 0), trained.state_of(self._network)

    def _step(self, step: int) -> float:
        loss = self._losses.of(self._lessons.of_step(step), observe=True).total
        if not loss.isfinite():
            raise NonFinite(f"the loss of training step {step}")
        self._adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), LARGEST_GRADIENT)
        self._adam.step()
        return float(loss.detach())

    def _look(self, standing: Standing, best: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Measure the network; its tensors if it is the best so far, else `best`."""
        found = self._held_out()
        if _total(found) < _total(standing.best):
            standing.best, standing.best_step, standing.waited = found, standing.step, 0
            return trained.state_of(self._network)
        standing.waited += 1
        return best

    @torch.no_grad()
    def _held_out(self) -> tuple[float, float]:
        losses = [self._losses.of(lesson) for lesson in self._lessons.held_out()]
        return (
            fmean(float(loss.edit) for loss in losses),
            fmean(float(loss.locality) for loss in losses),
        )


def _total(losses: Sequence[float]) -> float:
    return EDIT_WEIGHT * losses[0] + losses[1]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()
