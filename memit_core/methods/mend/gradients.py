"""Each matrix's input x and the gradient g of its output, token by token, for some targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.nn import functional

from memit_core.methods.mend.upper import Upper
from memit_core.tokens import Row
from memit_core.trace import hooked

Tokens = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""By module path: x [tokens, inputs] and g [tokens, outputs]."""


def token_gradients(upper: Upper, rows: Sequence[Row], paths: Iterable[str]) -> Tokens:
    """x and g of the sum over rows of their targets' loss, on the base.

    A gradient of a matrix is the sum over tokens of g ⊗ x. Tokens without any gradient, as the
    padding, are left out.
    """
    inputs: dict[str, torch.Tensor] = {}
    probes: dict[str, torch.Tensor] = {}

    def probe(path: str) -> Callable[..., torch.Tensor]:
        def hook(_module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            inputs[path] = args[0].detach()
            probes[path] = torch.zeros_like(output, requires_grad=True)
            return output + probes[path]

        return hook

    before = upper.before(rows)
    modules = [(path, upper.view.get_submodule(path)) for path in paths]
    handles = [module.register_forward_hook(probe(path)) for path, module in modules]
    with hooked(handles), torch.enable_grad():
        loss = target_losses(upper, rows, upper(before)).sum()
        found = torch.autograd.grad(loss, [probes[path] for path, _ in modules])
    return {
        path: _moved(inputs[path], gradient)
        for (path, _), gradient in zip(modules, found, strict=True)
    }


def _moved(x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    some = (x != 0).any(-1) & (g != 0).any(-1)
    return x[some], g[some]


def target_losses(upper: Upper, rows: Sequence[Row], hidden: torch.Tensor) -> torch.Tensor:
    """The mean of -log p over each row's target tokens, [rows] float32, in nats.

    Args:
        hidden: after the last block, [rows, width, d].
    """
    at = [i for i, row in enumerate(rows) for _ in row.targets]
    positions = [p for row in rows for p in row.target_positions]
    targets = torch.tensor([t for row in rows for t in row.targets], device=hidden.device)
    logits = upper.decoder.logits(hidden[at, positions])
    loss = functional.cross_entropy(logits.to(_exact(logits)), targets, reduction="none")
    counts = torch.tensor([len(row.targets) for row in rows], device=hidden.device)
    index = torch.tensor(at, device=hidden.device)
    return loss.new_zeros(len(rows)).index_add(0, index, loss) / counts


def _exact(logits: torch.Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)
