"""Which states of a batch the z loss is read off, how much each counts, and whose it is.

The rows of a batch are those of its facts, context by context, then each group's subject. Groups
that are done leave it: those that stay keep their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import torch

from memit_core.hparams import HParams
from memit_core.z_rows import GroupRows, rows_by_context


@dataclass(frozen=True)
class Reads:
    """The states that one term of the loss is read off: [n] each, int64 but for the weight."""

    row: torch.Tensor
    column: torch.Tensor
    """Tokens after the subject's last one."""
    group: torch.Tensor
    weight: torch.Tensor
    """float32; those of a group's targets sum to 1."""

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, part: slice) -> Reads:
        return Reads(self.row[part], self.column[part], self.group[part], self.weight[part])

    def select(self, keep: torch.Tensor, place: torch.Tensor) -> Reads:
        """Those of the groups that stay.

        Args:
            keep: [groups] bool.
            place: [rows] int64, the new number of each row.
        """
        kept = keep[self.group]
        row, column = place[self.row[kept]], self.column[kept]
        return Reads(row, column, self.group[kept], self.weight[kept])


@dataclass(frozen=True)
class ZIndex:
    """Every state that the loss is read off: of targets, then of words' ends, then of subjects."""

    row_group: torch.Tensor
    """[rows] int64: the group of every row."""
    targets: Reads
    target_ids: torch.Tensor
    """[targets] int64: the token that is to be predicted there."""
    ends: Reads
    """The last token of every target whose end is learned."""
    subjects: Reads
    """The subject's last token in each group's KL row."""

    @classmethod
    def of(cls, groups: Sequence[GroupRows], hparams: HParams, device: torch.device) -> ZIndex:
        """The index of a batch in which nobody is done."""
        by_context = rows_by_context(groups)
        rows = list(chain.from_iterable(by_context))
        owner = [
            g
            for c in range(len(by_context))
            for g, group in enumerate(groups)
            for _ in group.facts[c]
        ]
        own = torch.arange(len(groups), device=device)
        row_group = torch.cat([torch.tensor(owner, device=device), own])
        # Of a group's loss, every fact in every context and wording has the same share.
        shares = torch.bincount(row_group[: len(owner)], minlength=len(groups))
        flat = [
            (i, position - row.lookup, token, 1 / len(row.targets))
            for i, row in enumerate(rows)
            for position, token in zip(row.target_positions, row.targets, strict=True)
        ]
        at, columns, tokens, weights = zip(*flat, strict=True)
        target_row = torch.tensor(at, device=device)
        target_group = row_group[target_row]
        targets = Reads(
            target_row,
            torch.tensor(columns, device=device),
            target_group,
            torch.tensor(weights, device=device) / shares[target_group],
        )
        ending = [(i, len(row.ids) - 1 - row.lookup) for i, row in enumerate(rows) if row.ends]
        end_row, end_column = (
            torch.tensor(ending, dtype=torch.int64, device=device).reshape(-1, 2).T
        )
        end_group = row_group[end_row]
        ends = Reads(end_row, end_column, end_group, hparams.v_end_factor / shares[end_group])
        kl_factor = torch.full_like(own, hparams.kl_factor, dtype=torch.float32)
        subjects = Reads(len(rows) + own, torch.zeros_like(own), own, kl_factor)
        return cls(row_group, targets, torch.tensor(tokens, device=device), ends, subjects)

    def rows(self, keep: torch.Tensor) -> torch.Tensor:
        """Numbers of the rows of the groups that stay, int64; `keep`: [groups] bool."""
        return keep[self.row_group].nonzero()[:, 0]

    def select(self, keep: torch.Tensor) -> ZIndex:
        """The index of those rows alone."""
        rows = self.rows(keep)
        place = torch.full((len(self.row_group),), -1, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        return ZIndex(
            self.row_group[rows],
            self.targets.select(keep, place),
            self.target_ids[keep[self.targets.group]],
            self.ends.select(keep, place),
            self.subjects.select(keep, place),
        )

    def read(self, hidden: torch.Tensor) -> torch.Tensor:
        """States after the last block, [rows, width, d] → [n, d] at targets, ends, subjects."""
        terms = (self.targets, self.ends, self.subjects)
        rows = torch.cat([term.row for term in terms])
        return hidden[rows, torch.cat([term.column for term in terms])]

    def parts(self, start: int, stop: int) -> tuple[slice, slice, slice]:
        """Which targets, ends and subjects are among `start:stop` of what `read` gives."""
        bounds = [0]
        for term in (self.targets, self.ends, self.subjects):
            bounds.append(bounds[-1] + len(term))
        targets, ends, subjects = (
            slice(min(max(start, low), high) - low, min(max(stop, low), high) - low)
            for low, high in pairwise(bounds)
        )
        return targets, ends, subjects
