"""What the z optimisation minimises: the terms of the loss, and how they stand by group.

Each term is added to its groups' losses, and its sum is returned to be differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from memit_core.z_index import Reads


@dataclass
class Losses:
    """Of every group after one forward: [groups] each, float32 or bool."""

    read: torch.Tensor
    """The first two terms: targets and KL; NaN where a group has left the batch."""
    end: torch.Tensor
    """That of the word's end."""
    decay: torch.Tensor
    leads: torch.Tensor
    """Whether every token of the target is the most probable one in all contexts."""
    ends: torch.Tensor
    """Whether the most probable token after the target ends its word; true where none is read."""

    @classmethod
    def nothing_read(cls, size: int, present: torch.Tensor) -> Losses:
        """To be added to; `present`: numbers of the groups that are in the batch, int64."""
        read = torch.full((size,), torch.nan, device=present.device)
        read[present] = 0
        yes = torch.ones(size, dtype=torch.bool, device=present.device)
        return cls(read, torch.zeros_like(read), torch.zeros_like(read), yes, yes.clone())

    @property
    def total(self) -> torch.Tensor:
        return self.read + self.end + self.decay

    @property
    def paper(self) -> torch.Tensor:
        """The paper's three terms; infinite while the word does not end."""
        return torch.where(self.ends, self.read, torch.inf) + self.decay


def target_term(
    log_p: torch.Tensor, ids: torch.Tensor, reads: Reads, losses: Losses
) -> torch.Tensor:
    """-log p of each target's tokens `ids` [n]; log_p: [n, vocabulary]."""
    nll = -log_p.gather(1, ids[:, None])[:, 0] * reads.weight
    losses.leads[reads.group[log_p.detach().argmax(-1) != ids]] = False
    losses.read.index_add_(0, reads.group, nll.detach())
    return nll.sum()


def end_term(
    log_p: torch.Tensor, word_ends: torch.Tensor, reads: Reads, losses: Losses
) -> torch.Tensor:
    """-log of the probability that the word ends: of all tokens that end it, together."""
    nll = -log_p.masked_fill(~word_ends, -torch.inf).logsumexp(-1) * reads.weight
    losses.ends[reads.group[~word_ends[log_p.detach().argmax(-1)]]] = False
    losses.end.index_add_(0, reads.group, nll.detach())
    return nll.sum()


def kl_term(
    log_p: torch.Tensor, unedited: torch.Tensor, reads: Reads, losses: Losses
) -> torch.Tensor:
    """KL(edited ‖ unedited) of the next token; both [n, vocabulary], log-probabilities."""
    kl = functional.kl_div(unedited, log_p, reduction="none", log_target=True).sum(-1)
    kl = kl * reads.weight
    losses.read.index_add_(0, reads.group, kl.detach())
    return kl.sum()
