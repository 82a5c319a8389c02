"""Run a model only as far as needed, and read what flows through its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from memit_core.model import Model
from memit_core.structure import first_tensor
from memit_core.tokens import TokenBatch


class _Stop(Exception):
    """Ends a forward whose rest nobody needs."""


@contextmanager
def hooked(handles: list[Any]) -> Iterator[None]:
    """Remove hooks at the end, whatever happens."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_until(
    model: Model,
    path: str,
    batch: TokenBatch,
    read_inputs: Mapping[str, Callable[[torch.Tensor], None]] | None = None,
) -> torch.Tensor:
    """Forward through the decoder up to the module at `path`; return its output [rows, tokens, d].

    Args:
        read_inputs: by module path, called with the first *input* of that module as it runs.
    """
    result: list[torch.Tensor] = []

    def stop(_module: Any, _args: Any, output: Any) -> None:
        result.append(first_tensor(output))
        raise _Stop

    def reader(read: Callable[[torch.Tensor], None]) -> Callable[..., None]:
        # OPT flattens rows and tokens before its projection.
        return lambda _module, args: read(args[0].reshape(*batch.input_ids.shape, -1))

    view = model.view
    handles = [
        view.get_submodule(p).register_forward_pre_hook(reader(read))
        for p, read in (read_inputs or {}).items()
    ]
    handles.append(view.get_submodule(path).register_forward_hook(stop))
    with hooked(handles):
        try:
            view.base_model(**batch.inputs(), use_cache=False)
        except _Stop:
            return result[0]
    raise RuntimeError(f"{path} did not run")


def input_of(
    module: nn.Module, forward: Callable[[], torch.Tensor], to_the_end: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What goes into `module` during `forward`, and what that returns, if it may come to its end.

    Raises:
        RuntimeError: `module` did not run.
    """
    inputs: list[torch.Tensor] = []

    def read(_module: Any, args: Any) -> None:
        inputs.append(args[0])
        if not to_the_end:
            raise _Stop

    out: torch.Tensor | None = None
    with hooked([module.register_forward_pre_hook(read)]), suppress(_Stop):
        out = forward()
    if not inputs:
        raise RuntimeError(f"{type(module).__name__} did not run")
    return inputs[0], out
