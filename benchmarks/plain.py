"""The paper's procedure without a shortcut, to be measured against: one fact at a time, full
forwards in float32, every position's logits, an inversion of the whole matrix.

Meng et al., "Mass-Editing Memory in a Transformer", ICLR 2023, section 4.3 and algorithm 1. The
rows of one fact go together; nothing else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from memit_core.edit import Editor
from memit_core.facts import Group
from memit_core.model import Model
from memit_core.structure import first_tensor
from memit_core.tokens import Row, collate, prompt_row, subject_row, target_row
from memit_core.trace import hooked
from memit_core.views import set_weight, view_of
from memit_core.z_optimisation import STOP_LOSS
from memit_core.z_rows import wordings_of


class PlainMemit:
    """MEMIT on the base, contexts, covariance and hyperparameters of an editor."""

    def __init__(self, editor: Editor) -> None:
        self.hparams = editor.hparams
        self.prepared = editor.prepare()
        self.model = editor.base
        self.tokenizer = self.model.tokenizer
        self.last_block = self.model.structure.blocks[self.hparams.layers[-1]]

    def compute_z(self, group: Group) -> torch.Tensor:
        """z of one group of one fact, [d]."""
        hp = self.hparams
        (fact,) = group.facts
        chat = self.prepared.chat
        facts = []
        for asked in wordings_of(self.tokenizer, fact, hp.question_wording):
            facts += [
                target_row(self.tokenizer, asked, prefix) for prefix in self.prepared.contexts
            ]
            if chat is not None:
                facts.append(target_row(self.tokenizer, asked, chat.before, chat.after))
        rows = [*facts, subject_row(self.tokenizer, fact)]
        batch = collate(rows, self.model.device)
        every = torch.arange(len(rows))
        delta = torch.zeros(self.model.structure.hidden, requires_grad=True)
        optimizer = torch.optim.Adam([delta], lr=hp.v_lr, betas=(hp.v_beta1, hp.v_beta2))
        h0 = torch.zeros(0)
        base_log_p = torch.zeros(0)

        def add(_module: Any, _args: Any, output: Any) -> Any:
            nonlocal h0
            hidden = first_tensor(output)
            if not len(h0):
                h0 = hidden[0, batch.lookup[0]].detach().clone()
            hidden = hidden.clone()
            hidden[every, batch.lookup] += delta
            return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

        view = self.model.view
        block = view.get_submodule(self.last_block)
        for step in range(hp.v_num_grad_steps):
            with hooked([block.register_forward_hook(add)]):
                log_p = view(**batch.inputs(), use_cache=False).logits.log_softmax(-1)
            subject = log_p[-1, batch.lookup[-1]]
            if not step:
                base_log_p = subject.detach()
            nll = -torch.stack([_target_log_p(log_p[i], row) for i, row in enumerate(facts)]).mean()
            kl = functional.kl_div(base_log_p, subject, reduction="sum", log_target=True)
            decay = hp.v_weight_decay * delta.norm() / h0.norm() ** 2
            loss = nll + hp.kl_factor * kl + decay
            if loss < STOP_LOSS or step == hp.v_num_grad_steps - 1:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            longest = hp.clamp_norm_factor * h0.norm()
            with torch.no_grad():
                if delta.norm() > longest:
                    delta.mul_(longest / delta.norm())
        return (h0 + delta).detach()

    @torch.no_grad()
    def insert(self, groups: Sequence[Group], z: Sequence[torch.Tensor]) -> Model:
        """The edited model; algorithm 1, every key and state from a full forward of one fact."""
        hp, structure = self.hparams, self.model.structure
        covariance = self.prepared.covariance
        view = view_of(self.model.view)
        for i, layer in enumerate(hp.layers):
            found = [self._key_and_state(view, group, layer) for group in groups]
            keys = torch.stack([key for key, _ in found], dim=1).double()
            states = torch.stack([state for _, state in found], dim=1).double()
            residual = (torch.stack(list(z), dim=1).double() - states) / (len(hp.layers) - i)
            a = hp.mom2_update_weight * covariance[layer].double() + keys @ keys.T
            delta = residual @ torch.linalg.solve(a, keys).T
            path = structure.projections[layer]
            old = view.get_submodule(path).weight
            new = old.double() + (delta.T if structure.transposed else delta)
            set_weight(view, path, new.to(old.dtype).contiguous())
        return self.model.with_view(view)

    def _key_and_state(
        self, view: Any, group: Group, layer: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """k [m] at a layer and h [d] at the last edited one, of one fact."""
        rows = [prompt_row(self.tokenizer, group.facts[0], c) for c in self.prepared.prefixes]
        batch = collate(rows, self.model.device)
        at = (torch.arange(len(rows)), batch.lookup)
        read: dict[str, torch.Tensor] = {}

        def key(_module: Any, args: Any, _output: Any) -> None:
            read["key"] = args[0][at]

        def state(_module: Any, _args: Any, output: Any) -> None:
            read["state"] = first_tensor(output)[at][0]

        block = view.get_submodule(self.last_block)
        projection = view.get_submodule(self.model.structure.projections[layer])
        with hooked([projection.register_forward_hook(key), block.register_forward_hook(state)]):
            view(**batch.inputs(), use_cache=False)
        keys = read["key"]
        return (keys[0] + keys[1:].mean(0)) / 2, read["state"]


def _target_log_p(log_p: torch.Tensor, row: Row) -> torch.Tensor:
    """Mean log-probability of the target's tokens, from [width, vocabulary]."""
    targets = torch.tensor(row.targets)[:, None]
    return log_p[list(row.target_positions)].gather(1, targets).mean()
