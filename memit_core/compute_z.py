"""z: the hidden state at the last edited layer that makes the model say the new facts.

Section 4.3 of the paper, for many groups at once. What a step recomputes is only what depends on
δ: the blocks above the last edited layer, and the head at the positions of the targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from memit_core.errors import InvalidFact
from memit_core.facts import Group
from memit_core.hparams import HParams
from memit_core.progress import Progress
from memit_core.structure import Structure, first_tensor
from memit_core.tokens import Row, collate, pad_id, subject_row, target_row
from memit_core.trace import hooked

STOP_LOSS = 0.05
BATCH_TOKENS = 2_048
MAX_GROUP_TOKENS = 16 * BATCH_TOKENS
"""A group is optimised whole: its rows and their gradients are in memory together."""


@dataclass(frozen=True)
class Target:
    """z of one group, [d] float32 on the CPU, and the loss it ended with (NaN: it failed)."""

    z: torch.Tensor
    loss: float

    @property
    def finite(self) -> bool:
        return bool(self.z.isfinite().all()) and self.loss == self.loss


@dataclass(frozen=True)
class _Rows:
    """The sequences of one group: every fact in every context, then the subject's KL row."""

    rows: list[Row]
    bare: list[int]
    """Indices of the rows without a context, one a fact: their state is h₀."""


def compute_z(
    view: Any,
    structure: Structure,
    hparams: HParams,
    tokenizer: Any,
    contexts: Sequence[str],
    groups: Sequence[Group],
    progress: Progress,
    *,
    max_tokens: int | None = None,
) -> list[Target]:
    """Optimise z for each group, in batches; a group's result does not depend on its batch.

    Args:
        view: a view of the base model with unedited weights.
        contexts: prefixes, the empty one first.
        max_tokens: longest prompt and target together.

    Raises:
        InvalidFact: a fact cannot be tokenised as needed.
        Cancelled: raised by `progress`.
    """
    targets: list[Target] = []
    for batch in _batches([_rows(tokenizer, group, contexts, max_tokens) for group in groups]):
        targets += _Optimisation(view, structure, hparams, tokenizer, len(contexts), batch).run(
            lambda step, loss: progress(
                "z",
                len(targets) * hparams.v_num_grad_steps + step * len(batch),  # noqa: B023
                len(groups) * hparams.v_num_grad_steps,
                loss=loss,
            )
        )
    return targets


def _rows(tokenizer: Any, group: Group, contexts: Sequence[str], max_tokens: int | None) -> _Rows:
    rows = [
        target_row(tokenizer, fact, context, max_tokens=max_tokens if not context else None)
        for fact in group.facts
        for context in contexts
    ]
    bare = list(range(0, len(rows), len(contexts)))
    tokens = len(rows) * max(len(row.ids) for row in rows)
    if tokens > MAX_GROUP_TOKENS:
        raise InvalidFact(
            f"has {len(group.facts)} live facts, {tokens} tokens in all their contexts, "
            f"of which at most {MAX_GROUP_TOKENS} can be optimised together",
            subject=group.subject,
            field="subject",
            limit=MAX_GROUP_TOKENS,
        )
    return _Rows([*rows, subject_row(tokenizer, group.facts[0])], bare)


def _batches(groups: Sequence[_Rows]) -> list[list[_Rows]]:
    """Cut the groups into batches of at most `BATCH_TOKENS` padded tokens, or one group each."""
    batches: list[list[_Rows]] = []
    rows = width = 0
    for group in groups:
        rows += len(group.rows)
        width = max(width, *(len(row.ids) for row in group.rows))
        if not batches or rows * width > BATCH_TOKENS:
            batches.append([])
            rows, width = len(group.rows), max(len(row.ids) for row in group.rows)
        batches[-1].append(group)
    return batches


