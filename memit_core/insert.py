"""Insertion: the change of each edited matrix that makes the subjects' states their z.

Algorithm 1 of the paper. Where the hyperparameters ask for it, a fact has two key columns, and
facts that a greedy answer of the edited model misses are given more weight and all are solved anew:
a large λ then spares other text, and still every fact is written as strongly as it takes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from memit_core.carry import needed
from memit_core.compute_ks import KeyWalk, LayerInputs
from memit_core.facts import Group
from memit_core.hparams import HParams
from memit_core.loading import LoadedModel
from memit_core.model import Model
from memit_core.prepare import Prepared
from memit_core.progress import ProgressCallback
from memit_core.solve import KeySolver
from memit_core.target_scores import score_targets
from memit_core.tokens import contexts_of, prefixed
from memit_core.views import cast_view, set_weight
from memit_core.weights import Delta, Solved, served_weight, smallest, summed

MOST_MISSED = 0.5
"""Missed groups, relative to the width of the keys, that weights can still help: more than these
are more than a layer holds apart, and what one gains the others lose."""


class Insertion:
    """One set of groups, written into one base, or upon changes of it.

    Args:
        prepared: of this base.
        hparams: with the λ that these groups are written with.
        groups: in the canonical order of `group_facts`.
        z: [d, groups] float64.
        upon: what was written before, by module path; nothing above the last edited layer.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prepared: Prepared,
        hparams: HParams,
        groups: Sequence[Group],
        z: torch.Tensor,
        upon: Solved | None = None,
    ) -> None:
        self._loaded, self._prepared, self._hparams = loaded, prepared, hparams
        self._groups, self._z = groups, z
        self._upon: Solved = upon or {}
        self._first: dict[int, LayerInputs] = {}
        """By layer, of the first round."""
        self._residuals: dict[int, torch.Tensor] = {}
        """By layer, [d, groups] float64: of every group, from the last round that walked it."""

    def run(self, progress: ProgressCallback) -> dict[str, Delta]:
        """The changes of the base that write the groups, by module path, the lowest layer first;
        those before among them.

        Raises:
            NonFinite: a key or an update is not finite.
            Cancelled: raised by `progress`.
        """
        hp = self._hparams
        width = self._loaded.structure.intermediate
        total = len(hp.layers) * (hp.reweight_rounds + 1)
        weights = torch.ones(len(self._groups), dtype=torch.float64)
        walked = torch.ones(len(self._groups), dtype=torch.bool)
        for written in range(hp.reweight_rounds + 1):
            solved = self._write(weights, walked, progress, written * len(hp.layers), total)
            if written == hp.reweight_rounds:
                break
            missed = self._missed(solved, _at(progress, (written + 1) * len(hp.layers), total))
            if not missed.any() or missed.sum() > MOST_MISSED * width:
                break
            weights[missed] *= hp.reweight_factor
            walked = missed
        progress("insert", total, total)
        return solved

    def _write(
        self,
        weights: torch.Tensor,
        walked: torch.Tensor,
        progress: ProgressCallback,
        done: int,
        total: int,
    ) -> dict[str, Delta]:
        """Solve layer by layer, each on the weights that are stored for those below.

        At layer i of n the residual is (Z - H) / (n - i), with H read on the weights edited so far;
        where a norm follows the projection, what moves the states so through it.
        Keys are those of the first round, and so are the residuals of groups that were not missed:
        another weight of a few others hardly moves them.

        Args:
            weights: of the groups in the least squares, [groups] float64.
            walked: groups whose states are read, [groups] bool; all of them in the first round.
        """
        hp, model = self._hparams, edited(self._loaded, self._upon)
        contexts = self._prepared.prefixes[: 1 if self._first else None]
        columns = walked.nonzero()[:, 0]
        z = self._z if walked.all() else self._z[:, columns]
        walk = KeyWalk(model, [self._groups[g] for g in columns], contexts, hp.layers[-1])
        solved: dict[str, Delta] = dict(self._upon)
        for i, layer in enumerate(hp.layers):
            progress("insert", done + i, total)
            now = walk.at(layer)
            first = self._first.get(layer, now)
            residual = self._before_norm(layer, now, (z - now.states) / (len(hp.layers) - i))
            if layer in self._residuals:
                residual = self._residuals[layer].index_copy(1, columns, residual)
            if hp.reweight_rounds:
                self._first[layer], self._residuals[layer] = first, residual
            right = self._solved_keys(self._prepared.solvers[layer], first, weights)
            path = model.structure.projections[layer]
            solved[path] = summed(self._upon.get(path), smallest(residual, right))
            _change(model, self._loaded, path, solved[path])
        return solved

    def _before_norm(self, layer: int, now: LayerInputs, residual: torch.Tensor) -> torch.Tensor:
        """What the projection must give more, [d, groups], for the states to move by `residual`."""
        carry, view = self._loaded.structure.carry, self._loaded.model
        norm = carry.norm(view, layer, torch.float64)
        norm = None if norm is None else norm.cpu()
        inputs = None if now.normed is None else now.normed.T
        return needed(carry, norm, inputs, residual.T).T

    def _solved_keys(
        self, solver: KeySolver, inputs: LayerInputs, weights: torch.Tensor
    ) -> torch.Tensor:
        """X [m, groups] float64 of the weighted least squares, so that ΔW = R Xᵀ for residuals R.

        A group's two columns have one residual, so that their solved keys add up.
        """
        share, old_weight = self._hparams.bare_share, self._hparams.mom2_update_weight
        if share is None:
            columns = [((inputs.bare + inputs.sampled) / 2, weights)]
        else:
            columns = [(inputs.bare, weights * share), (inputs.sampled, weights * (1 - share))]
        roots = [weight.sqrt() for _, weight in columns]
        keys = torch.cat([key * root for (key, _), root in zip(columns, roots, strict=True)], dim=1)
        parts = torch.split(solver.solve(keys, old_weight), len(weights), dim=1)
        return torch.stack([part * root for part, root in zip(parts, roots, strict=True)]).sum(0)

    def _missed(self, solved: Solved, progress: ProgressCallback) -> torch.Tensor:
        """Which groups have a fact whose greedy answer is not its target, [groups] bool.

        All are asked in every round: what raises some may lose others.
        """
        model = edited(self._loaded, solved)
        # In the precision of the z optimisation, whose cast weights serve here too.
        _, fast = self._prepared.decoders
        model = model.with_view(cast_view(model.view, fast.dtype, cast=fast.model.view))
        tokenizer, contexts = model.tokenizer, self._prepared.contexts
        facts = [(g, fact) for g, group in enumerate(self._groups) for fact in group.facts]
        pairs = [
            (
                prefixed(tokenizer, contexts_of(tokenizer, fact, contexts)[0], fact.filled),
                fact.target_new,
            )
            for _, fact in facts
        ]
        # The end of a target counts where z has learned it.
        ends = range(len(pairs)) if self._hparams.v_end_factor else ()
        scores = score_targets(model, pairs, progress, ends=ends)
        missed = torch.zeros(len(self._groups), dtype=torch.bool)
        missed[[g for (g, _), score in zip(facts, scores, strict=True) if not score.exact]] = True
        return missed


def _at(progress: ProgressCallback, at: int, of: int) -> ProgressCallback:
    """The check reports that the insertion is where it is."""

    def report(stage: str, done: int, total: int, *, loss: float | None = None) -> None:  # noqa: ARG001
        progress("insert", at, of)

    return report


def edited(loaded: LoadedModel, solved: Solved) -> Model:
    """The base with these changes, to run."""
    model = loaded.runnable()
    for path, delta in solved.items():
        _change(model, loaded, path, delta)
    return model


def _change(model: Model, loaded: LoadedModel, path: str, delta: Delta) -> None:
    weight = loaded.model.get_submodule(path).weight
    set_weight(model.view, path, served_weight(weight, delta, model.structure.transposed))
