"""Find, in the model itself, what MEMIT needs: blocks, MLP output projections, norm and head.

Nothing is looked up by architecture name. One forward over a few tokens records which modules run
and in what order; what was found is then checked by recomputing the model's own logits from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from memit_core.errors import UnsupportedModel
from memit_core.views import view_of

PROBE_TOKENS = 4


@dataclass(frozen=True)
class Structure:
    """Where things are in a decoder; all paths are for `model.get_submodule`."""

    blocks: tuple[str, ...]
    projections: tuple[str, ...]
    """The MLP output projection of each block: the matrix that MEMIT edits."""
    transposed: bool
    """True for Conv1D: its weight is [intermediate, hidden]; a Linear's is the other way round."""
    norm: str
    head: str
    hidden: int
    intermediate: int


def first_tensor(output: Any) -> torch.Tensor:
    """The hidden states of a block's output, which is a tensor or a tuple that begins with one."""
    return output if isinstance(output, torch.Tensor) else output[0]


def discover(model: Any) -> Structure:
    """Read a decoder's structure off the model.

    Raises:
        UnsupportedModel: says what was not found.
    """
    name = type(model).__name__
    blocks = _find_blocks(model, name)
    head = model.get_output_embeddings()
    if head is None:
        raise UnsupportedModel(f"{name}: no output embeddings (language-model head) were found")
    calls = _probe(model, blocks)
    projections = tuple(_find_projection(model, path, calls, name) for path in blocks)
    modules = [model.get_submodule(p) for p in projections]
    transposed = {isinstance(m, Conv1D) for m in modules}
    shapes = {tuple(m.weight.shape) for m in modules}
    if len(transposed) > 1 or len(shapes) > 1:
        raise UnsupportedModel(f"{name}: MLP output projections differ from block to block")
    rows, columns = shapes.pop()
    is_transposed = transposed.pop()
    hidden, intermediate = (columns, rows) if is_transposed else (rows, columns)
    head_path = next(path for path, module in model.named_modules() if module is head)
    structure = Structure(
        blocks=blocks,
        projections=projections,
        transposed=is_transposed,
        norm=_find_norm(blocks, head_path, hidden, calls, name),
        head=head_path,
        hidden=hidden,
        intermediate=intermediate,
    )
    _verify(model, structure, name)
    return structure


def _find_blocks(model: Any, name: str) -> tuple[str, ...]:
    """Paths of the decoder blocks: the module list as long as the config has layers."""
    layers = getattr(model.config, "num_hidden_layers", None)
    for path, module in model.named_modules():
        if not (isinstance(module, nn.ModuleList) and layers and len(module) == layers):
            continue
        if len({type(block) for block in module}) == 1:
            return tuple(f"{path}.{i}" for i in range(len(module)))
    raise UnsupportedModel(f"{name}: no list of {layers} like decoder blocks was found")


Call = tuple[str, nn.Module, tuple[int, ...]]


def _probe(model: Any, blocks: tuple[str, ...]) -> list[Call]:
    """Run a view over a few tokens; return (path, module, output shape) in order of completion."""
    view = view_of(model)
    calls: list[Call] = []

    def record(path: str) -> Any:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            tensor = first_tensor(output) if isinstance(output, (torch.Tensor, tuple)) else None
            if isinstance(tensor, torch.Tensor):
                calls.append((path, module, tuple(tensor.shape)))

        return hook

    for path, module in view.named_modules():
        if path in blocks or not any(module.children()):
            module.register_forward_hook(record(path))
    _probe_logits(view)
    return calls


def _probe_logits(view: Any) -> torch.Tensor:
    device = next(view.parameters()).device
    ids = torch.arange(PROBE_TOKENS, device=device)[None] % view.config.vocab_size
    with torch.no_grad():
        logits: torch.Tensor = view(input_ids=ids, use_cache=False).logits
    return logits


def _find_projection(model: Any, block: str, calls: list[Call], name: str) -> str:
    """The last linear map of the block, outside attention, that gives the hidden width."""
    hidden = model.config.get_text_config().hidden_size
    linear = [
        path
        for path, module, shape in calls
        if path.startswith(f"{block}.")
        and isinstance(module, (nn.Linear, Conv1D))
        and shape[-1] == hidden
        and not any("attn" in part or "attention" in part for part in path.split("."))
    ]
    experts = [p for p, _ in model.get_submodule(block).named_modules() if "expert" in p]
    if experts:
        raise UnsupportedModel(
            f"{name}: {block}.{experts[0]} is a mixture of experts; "
            "MEMIT needs one MLP output projection per block"
        )
    if not linear:
        raise UnsupportedModel(
            f"{name}: no MLP output projection (a linear map to width {hidden}) in {block}"
        )
    return linear[-1]


def _find_norm(
    blocks: tuple[str, ...], head: str, hidden: int, calls: list[Call], name: str
) -> str:
    order = [path for path, _, _ in calls]
    last_block, head_call = order.index(blocks[-1]), order.index(head)
    between = [path for path, _, shape in calls[last_block + 1 : head_call] if shape[-1] == hidden]
    if len(between) != 1:
        found = ", ".join(between) or "nothing"
        raise UnsupportedModel(
            f"{name}: expected one final norm between the last block and the head, found {found}"
        )
    return between[0]


def _verify(model: Any, structure: Structure, name: str) -> None:
    """Check that head(norm(last block's output)) is what the model answers."""
    view = view_of(model)
    last: list[torch.Tensor] = []
    view.get_submodule(structure.blocks[-1]).register_forward_hook(
        lambda _module, _args, output: last.append(first_tensor(output))
    )
    logits = _probe_logits(view)
    with torch.no_grad():
        ours = view.get_submodule(structure.head)(view.get_submodule(structure.norm)(last[0]))
    if not torch.allclose(ours.float(), logits.float(), rtol=1e-3, atol=1e-3):
        raise UnsupportedModel(
            f"{name}: its logits are not head(norm(hidden)): it scales or caps them in a way "
            "that is not supported yet"
        )
