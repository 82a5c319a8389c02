"""Keys and current states at the subject's last token, for every live group (section 4.3).

Rows go through the model in canonical order and in batches of fixed size, so that the same set of
groups always gives the same bits on the same machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from memit_core.facts import Group
from memit_core.hparams import HParams
from memit_core.structure import Structure
from memit_core.tokens import Row, collate, pad_id, prompt_row
from memit_core.trace import run_until

BATCH_ROWS = 64


def group_rows(tokenizer: Any, groups: Sequence[Group], contexts: Sequence[str]) -> list[Row]:
    """Every fact of every group in every context, contexts innermost, the bare prompt first."""
    return [
        prompt_row(tokenizer, fact, context)
        for group in groups
        for fact in group.facts
        for context in contexts
    ]


@torch.no_grad()
def compute_ks(
    view: Any,
    structure: Structure,
    hparams: HParams,
    tokenizer: Any,
    groups: Sequence[Group],
    rows: Sequence[Row],
    layer: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys at `layer` and states at the last edited layer, on the weights that `view` has now.

    k is the projection's input: half the bare prompt's, half the mean over the sampled contexts,
    then the mean over the group's facts. The state is the bare prompts' mean.

    Args:
        rows: what `group_rows` gave for `groups`.

    Returns:
        K [m, groups] and H [d, groups], float64 on the CPU.
    """
    device = next(view.parameters()).device
    keys: list[torch.Tensor] = []
    states: list[torch.Tensor] = []
    for start in range(0, len(rows), BATCH_ROWS):
        batch = collate(rows[start : start + BATCH_ROWS], pad_id(tokenizer), device)
        at = (torch.arange(len(batch.lookup), device=device), batch.lookup)
        out = run_until(
            view,
            structure.blocks[hparams.layers[-1]],
            batch,
            {structure.projections[layer]: lambda k, at=at: keys.append(k[at].cpu().double())},  # type: ignore[misc]
        )
        states.append(out[at].cpu().double())
    facts = sum(len(group.facts) for group in groups)
    k = _over_contexts(torch.cat(keys).reshape(facts, len(rows) // facts, -1))
    h = torch.cat(states).reshape(facts, len(rows) // facts, -1)[:, 0]
    return _over_facts(k, groups).T, _over_facts(h, groups).T


def _over_contexts(k: torch.Tensor) -> torch.Tensor:
    """[facts, contexts, m] → [facts, m]: half bare, half sampled (the official grouping)."""
    if k.shape[1] == 1:
        return k[:, 0]
    return (k[:, 0] + k[:, 1:].mean(1)) / 2


def _over_facts(values: torch.Tensor, groups: Sequence[Group]) -> torch.Tensor:
    """[facts, n] → [groups, n], the mean over each group's facts."""
    parts = torch.split(values, [len(group.facts) for group in groups])
    return torch.stack([part.mean(0) for part in parts])
