"""Fine-tuning under a constraint (FT-L, as ROME's and MEMIT's papers compare with it).

One MLP output matrix is trained by Adam on the facts, and none of its entries may leave what it was
by more than ε. Training stops when the mean loss of an epoch is small; batches whose loss is small
already are left out. The loss is that of the whole target: the official code scores every token of
it at the prompt's last position, where only the first can be right.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from memit_core.check_facts import check_written
from memit_core.decoder import Decoder
from memit_core.edit import Editor
from memit_core.errors import NonFinite
from memit_core.facts import Fact
from memit_core.insert import edited
from memit_core.methods.options import chosen
from memit_core.methods.target_loss import target_losses, target_rows, token_weights
from memit_core.progress import ProgressCallback
from memit_core.tokens import Row
from memit_core.views import set_weight
from memit_core.weights import Delta, Dense, summed

DEFAULTS: dict[str, Any] = {
    "layer": 0,
    "lr": 5e-4,
    "num_steps": 25,
    "batch_size": 64,
    "stop_loss": 1e-2,
}
"""As published for GPT-2 XL and GPT-J."""
NORM_CONSTRAINT = {1024: 2e-3, 1280: 1e-3, 1600: 5e-4, 4096: 5e-5}
"""ε by hidden size, of GPT-2 medium, large and XL, and GPT-J; others take the nearest one's."""


class FineTuning:
    """All facts of a batch together, in one matrix."""

    name = "ft"
    revision = 1
    ordered = False

    def __init__(self, editor: Editor) -> None:
        self._editor = editor

    def prepare(self, progress: ProgressCallback) -> Mapping[str, str]:  # noqa: ARG002
        """Nothing is needed."""
        return {}

    def options(self, facts: Sequence[Fact], given: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Layer, rate, ε and when to stop; the same for any number of facts."""
        loaded = self._editor.loaded
        nearest = min(NORM_CONSTRAINT, key=lambda size: abs(size - loaded.structure.hidden))
        defaults = {**DEFAULTS, "norm_constraint": NORM_CONSTRAINT[nearest]}
        return chosen(self.name, loaded, defaults, given)

    def unwritable(self, facts: Sequence[Fact], progress: ProgressCallback) -> Collection[Fact]:  # noqa: ARG002
        """None can be told from the others.

        Raises:
            InvalidFact: a fact cannot be tokenised as needed.
        """
        for fact in facts:
            check_written(self._editor.loaded, fact, self._editor.max_tokens)
        return ()

    def solve(
        self, facts: Sequence[Fact], options: Mapping[str, Any], progress: ProgressCallback
    ) -> dict[str, Delta]:
        """See `Method.solve`."""
        return self.writer(options).write(facts, progress) if facts else {}

    def digest(self, facts: Sequence[Fact], options: Mapping[str, Any]) -> str:
        """Of the facts as a set."""
        parts = [self.name, self.revision, dict(options), sorted(fact.content for fact in facts)]
        data = json.dumps(parts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(data.encode()).hexdigest()

    def writer(self, options: Mapping[str, Any]) -> _Writer:
        """See `Stacking.writer`; ε is around what each batch begins with."""
        return _Writer(self._editor, options)


class _Writer:
    """The matrix so far."""

    def __init__(self, editor: Editor, options: Mapping[str, Any]) -> None:
        self._editor, self._options = editor, options
        self._path = editor.structure.projections[options["layer"]]
        self._solved: dict[str, Delta] = {}

    def write(self, facts: Sequence[Fact], progress: ProgressCallback) -> dict[str, Delta]:
        editor = self._editor
        for fact in facts:
            check_written(editor.loaded, fact, editor.max_tokens)
        ordered = sorted(facts, key=lambda fact: fact.content)
        model = edited(editor.loaded, self._solved)
        change = self._trained(Decoder(model), ordered, progress).cpu()
        if not change.isfinite().all():
            raise NonFinite("the weight update")
        change = change.T if editor.structure.transposed else change
        before = self._solved.get(self._path)
        self._solved = {self._path: summed(before, Dense(change.contiguous()))}
        return self._solved

    def _trained(
        self, decoder: Decoder, facts: Sequence[Fact], progress: ProgressCallback
    ) -> torch.Tensor:
        """The change of the matrix, float32, in its own layout.

        Adam moves a float32 copy; the model runs with that in its own precision.
        """
        given, view = self._options, decoder.model.view
        rows = target_rows(decoder, facts, self._editor.max_tokens)
        size, epsilon = given["batch_size"], given["norm_constraint"]
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        before = view.get_submodule(self._path).weight
        base = before.detach().float()
        master = base.clone().requires_grad_()
        optimizer = torch.optim.Adam([master], lr=given["lr"])
        for step in range(given["num_steps"]):
            losses = []
            for batch in batches:
                weight = master.detach().to(before.dtype)
                loss, slope = self._slope(decoder, weight, batch)
                losses.append(loss * len(batch))
                mean = sum(losses) / len(rows)
                progress("insert", step, given["num_steps"], loss=mean)
                if loss < given["stop_loss"]:
                    continue
                master.grad = slope.float()
                optimizer.step()
                with torch.no_grad():
                    master.copy_(master.clamp(base - epsilon, base + epsilon))
            if sum(losses) / len(rows) < given["stop_loss"]:
                break
        progress("insert", given["num_steps"], given["num_steps"])
        change: torch.Tensor = master.detach() - base
        return change

    def _slope(
        self, decoder: Decoder, weight: torch.Tensor, rows: Sequence[Row]
    ) -> tuple[float, torch.Tensor]:
        """The mean loss of some rows with this weight, and its gradient there."""
        set_weight(decoder.model.view, self._path, weight)
        leaf = decoder.model.view.get_submodule(self._path).weight.requires_grad_()
        losses = target_losses(decoder, rows)
        loss = (losses * token_weights(rows, losses.device)).sum()
        (slope,) = torch.autograd.grad(loss, leaf)
        return float(loss.detach()), slope
