"""z: the hidden state at the last edited layer that makes the model say the new facts.

Section 4.3 of the paper, for many groups at once. A step runs what depends on δ and nothing else:
the blocks above the last edited layer, from the subject's last token on, and the head where a
target is predicted. Groups that are done leave the batch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from memit_core.decoder import Decoder
from memit_core.errors import InvalidFact, OutOfMemory
from memit_core.facts import Group
from memit_core.hparams import HParams
from memit_core.joining import ends_in_word
from memit_core.live import live_rows
from memit_core.precision import memory_budget, out_of_memory
from memit_core.progress import Progress
from memit_core.tokens import Row, contexts_of, subject_row, target_row
from memit_core.walk import FEW_ROWS

log = logging.getLogger(__name__)

STOP_LOSS = 0.05
HARD_LOSS = 0.3
"""Groups above it after v_num_grad_steps go on, where hparams give them more."""
MAX_GROUP_TOKENS = 32_768
"""A group is optimised whole: its rows and their gradients are in memory together."""
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


@dataclass(frozen=True)
class _Rows:
    """The sequences of one group: every fact in every context, then the subject's KL row."""

    facts: list[list[Row]]
    """By context, the bare one first; a row a fact."""
    subject: Row

    @property
    def live(self) -> int:
        """Tokens that a step runs, padding within the group included."""
        rows = [row for context in self.facts for row in context]
        return (len(rows) + 1) * max(len(row.ids) - row.lookup for row in rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Live and preceding tokens of the longest row: groups alike in it waste no padding."""
        rows = [row for context in self.facts for row in context]
        return max(len(row.ids) - row.lookup for row in rows), max(row.lookup for row in rows)


def compute_z(
    decoders: tuple[Decoder, Decoder],
    hparams: HParams,
    contexts: Sequence[str],
    groups: Sequence[Group],
    progress: Progress,
    *,
    max_tokens: int | None = None,
    batch_tokens: int | None = None,
    word_ends: torch.Tensor | None = None,
) -> Iterator[tuple[int, Target]]:
    """Optimise z for each group, in batches; a group's result does not depend on its batch.

    Yields the number of a group and its z, those of a batch as soon as it is done.

    Args:
        decoders: two of the unedited base: one runs the blocks up to the last edited layer, the
            other those above, in the precision that they shall run in.
        contexts: prefixes, the empty one first.
        max_tokens: longest prompt and target together.
        batch_tokens: live tokens of a batch; by default what free memory holds.
        word_ends: tokens that end a word, bool [vocabulary]; needed where hparams have a
            v_end_factor.

    Raises:
        InvalidFact: a fact cannot be tokenised as needed.
        OutOfMemory: not even one group fits.
        Cancelled: raised by `progress`.
    """
    ends = word_ends is not None and hparams.v_end_factor > 0
    exact, fast = decoders
    tokenizer = exact.model.tokenizer
    prepared = [_rows(tokenizer, group, contexts, max_tokens, ends) for group in groups]
    progress("z", 0, len(groups) * hparams.v_num_grad_steps)
    waiting = sorted(range(len(groups)), key=lambda g: prepared[g].shape)
    budget = batch_tokens or memory_budget(fast, fast.depth - 1 - hparams.layers[-1])
    while waiting:
        batch = _first_batch(waiting, prepared, budget)
        try:
            done = len(groups) - len(waiting)
            tell = _report(progress, done, len(batch), len(groups), hparams.v_num_grad_steps)
            # Not bound to a name: a batch's memory is free before the next one takes its own.
            chosen = [prepared[g] for g in batch]
            targets = _Optimisation(exact, fast, hparams, chosen, word_ends).run(tell)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise OutOfMemory("z", [groups[batch[0]].subject]) from error
            budget = sum(prepared[g].live for g in batch) // 2
            log.warning("out of memory at %d facts a batch: going on with half", len(batch))
            continue
        yield from zip(batch, targets, strict=True)
        waiting = waiting[len(batch) :]
        steps = hparams.v_num_grad_steps
        progress("z", (len(groups) - len(waiting)) * steps, len(groups) * steps)


def _report(
    progress: Progress, before: int, size: int, total: int, steps: int
) -> Callable[[int, float], None]:
    """Progress in steps of a fact, so that a single one moves too; one short of a batch's end until
    it is reached, since some groups take more steps than the others."""

    def tell(step: int, loss: float) -> None:
        done = min(step * size, steps * size - 1)
        progress("z", before * steps + done, total * steps, loss=loss)

    return tell


def _rows(
    tokenizer: Any, group: Group, contexts: Sequence[str], max_tokens: int | None, ends: bool
) -> _Rows:
    by_fact = [
        [
            target_row(
                tokenizer,
                fact,
                context,
                max_tokens=None if c else max_tokens,
                ends=ends and ends_in_word(fact.target_new),
            )
            for c, context in enumerate(contexts_of(tokenizer, fact, contexts))
        ]
        for fact in group.facts
    ]
    facts = [list(of_context) for of_context in zip(*by_fact, strict=True)]
    rows = _Rows(facts, subject_row(tokenizer, group.facts[0]))
    if rows.live > MAX_GROUP_TOKENS:
        raise InvalidFact(
            f"has {len(group.facts)} live facts, {rows.live} tokens in all their contexts, "
            f"of which at most {MAX_GROUP_TOKENS} can be optimised together",
            subject=group.subject,
            field="subject",
            limit=MAX_GROUP_TOKENS,
        )
    return rows


def _first_batch(waiting: Sequence[int], rows: Sequence[_Rows], budget: int) -> list[int]:
    """As many of the first groups as have at most `budget` live tokens, padded; at least one."""
    count = width = size = 0
    for size, g in enumerate(waiting):
        count += 1 + sum(len(context) for context in rows[g].facts)
        width = max(width, rows[g].shape[0])
        if size and count * width > budget:
            return list(waiting[:size])
    return list(waiting[: size + 1])


class _Optimisation:
    """One batch of groups: the constants of the optimisation, and its loop."""

    def __init__(
        self,
        exact: Decoder,
        fast: Decoder,
        hparams: HParams,
        groups: Sequence[_Rows],
        word_ends: torch.Tensor | None,
    ) -> None:
        self.hparams = hparams
        self.fast = fast
        self.size = len(groups)
        layer, device = hparams.layers[-1], fast.model.device_of(-1)
        n_contexts = len(groups[0].facts)
        by_context = [
            [row for group in groups for row in group.facts[c]] for c in range(n_contexts)
        ]
        n_facts = len(by_context[0])
        everything = [row for context in by_context for row in context]
        subjects = [group.subject for group in groups]
        walks = [*by_context, subjects]
        if len(everything) < FEW_ROWS:
            walks = [everything + subjects]
        owner = [g for g, group in enumerate(groups) for _ in group.facts[0]]
        self.live, states = live_rows(exact, fast, walks, layer)
        own = torch.arange(self.size, device=device)
        contexts = torch.tensor(owner * n_contexts, device=device)
        self.row_group = torch.cat([contexts, own])
        """The group of every row: facts in their contexts first, then each group's subject."""
        self.subject_row = len(everything) + own
        self.subject_group = own
        share = torch.bincount(self.row_group[:n_facts], minlength=self.size)
        self.h0 = torch.zeros(self.size, states.shape[1], device=device)
        self.h0.index_add_(0, self.row_group[:n_facts], states[:n_facts])
        self.h0 /= share[:, None]
        flat = [
            (i, position - row.lookup, token, 1 / len(row.targets))
            for i, row in enumerate(everything)
            for position, token in zip(row.target_positions, row.targets, strict=True)
        ]
        at, column, token, weight = zip(*flat, strict=True)
        self.target_row = torch.tensor(at, device=device)
        self.target_column = torch.tensor(column, device=device)
        self.target_id = torch.tensor(token, device=device)
        self.target_weight = torch.tensor(weight, device=device) / (
            n_contexts * share[self.row_group[self.target_row]]
        )
        ending = [
            (i, len(row.ids) - 1 - row.lookup) for i, row in enumerate(everything) if row.ends
        ]
        self.end_row, self.end_column = (
            torch.tensor(ending, dtype=torch.int64, device=device).reshape(-1, 2).T
        )
        self.end_weight = hparams.v_end_factor / (n_contexts * share[self.row_group[self.end_row]])
        self.word_ends = None if word_ends is None else word_ends.to(device)
        self.base_log_p = torch.empty(0)

    # one step

    def losses(self, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The paper's three terms of every group and that of the word's end, and their gradient.

        Args:
            delta: [groups, d] float32; gets the gradient of the sum in `delta.grad`.

        Returns:
            Loss [groups] float32, NaN where a group has left the batch; the same without the
            word's end, infinite while that is not the most probable in all contexts; and whether
            it and every target token are, [groups] bool.
        """
        hp = self.hparams
        hidden = self.live.above(delta[self.row_group])
        rows = torch.cat([self.target_row, self.end_row, self.subject_row])
        at_subject = torch.zeros_like(self.subject_row)
        columns = torch.cat([self.target_column, self.end_column, at_subject])
        states = hidden[rows, columns]
        loss, without_end, leads, slope = self._head(states.detach())
        states.backward(slope)  # type: ignore[no-untyped-call]
        decay = hp.v_weight_decay * delta.norm(dim=-1) / self.h0.norm(dim=-1) ** 2
        decay[self.subject_group].sum().backward()
        return loss + decay.detach(), without_end + decay.detach(), leads

    def _head(
        self, states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `losses` returns, without decay, and the gradient at `states`.

        The vocabulary is wide, so logits and their gradient are made for a few rows at a time.
        """
        n, m = len(self.target_row), len(self.target_row) + len(self.end_row)
        loss = torch.full((self.size,), torch.nan, device=states.device)
        loss[self.subject_group] = 0
        of_end = torch.zeros_like(loss)
        no_end = torch.zeros_like(loss, dtype=torch.bool)
        leads = torch.ones(self.size, dtype=torch.bool, device=states.device)
        base: list[torch.Tensor] = []
        slopes: list[torch.Tensor] = []
        for start in range(0, len(states), HEAD_ROWS):
            rows = torch.arange(start, min(start + HEAD_ROWS, len(states)), device=states.device)
            leaf = states[rows].requires_grad_()
            log_p = functional.log_softmax(self.fast.logits(leaf).float(), dim=-1)
            target, end, subject = (
                rows[rows < n],
                rows[(rows >= n) & (rows < m)] - n,
                rows[rows >= m] - m,
            )
            mine, after, now = torch.split(log_p, [len(target), len(end), len(subject)])
            nll = -mine.gather(1, self.target_id[target, None])[:, 0] * self.target_weight[target]
            owner = self.row_group[self.target_row[target]]
            leads[owner[mine.detach().argmax(-1) != self.target_id[target]]] = False
            loss.index_add_(0, owner, nll.detach())
            total = nll.sum()
            if self.word_ends is not None and len(end):
                # -log of the probability that the word ends: all tokens that end it, together.
                left = -after.masked_fill(~self.word_ends, -torch.inf).logsumexp(-1)
                left = left * self.end_weight[end]
                owner = self.row_group[self.end_row[end]]
                no_end[owner[~self.word_ends[after.detach().argmax(-1)]]] = True
                of_end.index_add_(0, owner, left.detach())
                total = total + left.sum()
            if not len(self.base_log_p):
                base.append(now.detach())
            before = base[-1] if base else self.base_log_p[subject]
            kl = functional.kl_div(before, now, reduction="none", log_target=True).sum(-1)
            kl = kl * self.hparams.kl_factor
            loss.index_add_(0, self.subject_group[subject], kl.detach())
            (total + kl.sum()).backward()  # type: ignore[no-untyped-call]
            if leaf.grad is not None:
                slopes.append(leaf.grad)
        if base:
            self.base_log_p = torch.cat(base)
        without_end = torch.where(no_end, torch.inf, loss)
        return loss + of_end, without_end, leads & ~no_end, torch.cat(slopes)

    # the loop

    def run(self, on_step: Callable[[int, float], None]) -> list[Target]:
        """Adam on δ with clamp and stopping by group; returns z = h₀ + δ."""
        hp = self.hparams
        delta = torch.zeros_like(self.h0, requires_grad=True)
        optimizer = torch.optim.Adam([delta], lr=hp.v_lr, betas=(hp.v_beta1, hp.v_beta2))
        final = torch.full((self.size,), torch.nan, device=delta.device)
        open_ = torch.ones(self.size, dtype=torch.bool, device=delta.device)
        more = torch.full((self.size,), hp.most_grad_steps, device=delta.device)
        # Until the usual steps are over there is nothing to go back to: then NaN becomes infinity.
        usual, usual_loss = delta.detach().clone(), torch.full_like(final, torch.inf)
        for step in range(hp.most_grad_steps):
            optimizer.zero_grad()
            loss, without_end, leads = self.losses(delta)
            final = torch.where(open_, loss, final)
            if hp.v_stop_after_lead is not None:
                # ENCORE's stop: some more steps once the target leads everywhere.
                more = torch.where(leads, more.clamp_max(hp.v_stop_after_lead), more) - 1
            open_ = open_ & final.isfinite() & (without_end >= STOP_LOSS) & (more >= 0)
            if step == hp.v_num_grad_steps - 1:
                open_ = open_ & (final > HARD_LOSS)
                usual, usual_loss = delta.detach().clone(), final
            on_step(step + 1, float(final.nanmean()))
            if not open_.any() or step == hp.most_grad_steps - 1:
                break
            before = delta.detach().clone()
            optimizer.step()
            with torch.no_grad():
                delta.copy_(self._project(torch.where(open_[:, None], delta, before)))
            self._leave(open_)
        # What the extra steps made worse, or not finite, is taken back.
        worse = ~(final <= usual_loss)
        final = torch.where(worse, usual_loss, final)
        z = (self.h0 + torch.where(worse[:, None], usual, delta.detach())).cpu()
        return [Target(z[g], float(final[g])) for g in range(self.size)]

    def _leave(self, open_: torch.Tensor) -> None:
        """Pack the batch anew without the groups that are done, when enough of them are."""
        staying = open_[self.subject_group]
        if int(staying.sum()) > LEAVE_SHARE * len(staying):
            return
        rows = open_[self.row_group].nonzero()[:, 0]
        place = torch.full((len(self.row_group),), -1, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        kept = place[self.target_row] >= 0
        self.target_row = place[self.target_row[kept]]
        self.target_column, self.target_id, self.target_weight = (
            column[kept] for column in (self.target_column, self.target_id, self.target_weight)
        )
        kept = place[self.end_row] >= 0
        self.end_row = place[self.end_row[kept]]
        self.end_column, self.end_weight = self.end_column[kept], self.end_weight[kept]
        self.live = self.live.select(rows)
        self.row_group = self.row_group[rows]
        self.subject_row = place[self.subject_row[staying]]
        self.subject_group = self.subject_group[staying]
        self.base_log_p = self.base_log_p[staying]

    def _project(self, delta: torch.Tensor) -> torch.Tensor:
        """Keep ‖δ‖ ≤ clamp_norm_factor · ‖h₀‖."""
        limit = self.hparams.clamp_norm_factor * self.h0.norm(dim=-1, keepdim=True)
        norm = delta.norm(dim=-1, keepdim=True)
        return torch.where(norm > limit, delta * limit / norm.clamp_min(1e-12), delta)
