"""What goes into modules, and the gradient of the loss at what comes out, where targets are
predicted; and the statistics that normalise both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from memit_core.decoder import Decoder
from memit_core.facts import Fact
from memit_core.methods.target_loss import places_of, target_losses, target_rows
from memit_core.progress import ProgressCallback
from memit_core.tokens import Row
from memit_core.trace import hooked

EPSILON = 1e-7
"""Added to standard deviations."""


@dataclass(frozen=True)
class Features:
    """Of one module, at every token that predicts one of a target's; float64, on the CPU."""

    inputs: torch.Tensor
    """[tokens, m]."""
    slopes: torch.Tensor
    """[tokens, d]: of the sum of the targets' -log p by the module's output."""


class Normaliser:
    """Mean and standard deviation of all features so far, entry by entry."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = torch.zeros(())
        self._squares = torch.zeros(())
        """Sum of the squared distances from the mean."""

    def update(self, features: Features) -> None:
        """Take these in, too."""
        both = torch.cat([features.inputs, features.slopes], dim=1)
        count, mean = len(both), both.mean(0)
        total = self._count + count
        apart = mean - self._mean
        within = (both - mean).square().sum(0)
        self._squares = self._squares + within + apart.square() * self._count * count / total
        self._mean = self._mean + apart * count / total
        self._count = total

    def normalised(self, features: Features) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and slopes less the mean, over the standard deviation; of one token alone: 0."""
        both = torch.cat([features.inputs, features.slopes], dim=1)
        deviation = (self._squares / max(self._count - 1, 1)).sqrt()
        both = (both - self._mean) / (deviation + EPSILON)
        m = features.inputs.shape[1]
        return both[:, :m], both[:, m:]


def features_of(
    decoder: Decoder,
    paths: Sequence[str],
    facts: Sequence[Fact],
    max_tokens: int | None,
    size: int,
    progress: ProgressCallback,
) -> dict[str, Features]:
    """The features of all facts by module path, fact by fact.

    Args:
        paths: of Linear or Conv1D modules.
        size: facts that run together.

    Raises:
        InvalidFact: a fact cannot be tokenised as needed.
        Cancelled: raised by `progress`.
    """
    rows = target_rows(decoder, facts, max_tokens)
    parts: dict[str, list[Features]] = {path: [] for path in paths}
    for start in range(0, len(rows), size):
        progress("insert", start, len(rows))
        for path, features in _of_rows(decoder, paths, rows[start : start + size]).items():
            parts[path].append(features)
    progress("insert", len(rows), len(rows))
    return {
        path: Features(
            torch.cat([one.inputs for one in of_path]), torch.cat([one.slopes for one in of_path])
        )
        for path, of_path in parts.items()
    }


def _of_rows(decoder: Decoder, paths: Sequence[str], rows: Sequence[Row]) -> dict[str, Features]:
    width = max(len(row.ids) for row in rows)
    places = places_of(rows)
    inputs: dict[str, torch.Tensor] = {}
    outputs: dict[str, torch.Tensor] = {}

    def reader(path: str) -> Callable[[Any, Any, torch.Tensor], torch.Tensor]:
        def read(_module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            inputs[path] = args[0].detach()
            # Weights are constants: in the lowest module the gradient needs a beginning.
            outputs[path] = output if output.requires_grad else output.detach().requires_grad_()
            return outputs[path]

        return read

    view = decoder.model.view
    handles = [view.get_submodule(path).register_forward_hook(reader(path)) for path in paths]
    with hooked(handles):
        losses = target_losses(decoder, rows)
    slopes = torch.autograd.grad(losses.sum(), [outputs[path] for path in paths])

    def at_places(values: torch.Tensor) -> torch.Tensor:
        # OPT flattens rows and tokens before its projection.
        return values.reshape(len(rows), width, -1)[places].cpu().double()

    return {
        path: Features(at_places(inputs[path]), at_places(slope))
        for path, slope in zip(paths, slopes, strict=True)
    }
