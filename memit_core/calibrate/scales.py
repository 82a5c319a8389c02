"""A model's own measures, which make hyperparameters of one model those of another.

- ‖h‖, the length of states at the subject's last token: clamp and step are shares of it.
- kᵀC⁻¹k, how unusual a key is (about m, if it is an ordinary one): with one key and one layer, the
  closed form writes the share q / (λ + q) of what is wanted, q being this number. So λ is chosen as
  a multiple of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from memit_core.facts import Fact
from memit_core.hparams import HParams
from memit_core.model import Model
from memit_core.preset import STANDARD
from memit_core.solve import Solver
from memit_core.structure import first_tensor
from memit_core.tokens import collate, contexts_of, prompt_row
from memit_core.trace import hooked, run_until

ROWS = 16
DECAY = 0.0125
"""v_weight_decay, relative to ‖h‖: half of it 40 on SmolLM2, where 0.5 was measured."""


@dataclass(frozen=True)
class Scale:
    """Of one layer, the mean over some subjects."""

    state: float
    """‖h‖ after the block."""
    leverage: float
    """kᵀC⁻¹k."""


@torch.no_grad()
def measure_scales(
    base: Model, facts: Sequence[Fact], solvers: Mapping[int, Solver]
) -> dict[int, Scale]:
    """By layer, for the layers that have a solver."""
    structure = base.structure
    norms: dict[int, list[float]] = {layer: [] for layer in solvers}
    keys: dict[int, list[torch.Tensor]] = {layer: [] for layer in solvers}
    rows = []
    for fact in facts:
        context = contexts_of(base.tokenizer, fact, ("",))[0]
        rows.append(prompt_row(base.tokenizer, fact, context))
    for start in range(0, len(rows), ROWS):
        batch = collate(rows[start : start + ROWS], base.device)
        every = torch.arange(len(batch.lookup), device=batch.lookup.device)

        def read_state(layer: int, every: Any = every, batch: Any = batch) -> Any:
            def read(_module: Any, _args: Any, output: Any) -> None:
                states = first_tensor(output)[every, batch.lookup]
                norms[layer] += states.float().norm(dim=-1).tolist()

            return read

        def read_keys(layer: int, every: Any = every, batch: Any = batch) -> Any:
            return lambda inputs: keys[layer].append(inputs[every, batch.lookup].double())

        handles = [
            base.view.get_submodule(structure.blocks[layer]).register_forward_hook(
                read_state(layer)
            )
            for layer in solvers
        ]
        with hooked(handles):
            readers = {structure.projections[layer]: read_keys(layer) for layer in solvers}
            run_until(base, structure.blocks[max(solvers)], batch, readers)
    return {
        layer: Scale(
            state=sum(norms[layer]) / len(norms[layer]),
            leverage=_leverage(torch.cat(keys[layer]), solver),
        )
        for layer, solver in solvers.items()
    }


def _leverage(keys: torch.Tensor, solver: Solver) -> float:
    """keys [n, m] → the median over them."""
    factor = solver.factor()
    y = torch.linalg.solve_triangular(factor, keys.T.to(factor), upper=False)
    return float(y.square().sum(0).median())


@dataclass(frozen=True)
class Settings:
    """What is searched, free of the model's scales."""

    layers: tuple[int, ...]
    old_memory: float
    """λ, as a multiple of the leverage of a subject's key."""
    clamp: float
    """How far a state may move, as a share of its length."""
    step: float
    """Of Adam, as a share of the root mean square of what it moves."""
    steps: int

    def hparams(
        self, scales: Mapping[int, Scale], hidden: int, through_norm: bool, n_tokens: int
    ) -> HParams:
        """The same in the model's own measures.

        Args:
            scales: of the edited layers at least.
            hidden: d.
            through_norm: whether a norm follows the projection; steps are relative there already.
            n_tokens: that the covariance was taken from.
        """
        state = scales[self.layers[-1]].state
        leverages = [scales[layer].leverage for layer in self.layers]
        leverage = math.exp(sum(math.log(one) for one in leverages) / len(leverages))
        unit = 1.0 if through_norm else state / math.sqrt(hidden)
        return replace(
            STANDARD,
            layers=self.layers,
            v_num_grad_steps=self.steps,
            v_lr=_short(self.step * unit),
            v_weight_decay=_short(DECAY * state),
            clamp_norm_factor=_short(self.clamp),
            mom2_update_weight=_short(self.old_memory * leverage),
            mom2_n_tokens=n_tokens,
        )


def _short(value: float) -> float:
    """Three digits say all there is to say."""
    return float(f"{value:.3g}")
