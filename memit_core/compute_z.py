"""z: the hidden state at the last edited layer that makes the model say the new facts.

Section 4.3 of the paper, for many groups at once: here they are put into batches that memory holds,
and `memit_core.z_optimisation` finds the z of a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import torch

from memit_core.chat_context import ChatContext
from memit_core.decoder import Decoder
from memit_core.errors import OutOfMemory
from memit_core.facts import Group
from memit_core.hparams import HParams
from memit_core.precision import memory_budget, out_of_memory
from memit_core.progress import ProgressCallback
from memit_core.z_optimisation import Optimisation, Target
from memit_core.z_rows import GroupRows, group_rows

log = logging.getLogger(__name__)


def compute_z(
    decoders: tuple[Decoder, Decoder],
    hparams: HParams,
    contexts: Sequence[str],
    groups: Sequence[Group],
    progress: ProgressCallback,
    *,
    chat: ChatContext | None = None,
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
        chat: one context more, see `group_rows`.
        max_tokens: longest prompt and target together.
        batch_tokens: live tokens of a batch; by default what free memory holds.
        word_ends: tokens that end a word, bool [vocabulary]; needed where hparams have a
            v_end_factor.

    Raises:
        InvalidFact: a fact cannot be tokenised as needed.
        OutOfMemory: not even one group fits.
        Cancelled: raised by `progress`.
    """
    exact, fast = decoders
    ends = word_ends is not None and hparams.v_end_factor > 0
    tokenizer, steps = exact.model.tokenizer, hparams.v_num_grad_steps
    question = hparams.question_wording
    rows = [
        group_rows(tokenizer, group, contexts, max_tokens, ends, chat, question) for group in groups
    ]
    progress("z", 0, len(groups) * steps)
    waiting = sorted(range(len(groups)), key=lambda g: rows[g].shape)
    budget = batch_tokens or memory_budget(fast, fast.depth - 1 - hparams.layers[-1])
    while waiting:
        batch = _first_batch(waiting, rows, budget)
        done = len(groups) - len(waiting)
        on_step = _reporter(progress, done, len(batch), len(groups), steps)
        try:
            # Not bound to a name: a batch's memory is free before the next one takes its own.
            chosen = [rows[g] for g in batch]
            targets = Optimisation(exact, fast, hparams, chosen, word_ends).run(on_step)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise OutOfMemory("z", [groups[batch[0]].subject]) from error
            budget = sum(rows[g].live for g in batch) // 2
            log.warning("out of memory at %d facts a batch: going on with half", len(batch))
            continue
        yield from zip(batch, targets, strict=True)
        waiting = waiting[len(batch) :]
        progress("z", (len(groups) - len(waiting)) * steps, len(groups) * steps)


def _reporter(
    progress: ProgressCallback, before: int, size: int, total: int, steps: int
) -> Callable[[int, float], None]:
    """Progress in steps of a fact, so that a single one moves too; one short of a batch's end until
    it is reached, since some groups take more steps than the others."""

    def report(step: int, loss: float) -> None:
        done = min(step * size, steps * size - 1)
        progress("z", before * steps + done, total * steps, loss=loss)

    return report


def _first_batch(waiting: Sequence[int], rows: Sequence[GroupRows], budget: int) -> list[int]:
    """As many of the first groups as have at most `budget` live tokens, padded; at least one."""
    count = width = size = 0
    for size, g in enumerate(waiting):
        count += 1 + sum(len(context) for context in rows[g].facts)
        width = max(width, rows[g].shape[0])
        if size and count * width > budget:
            return list(waiting[:size])
    return list(waiting[: size + 1])
