"""z on a model that has been written to, for methods that write upon what they wrote before."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from memit_core.compute_z import compute_z
from memit_core.decoder import Decoder
from memit_core.edit import Editor, stacked
from memit_core.facts import Group
from memit_core.hparams import HParams
from memit_core.model import Model
from memit_core.progress import ProgressCallback


def current_targets(
    editor: Editor,
    model: Model,
    hparams: HParams,
    groups: Sequence[Group],
    progress: ProgressCallback,
) -> torch.Tensor:
    """z of every group on the weights of `model`, [d, groups] float64; none is kept.

    Args:
        model: the editor's base, changed in no block above its last edited layer.
        hparams: with the same last layer as the editor's.

    Raises:
        InvalidFact: a fact cannot be tokenised as needed.
        NonFinite: a z is not finite; names the subjects.
        Cancelled: raised by `progress`.
    """
    preparation = editor.preparation
    _, fast = preparation.decoders()
    found = compute_z(
        (Decoder(model), fast),
        hparams,
        preparation.contexts(),
        groups,
        progress,
        chat=preparation.chat,
        max_tokens=editor.max_tokens,
        word_ends=preparation.word_ends(),
    )
    by_group = dict(found)
    return stacked(groups, [by_group[g] for g in range(len(groups))])
