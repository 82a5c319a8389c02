"""δ of one batch of groups, side by side, as section 4.3 of the paper finds it.

z = h₀ + δ, or h₀ and what δ moves through the norm that follows the projection (`carry.py`). δ
minimises, by Adam under ‖δ‖ ≤ clamp_norm_factor · ‖h₀‖, the sum of

    -log p(target | context + prompt), the mean over contexts, the facts of the group and their
                                       wordings
    kl_factor · KL(p(· | "{subject} is a") ‖ the unedited model's)
    v_weight_decay · ‖δ‖ / ‖h₀‖²        (before a norm, ‖δ‖ is relative to what it is added to)

and, where hparams ask for it, v_end_factor · -log p(the target's word ends). A step runs what
depends on δ and nothing else: the blocks above the last edited layer, from the subject's last token
on, and the head where something is read. Groups that are done leave the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch.nn import functional

from memit_core.carry import arrives
from memit_core.decoder import Decoder
from memit_core.hparams import HParams
from memit_core.lanes import live_lanes
from memit_core.walk import FEW_ROWS
from memit_core.z_index import ZIndex
from memit_core.z_losses import Losses, end_term, kl_term, target_term
from memit_core.z_rows import GroupRows, rows_by_context

STOP_LOSS = 0.05
HARD_LOSS = 0.3
"""Groups above it after v_num_grad_steps go on, where hparams give them more."""
LEAVE_SHARE = 0.8
"""A batch is packed anew when no more than this share of its groups is still open."""
HEAD_ROWS = 256
"""Rows whose logits are in memory together."""


@dataclass(frozen=True)
class Target:
    """z of one group, [d] float32 on the CPU, and the loss it ended with; not finite: it failed."""

    z: torch.Tensor
    loss: float

    @property
    def finite(self) -> bool:
        return bool(self.z.isfinite().all()) and math.isfinite(self.loss)


class Optimisation:
    """One batch of groups: what stays the same in all steps, and the loop.

    Args:
        exact, fast: see `compute_z`.
        word_ends: tokens that end a word, bool [vocabulary]; None where no row asks for it.
    """

    def __init__(
        self,
        exact: Decoder,
        fast: Decoder,
        hparams: HParams,
        groups: Sequence[GroupRows],
        word_ends: torch.Tensor | None,
    ) -> None:
        self.hparams = hparams
        self.fast = fast
        self.size = len(groups)
        device = fast.model.device_of(-1)
        by_context = rows_by_context(groups)
        everything = list(chain.from_iterable(by_context))
        subjects = [group.subject for group in groups]
        walks = [*filter(None, by_context), subjects]
        if len(everything) < FEW_ROWS:
            walks = [everything + subjects]
        self.live, states = live_lanes(exact, fast, walks, hparams.layers[-1])
        self.index = ZIndex.of(groups, hparams, device)
        self.row_group = self.index.row_group
        bare = self.row_group[: len(by_context[0])]
        self.h0 = torch.zeros(self.size, states.shape[1], device=device)
        self.h0.index_add_(0, bare, states[: len(bare)])
        self.h0 /= torch.bincount(bare, minlength=self.size)[:, None]
        self.bare, self.inputs = bare, self.live.inputs
        scale = exact.model.structure.carry.scale
        self.unit = torch.tensor(1 / scale, device=device)
        """What δ is optimised in: the states' own measure, or before a norm the projection's."""
        self.reach = self.h0.norm(dim=-1, keepdim=True) / scale
        """Of every group, what ‖δ‖ is compared with, [groups, 1]."""
        if self.inputs is not None:
            inputs = self._over_facts(self.inputs)
            self.reach = inputs.norm(dim=-1, keepdim=True)
            self.unit = self.reach / math.sqrt(inputs.shape[-1])
        self.word_ends = None if word_ends is None else word_ends.to(device)
        self.base_log_p = torch.empty(0)
        """[subjects, vocabulary]: of the unedited model, from the first step on."""

    def run(self, on_step: Callable[[int, float], None]) -> list[Target]:
        """Adam on δ with clamp and stopping by group; z = h₀ + δ of every group.

        Args:
            on_step: called after each forward with its number and the mean loss.
        """
        hp = self.hparams
        delta = torch.zeros_like(self.h0, requires_grad=True)
        optimizer = torch.optim.Adam([delta], lr=hp.v_lr, betas=(hp.v_beta1, hp.v_beta2))
        final = torch.full((self.size,), torch.nan, device=delta.device)
        open_ = torch.ones(self.size, dtype=torch.bool, device=delta.device)
        steps_left = torch.full((self.size,), hp.most_grad_steps, device=delta.device)
        # Until the usual steps are over there is nothing to go back to: then NaN becomes infinity.
        usual, usual_loss = delta.detach().clone(), torch.full_like(final, torch.inf)
        for step in range(hp.most_grad_steps):
            optimizer.zero_grad()
            losses = self.losses(delta)
            final = torch.where(open_, losses.total, final)
            if hp.v_stop_after_lead is not None:
                # ENCORE's stop: some more steps once the target leads everywhere.
                leads = losses.leads & losses.ends
                soon = steps_left.clamp_max(hp.v_stop_after_lead)
                steps_left = torch.where(leads, soon, steps_left) - 1
            open_ = open_ & final.isfinite() & (losses.paper >= STOP_LOSS) & (steps_left >= 0)
            if step == hp.v_num_grad_steps - 1:
                open_ = open_ & (final > HARD_LOSS)
                usual, usual_loss = delta.detach().clone(), final
            on_step(step + 1, float(final.nanmean()))
            if not open_.any() or step == hp.most_grad_steps - 1:
                break
            before = delta.detach().clone()
            optimizer.step()
            with torch.no_grad():
                delta.copy_(self._clamped(torch.where(open_[:, None], delta, before)))
            self._drop_closed(open_)
        # What the extra steps made worse, or not finite, is taken back.
        worse = ~(final <= usual_loss)
        final = torch.where(worse, usual_loss, final)
        z = self._z(torch.where(worse[:, None], usual, delta.detach())).cpu()
        return [Target(z[g], float(final[g])) for g in range(self.size)]

    def losses(self, delta: torch.Tensor) -> Losses:
        """All terms of every group, and their gradient.

        Args:
            delta: [groups, d] float32; gets the gradient of the sum in `delta.grad`.
        """
        hidden = self.live.above((delta * self.unit)[self.index.row_group])
        states = self.index.read(hidden)
        losses, slope = self._read(states.detach())
        states.backward(slope)  # type: ignore[no-untyped-call]
        lengths = self.reach[:, 0] * self.h0.norm(dim=-1)
        decay = self.hparams.v_weight_decay * (delta * self.unit).norm(dim=-1) / lengths
        decay[self.index.subjects.group].sum().backward()
        losses.decay = decay.detach()
        return losses

    def _read(self, states: torch.Tensor) -> tuple[Losses, torch.Tensor]:
        """The terms that are read off `states` [n, d], and the gradient of their sum there.

        The vocabulary is wide, so logits and their gradient are made for a few rows at a time.
        """
        index = self.index
        losses = Losses.nothing_read(self.size, index.subjects.group)
        base: list[torch.Tensor] = []
        slopes: list[torch.Tensor] = []
        for start in range(0, len(states), HEAD_ROWS):
            leaf = states[start : start + HEAD_ROWS].clone().requires_grad_()
            log_p = functional.log_softmax(self.fast.logits(leaf).float(), dim=-1)
            of_targets, of_ends, of_subjects = index.parts(start, start + len(leaf))
            targets, ends = index.targets[of_targets], index.ends[of_ends]
            subjects = index.subjects[of_subjects]
            after, at_end, at_subject = torch.split(log_p, [*map(len, (targets, ends, subjects))])
            total = target_term(after, index.target_ids[of_targets], targets, losses)
            if self.word_ends is not None and len(ends):
                total = total + end_term(at_end, self.word_ends, ends, losses)
            if not len(self.base_log_p):
                base.append(at_subject.detach())
            unedited = base[-1] if base else self.base_log_p[of_subjects]
            total = total + kl_term(at_subject, unedited, subjects, losses)
            total.backward()  # type: ignore[no-untyped-call]
            if leaf.grad is not None:
                slopes.append(leaf.grad)
        if base:
            self.base_log_p = torch.cat(base)
        return losses, torch.cat(slopes)

    def _drop_closed(self, open_: torch.Tensor) -> None:
        """Pack the batch anew without the groups that are done, when enough of them are."""
        staying = open_[self.index.subjects.group]
        if int(staying.sum()) > LEAVE_SHARE * len(staying):
            return
        self.live = self.live.select(self.index.rows(open_))
        self.index = self.index.select(open_)
        self.base_log_p = self.base_log_p[staying]

    def _over_facts(self, rows: torch.Tensor) -> torch.Tensor:
        """[rows, d] → [groups, d], the mean over the bare prompts of each group's facts."""
        total = torch.zeros(self.size, rows.shape[1], device=rows.device)
        total.index_add_(0, self.bare, rows[: len(self.bare)])
        return total / torch.bincount(self.bare, minlength=self.size)[:, None]

    def _z(self, delta: torch.Tensor) -> torch.Tensor:
        """The states after the last edited layer that δ [groups, d] leads to, [groups, d]."""
        carry, delta = self.fast.model.structure.carry, delta * self.unit
        if self.inputs is None:
            return self.h0 + arrives(carry, None, None, delta)
        with torch.no_grad():
            rows = arrives(carry, self.live.norm, self.inputs, delta[self.row_group])
        return self.h0 + self._over_facts(rows)

    def _clamped(self, delta: torch.Tensor) -> torch.Tensor:
        """Keep ‖δ‖ ≤ clamp_norm_factor · ‖h₀‖."""
        limit = self.hparams.clamp_norm_factor * self.reach / self.unit
        norm = delta.norm(dim=-1, keepdim=True)
        return torch.where(norm > limit, delta * limit / norm.clamp_min(1e-12), delta)