class _Optimisation:
    """One batch of groups: the constants of the optimisation, and its loop."""

    def __init__(
        self,
        view: Any,
        structure: Structure,
        hparams: HParams,
        tokenizer: Any,
        n_contexts: int,
        groups: Sequence[_Rows],
    ) -> None:
        self.hparams = hparams
        self.norm = view.get_submodule(structure.norm)
        self.head = view.get_submodule(structure.head)
        self.upper = [view.get_submodule(p) for p in structure.blocks[hparams.layers[-1] + 1 :]]
        device = next(view.parameters()).device
        rows = [row for group in groups for row in group.rows]
        self.size = len(groups)
        self.batch = collate(rows, pad_id(tokenizer), device)
        self.group_of_row = torch.tensor(
            [g for g, group in enumerate(groups) for _ in group.rows], device=device
        )
        self._index_targets(groups, n_contexts, device)
        self.hidden, self.calls = self._lower(view, structure)
        states = self.hidden[torch.arange(len(rows), device=device), self.batch.lookup].float()
        starts = self.kl_rows - torch.tensor([len(g.rows) - 1 for g in groups], device=device)
        self.h0 = torch.stack(
            [
                states[start + torch.tensor(group.bare, device=device)].mean(0)
                for start, group in zip(starts, groups, strict=True)
            ]
        )

    def _index_targets(
        self, groups: Sequence[_Rows], n_contexts: int, device: torch.device
    ) -> None:
        """Flat lists over all target tokens: row, position, id, weight in the NLL, group."""
        flat: list[tuple[int, int, int, float, int]] = []
        kl_rows: list[int] = []
        at = 0
        for g, group in enumerate(groups):
            for row in group.rows[:-1]:
                weight = 1 / (len(row.targets) * n_contexts * len(group.bare))
                flat += [
                    (at, position, token, weight, g)
                    for position, token in zip(row.target_positions, row.targets, strict=True)
                ]
                at += 1
            kl_rows.append(at)
            at += 1
        self.kl_rows = torch.tensor(kl_rows, device=device)
        columns = list(zip(*flat, strict=True))
        self.target_row, self.target_position, self.target_id = (
            torch.tensor(column, device=device) for column in columns[:3]
        )
        self.target_weight = torch.tensor(columns[3], device=device)
        self.target_group = torch.tensor(columns[4], device=device)

    @torch.no_grad()
    def _lower(
        self, view: Any, structure: Structure
    ) -> tuple[torch.Tensor, list[tuple[tuple[Any, ...], dict[str, Any]]]]:
        """One full forward: the states below which nothing depends on δ, and how blocks are called.

        What a block gets besides hidden states (masks, rotary embeddings) stays the same in every
        step, so the blocks above are called again with it.
        """
        states: list[torch.Tensor] = []
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        last = view.get_submodule(structure.blocks[self.hparams.layers[-1]])
        handles = [
            last.register_forward_hook(lambda _m, _a, out: states.append(first_tensor(out))),
            *(
                block.register_forward_pre_hook(
                    lambda _m, args, kwargs: calls.append((args, dict(kwargs))), with_kwargs=True
                )
                for block in self.upper
            ),
        ]
        with hooked(handles):
            view.base_model(**self.batch.inputs(), use_cache=False)
        return states[0].detach(), calls

    def _logits(self, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities with δ [groups, d] added at every subject's last token.

        Returns:
            [target tokens, vocabulary] and, at the KL rows, [groups, vocabulary]; float32.
        """
        rows = torch.arange(len(self.batch.lookup), device=delta.device)
        added = delta[self.group_of_row].to(self.hidden.dtype)
        hidden = self.hidden.index_put((rows, self.batch.lookup), added, accumulate=True)
        for block, (args, kwargs) in zip(self.upper, self.calls, strict=True):
            if args:
                hidden = first_tensor(block(hidden, *args[1:], **kwargs))
            else:
                hidden = first_tensor(block(**{**kwargs, "hidden_states": hidden}))
        wanted_rows = torch.cat([self.target_row, self.kl_rows])
        positions = torch.cat([self.target_position, self.batch.lookup[self.kl_rows]])
        logits = self.head(self.norm(hidden[wanted_rows, positions])).float()
        log_p = functional.log_softmax(logits, dim=-1)
        return log_p[: len(self.target_row)], log_p[len(self.target_row) :]

    def losses(
        self, delta: torch.Tensor, kl_base: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The paper's three terms, [groups] float32, and log p of the KL rows at δ = 0."""
        hp = self.hparams
        log_p, kl_rows = self._logits(delta)
        gathered = log_p.gather(1, self.target_id[:, None])[:, 0] * self.target_weight
        nll = -torch.zeros(self.size, device=delta.device).index_add(0, self.target_group, gathered)
        base = kl_rows.detach() if kl_base is None else kl_base
        kl = functional.kl_div(base, kl_rows, reduction="none", log_target=True).sum(-1)
        decay = delta.norm(dim=-1) / self.h0.norm(dim=-1) ** 2
        return nll + hp.kl_factor * kl + hp.v_weight_decay * decay, base

    def run(self, on_step: Any) -> list[Target]:
        """Adam on δ with clamp and stopping by group; returns z = h₀ + δ."""
        hp = self.hparams
        delta = torch.zeros_like(self.h0, requires_grad=True)
        optimizer = torch.optim.Adam([delta], lr=hp.v_lr)
        open_ = torch.ones(self.size, dtype=torch.bool, device=delta.device)
        final = torch.full((self.size,), torch.nan, device=delta.device)
        kl_base: torch.Tensor | None = None
        for step in range(hp.v_num_grad_steps):
            loss, kl_base = self.losses(delta, kl_base)
            final = torch.where(open_, loss.detach(), final)
            open_ = open_ & final.isfinite() & (final >= STOP_LOSS)
            on_step(step + 1, float(final.nanmean()))
            if not open_.any() or step == hp.v_num_grad_steps - 1:
                break
            optimizer.zero_grad()
            loss[open_].sum().backward()  # type: ignore[no-untyped-call]
            before = delta.detach().clone()
            optimizer.step()
            with torch.no_grad():
                delta.copy_(self._project(torch.where(open_[:, None], delta, before)))
        z = (self.h0 + delta.detach()).cpu()
        return [Target(z[g], float(final[g])) for g in range(self.size)]

    def _project(self, delta: torch.Tensor) -> torch.Tensor:
        """Keep ‖δ‖ ≤ clamp_norm_factor · ‖h₀‖."""
        limit = self.hparams.clamp_norm_factor * self.h0.norm(dim=-1, keepdim=True)
        norm = delta.norm(dim=-1, keepdim=True)
        return torch.where(norm > limit, delta * limit / norm.clamp_min(1e-12), delta)
