"""Find, in the model itself, what MEMIT needs: its blocks and their MLP output projections.

Nothing is looked up by architecture name. One forward over a few tokens records which modules run
and in what order; what was found is then checked by running the model block by block, in two
parts, and comparing with its own logits.
"""

from __future__ import annotations

from math import isfinite
from statistics import median
from typing import Any

import torch
from torch import nn

from memit_core.decoder import Decoder
from memit_core.discover_carry import Call as BlockCall
from memit_core.discover_carry import find_carry
from memit_core.errors import UnsupportedModel
from memit_core.live import live_rows
from memit_core.model import Model
from memit_core.refusing import refusing
from memit_core.structure import Structure, first_tensor
from memit_core.tokens import Row
from memit_core.transformers_internals import Conv1D, cache_argument
from memit_core.views import view_of

PROBE_TOKENS = 6
PROBE_ROWS = ((1, 6), (2, 6), (0, 4), (3, 6), (1, 4))
"""Beginning and end, in the probe's tokens, of rows beside the whole."""
LIMITS = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}
"""How far logits may be from the model's own, relative to their norm, by precision: in every row,
but of half precision in most rows. Single rows of a deep model differ wholly by rounding there:
whether a first token becomes an attention sink can hang on it."""


def discover(model: Any) -> Structure:
    """Read a decoder's structure off the model.

    Raises:
        UnsupportedModel: says what was not found.
    """
    name = type(model).__name__
    blocks = _find_blocks(model, name)
    if model.get_output_embeddings() is None:
        raise UnsupportedModel(f"{name}: no output embeddings (language-model head) were found")
    argument = cache_argument(model.base_model)
    with refusing(f"{name}: one forward over {PROBE_TOKENS} tokens"):
        calls, block_calls, returns_tuple = _probe(model, blocks)
    projections = tuple(_find_projection(model, path, calls, name) for path in blocks)
    modules = [model.get_submodule(p) for p in projections]
    transposed = {isinstance(m, Conv1D) for m in modules}
    shapes = {tuple(m.weight.shape) for m in modules}
    if len(transposed) > 1 or len(shapes) > 1:
        raise UnsupportedModel(f"{name}: MLP output projections differ from block to block")
    rows, columns = shapes.pop()
    is_transposed = transposed.pop()
    hidden, intermediate = (columns, rows) if is_transposed else (rows, columns)
    with refusing(f"{name}: one block by itself"):
        carry = find_carry(model, blocks, projections, block_calls)
    structure = Structure(
        blocks=blocks,
        projections=projections,
        transposed=is_transposed,
        returns_tuple=returns_tuple,
        hidden=hidden,
        intermediate=intermediate,
        carry=carry,
    )
    tried = f"a run block by block, with the tokens before given as {argument!r}"
    with refusing(f"{name}: {tried}"):
        base = Model(view_of(model), structure, tokenizer=None)  # no text is read
        verify(base, Decoder(base), len(blocks) // 2 - 1)
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


def _probe(model: Any, blocks: tuple[str, ...]) -> tuple[list[Call], dict[str, BlockCall], bool]:
    """Run a view over a few tokens.

    Returns:
        (path, module, output shape) of what is no block, in order of completion; the arguments of
        each block; and whether blocks return tuples.
    """
    view = view_of(model)
    calls: list[Call] = []
    block_calls: dict[str, BlockCall] = {}
    tuples: list[bool] = []

    def keep(path: str) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            block_calls[path] = (args, kwargs)
            tuples.append(isinstance(output, tuple))

        return hook

    def record(path: str) -> Any:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            tensor = first_tensor(output) if isinstance(output, (torch.Tensor, tuple)) else None
            if isinstance(tensor, torch.Tensor):
                calls.append((path, module, tuple(tensor.shape)))

        return hook

    for path, module in view.named_modules():
        if path in blocks:
            module.register_forward_hook(keep(path), with_kwargs=True)
        elif not any(module.children()):
            module.register_forward_hook(record(path))
    _logits(view, _probe_ids(view))
    return calls, block_calls, all(tuples)


def _probe_ids(model: Any) -> torch.Tensor:
    device = next(model.parameters()).device
    # All over the vocabulary: its beginning holds special tokens, after which models run wild.
    size = int(model.config.vocab_size)
    step = max(1, size // (PROBE_TOKENS + 1))
    return torch.arange(1, PROBE_TOKENS + 1, device=device)[None] * step % size


@torch.no_grad()
def _logits(view: Any, ids: torch.Tensor) -> torch.Tensor:
    """ids [1, tokens] → [tokens, vocabulary]."""
    logits: torch.Tensor = view(
        input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
    ).logits[0]
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


@torch.no_grad()
def verify(base: Model, upper: Decoder, layer: int) -> None:
    """Check that rows taken apart at `layer` give the model's own logits.

    Rows of different length, whose last tokens run with the earlier ones as their constant past:
    layout, masks, positions and head are all put to use.

    Args:
        base: runs the blocks up to `layer`, and is run whole for its own logits.
        upper: runs the blocks above `layer`.

    Raises:
        UnsupportedModel: they do not.
    """
    ids = tuple(_probe_ids(base.view)[0].tolist())
    rows = [Row(ids, 3), *(Row(ids[start:end], 1) for start, end in PROBE_ROWS), Row(ids[:2], 0)]
    live, _ = live_rows(Decoder(base), upper, [rows], layer)
    nothing = torch.zeros(len(rows), base.structure.hidden, device=base.device_of(layer))
    hidden = live.above(nothing)
    errors = []
    for row, states in zip(rows, hidden, strict=True):
        ours = upper.logits(states[: len(row.ids) - row.lookup]).float()
        alone = torch.tensor([row.ids], device=base.device)
        theirs = _logits(base.view, alone)[row.lookup :].float()
        errors.append(float((ours - theirs).norm() / theirs.norm()))
    error = median(errors) if upper.dtype.itemsize == 2 else max(errors)
    if not (all(map(isfinite, errors)) and error <= LIMITS[upper.dtype]):
        name, dtype = type(base.view).__name__, str(upper.dtype).removeprefix("torch.")
        raise UnsupportedModel(
            f"{name}: run block by block in {dtype} "
            f"it does not give its own logits (relative error {error:.2g})"
        )
