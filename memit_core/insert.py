"""Insertion: the change of each edited matrix that makes the subjects' states their z.

Algorithm 1 of the paper. Where the hyperparameters ask for it, a fact has two key columns, and
facts that the edited model does not yet say are given more weight and all are solved anew: a large
λ then spares other text, and still every fact is written as strongly as it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from memit_core.compute_ks import KeyWalk, Seen
from memit_core.decoder import Decoder
from memit_core.facts import Group
from memit_core.hparams import HParams
from memit_core.loading import LoadedModel
from memit_core.progress import Progress
from memit_core.solve import Solver
from memit_core.structure import Structure
from memit_core.target_scores import score_targets
from memit_core.tokens import contexts_of, prefixed
from memit_core.views import cast_view, set_weight, view_of
from memit_core.weights import Delta, Solved, served_weight, smallest

MOST_MISSED = 0.5
"""Missed groups, relative to the width of the keys, that weights can still help: more than these
are more than a layer holds apart, and what one gains the others lose."""


class Insertion:
    """One set of groups, written into one base.

    Args:
        hparams: with the λ that these groups are written with.
        contexts: prefixes, the empty one first.
        solver: the solver of a layer's C.
        fast: the base, its upper blocks in the precision in which the edited model is asked what
            it says.
        groups: in the canonical order of `group_facts`.
        z: [d, groups] float64.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        structure: Structure,
        hparams: HParams,
        contexts: Sequence[str],
        solver: Callable[[int], Solver],
        fast: Decoder,
        groups: Sequence[Group],
        z: torch.Tensor,
    ) -> None:
        self._loaded, self._structure, self._hparams = loaded, structure, hparams
        self._contexts, self._solver, self._fast = contexts, solver, fast
        self._groups, self._z = groups, z
        self._seen: dict[int, Seen] = {}

    def run(self, progress: Progress) -> dict[str, Delta]:
        """The changes that write the groups, by module path, the lowest layer first.

        Raises:
            NonFinite: a key or an update is not finite.
            Cancelled: raised by `progress`.
        """
        hp = self._hparams
        total = len(hp.layers) * (hp.reweight_rounds + 1)
        weights = torch.ones(len(self._groups), dtype=torch.float64)
        for written in range(hp.reweight_rounds + 1):
            solved = self._write(weights, progress, written * len(hp.layers), total)
            if written == hp.reweight_rounds:
                break
            missed = self._missed(solved, _at(progress, (written + 1) * len(hp.layers), total))
            if not missed.any() or missed.sum() > MOST_MISSED * self._structure.intermediate:
                break
            weights[missed] *= hp.reweight_factor
        progress("insert", total, total)
        return solved

    def _write(
        self, weights: torch.Tensor, progress: Progress, done: int, total: int
    ) -> dict[str, Delta]:
        """Solve layer by layer; what is stored is what the next layer sees.

        At layer i of n the residual is (Z - H) / (n - i), with H read on the weights edited so far.
        The keys are those of the first time: another weight of some facts hardly moves them.
        """
        hp, view = self._hparams, view_of(self._loaded.model)
        walk = KeyWalk(
            view,
            self._structure,
            self._loaded.tokenizer,
            self._groups,
            self._contexts[:1] if self._seen else self._contexts,
            hp.layers[-1],
        )
        solved: dict[str, Delta] = {}
        for i, layer in enumerate(hp.layers):
            progress("insert", done + i, total)
            now = walk.at(layer)
            seen = self._seen.get(layer, now)
            if hp.reweight_rounds:
                self._seen[layer] = seen
            residual = (self._z - now.states) / (len(hp.layers) - i)
            right = self._solved_keys(self._solver(layer), seen, weights)
            path = self._structure.projections[layer]
            solved[path] = smallest(residual, right)
            _change(view, self._loaded.model, self._structure, path, solved[path])
        return solved

    def _solved_keys(self, solver: Solver, seen: Seen, weights: torch.Tensor) -> torch.Tensor:
        """X [m, groups] float64 of the weighted least squares, so that ΔW = R Xᵀ for residuals R.

        A group's two columns have one residual, so that their solved keys add up.
        """
        share, old_weight = self._hparams.bare_share, self._hparams.mom2_update_weight
        if share is None:
            columns = [((seen.bare + seen.sampled) / 2, weights)]
        else:
            columns = [(seen.bare, weights * share), (seen.sampled, weights * (1 - share))]
        roots = [weight.sqrt() for _, weight in columns]
        keys = torch.cat([key * root for (key, _), root in zip(columns, roots, strict=True)], dim=1)
        parts = torch.split(solver.solve(keys, old_weight), len(weights), dim=1)
        return torch.stack([part * root for part, root in zip(parts, roots, strict=True)]).sum(0)

    def _missed(self, solved: Solved, progress: Progress) -> torch.Tensor:
        """Which groups have a fact that a greedy answer does not say, [groups] bool."""
        view = edited(self._loaded.model, self._structure, solved)
        view = cast_view(view, self._fast.dtype, cast=self._fast.view)
        tokenizer = self._loaded.tokenizer
        facts = [(g, fact) for g, group in enumerate(self._groups) for fact in group.facts]
        pairs = [
            (
                prefixed(tokenizer, contexts_of(tokenizer, fact, self._contexts)[0], fact.filled),
                fact.target_new,
            )
            for _, fact in facts
        ]
        # The end of a target counts where z has learned it.
        ends = range(len(pairs)) if self._hparams.v_end_factor else ()
        scores = score_targets(view, self._structure, tokenizer, pairs, progress, ends=ends)
        missed = torch.zeros(len(self._groups), dtype=torch.bool)
        missed[[g for (g, _), score in zip(facts, scores, strict=True) if not score.said]] = True
        return missed


def _at(progress: Progress, at: int, of: int) -> Progress:
    """What the check tells: that the insertion is where it is."""

    def tell(stage: str, done: int, total: int, *, loss: float | None = None) -> None:  # noqa: ARG001
        progress("insert", at, of)

    return tell


def edited(base: Any, structure: Structure, solved: Solved) -> Any:
    """A view of the base with these changes."""
    view = view_of(base)
    for path, delta in solved.items():
        _change(view, base, structure, path, delta)
    return view


def _change(view: Any, base: Any, structure: Structure, path: str, delta: Delta) -> None:
    weight = base.get_submodule(path).weight
    set_weight(view, path, served_weight(weight, delta, structure.transposed))
