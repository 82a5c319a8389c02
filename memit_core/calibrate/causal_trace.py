"""Causal tracing: what brings a fact back after its subject was blurred (paper, section 3.2).

The subject's embeddings get noise, so that the model no longer knows whom it is asked about. Then
one state, or the MLP outputs of a few blocks around it, is put back as it was without the noise; by
how much the answer's probability rises again is the effect of that place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from memit_core.facts import Fact
from memit_core.joining import compose
from memit_core.model import Model
from memit_core.structure import first_tensor
from memit_core.tokens import LINE, encode_text, prompt_row
from memit_core.trace import hooked

PLACES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "next token",
    "further tokens",
    "last token",
)
KINDS = ("state", "mlp")
NOISE = 3.0
"""Standard deviations of the subjects' embeddings."""
SAMPLES = 3
"""Draws of noise a fact."""
WINDOW = 1 / 6
"""Of the depth: blocks whose MLP outputs are put back together; one output alone does little."""
MOST_LAYERS = 12
ROWS = 256
"""Run together."""


@dataclass(frozen=True)
class Trace:
    """Mean effects over the facts traced."""

    layers: tuple[int, ...]
    facts: int
    clean: float
    """Mean probability of the answer."""
    corrupted: float
    """The same with noise on the subject."""
    effects: dict[str, list[list[float | None]]]
    """By kind, [places][layers]: the rise of the answer's probability over `corrupted`; None where
    no prompt has such a token."""

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def decode_trace(data: bytes) -> Trace:
    """What `Trace.encode` wrote."""
    values = json.loads(data)
    return Trace(**{**values, "layers": tuple(values["layers"])})


class Tracer:
    """Adds up the effects fact by fact.

    Args:
        base: the unedited model.
        facts: those that may be traced; their subjects' embeddings set the noise.
    """

    def __init__(self, base: Model, facts: Sequence[Fact], seed: int = 0) -> None:
        self._base = base
        depth = len(base.structure.blocks)
        step = -(-depth // MOST_LAYERS)
        self.layers = tuple(range(0, depth, step))
        self._reach = max(1, round(depth * WINDOW / 2))
        self._noise = NOISE * _spread(base, facts)
        self._random = torch.Generator().manual_seed(seed)
        shape = (len(KINDS), len(PLACES), len(self.layers))
        self._sums, self._counts = torch.zeros(shape), torch.zeros(shape)
        self._clean: list[float] = []
        self._corrupted: list[float] = []

    @torch.no_grad()
    def add(self, fact: Fact) -> None:
        """Trace what the model answers to one fact's prompt now."""
        run = _Runs(self._base, fact, self._noise, self._random)
        self._clean.append(run.clean_p)
        self._corrupted.append(run.corrupted_p)
        at = run.places()
        for k, kind in enumerate(KINDS):
            reach = self._reach if kind == "mlp" else 0
            wanted = [
                (p, n, token, range(layer - reach, layer + reach + 1))
                for p, tokens in enumerate(at)
                for token in tokens
                for n, layer in enumerate(self.layers)
            ]
            effects = run.restored(kind, [(token, layers) for _, _, token, layers in wanted])
            for (p, n, _, _), effect in zip(wanted, effects, strict=True):
                self._sums[k, p, n] += effect - run.corrupted_p
                self._counts[k, p, n] += 1

    def trace(self) -> Trace:
        """The means so far."""
        mean = (self._sums / self._counts).tolist()
        clear = [[[None if v != v else v for v in row] for row in kind] for kind in mean]
        count = len(self._clean)
        return Trace(
            layers=self.layers,
            facts=count,
            clean=sum(self._clean) / count,
            corrupted=sum(self._corrupted) / count,
            effects=dict(zip(KINDS, clear, strict=True)),
        )


def _spread(base: Model, facts: Sequence[Fact]) -> float:
    """Standard deviation of the subjects' embeddings."""
    ids = [i for fact in facts for i in encode_text(base.tokenizer, fact.subject)[0]]
    embeddings = base.view.get_input_embeddings()
    return float(embeddings(torch.tensor(ids, device=base.device)).float().std())


class _Runs:
    """One prompt, run clean, with noise, and with noise but for some states."""

    def __init__(self, base: Model, fact: Fact, noise: float, random: torch.Generator) -> None:
        self._view, self._structure = base.view, base.structure
        # Every token attends to the first: noise there would break more than the subject.
        row = prompt_row(base.tokenizer, fact, LINE)
        self._ids = torch.tensor([row.ids], device=base.device)
        _, offsets = encode_text(base.tokenizer, f"{LINE}{fact.filled}")
        begin = len(compose(f"{LINE}{fact.parts[0]}"))
        self._subject = range(
            min(i for i, (_, end) in enumerate(offsets) if end > begin), row.lookup + 1
        )
        hidden = self._view.get_input_embeddings()(self._ids)[0]
        shape = (SAMPLES, len(self._subject), hidden.shape[-1])
        self._noise = (noise * torch.randn(shape, generator=random)).to(hidden)
        self._kept: dict[str, torch.Tensor] = {}
        paths = [*self._structure.blocks, *self._structure.projections]
        logits = self._run(self._ids, [self._reader(path) for path in paths])
        self._answer = int(logits[0].argmax())
        self.clean_p = float(logits[0].softmax(-1)[self._answer])
        corrupted = self._run(self._ids.expand(SAMPLES, -1), [self._blur()])
        self.corrupted_p = self._p(corrupted)

    def places(self) -> list[list[int]]:
        """Tokens to restore, by `PLACES`; of several that would do, the middle one."""
        first, last, end = self._subject[0], self._subject[-1], self._ids.shape[1] - 1
        middle = range(first + 1, last)
        further = range(last + 2, end)
        return [
            [first] if first < last else [],
            [middle[len(middle) // 2]] if middle else [],
            [last],
            [last + 1] if last + 1 < end else [],
            [further[len(further) // 2]] if further else [],
            [end] if end > last else [],
        ]

    def restored(self, kind: str, places: Sequence[tuple[int, range]]) -> list[float]:
        """The answer's probability with noise, but clean at each (token, layers)."""
        paths = self._structure.blocks if kind == "state" else self._structure.projections
        effects = []
        at_once = max(1, ROWS // SAMPLES)
        for start in range(0, len(places), at_once):
            chunk = places[start : start + at_once]
            by_layer: dict[int, list[tuple[int, int]]] = {}
            for number, (token, layers) in enumerate(chunk):
                for layer in layers:
                    if 0 <= layer < len(paths):
                        by_layer.setdefault(layer, []).append((number, token))
            handles = [self._blur(len(chunk))]
            handles += [self._patch(paths[layer], rows) for layer, rows in by_layer.items()]
            logits = self._run(self._ids.expand(SAMPLES * len(chunk), -1), handles)
            effects += [self._p(part) for part in logits.reshape(len(chunk), SAMPLES, -1)]
        return effects

    def _p(self, logits: torch.Tensor) -> float:
        return float(logits.softmax(-1)[:, self._answer].mean())

    def _run(self, ids: torch.Tensor, handles: list[Any]) -> torch.Tensor:
        """Logits after the last token, [rows, vocabulary] float32."""
        with hooked(handles):
            out = self._view(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits

    def _reader(self, path: str) -> Any:
        def read(_module: nn.Module, _args: Any, output: Any) -> None:
            tensor = first_tensor(output)
            self._kept[path] = tensor.reshape(*self._ids.shape, -1)[0]

        return self._view.get_submodule(path).register_forward_hook(read)

    def _blur(self, times: int = 1) -> Any:
        span = slice(self._subject[0], self._subject[-1] + 1)

        def add(_module: nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
            blurred = output.clone()
            blurred[:, span] += self._noise.repeat(times, 1, 1)
            return blurred

        return self._view.get_input_embeddings().register_forward_hook(add)

    def _patch(self, path: str, places: Sequence[tuple[int, int]]) -> Any:
        """Rows (number of the place) · SAMPLES onwards get their token back as it was."""
        clean = self._kept[path]
        width = self._ids.shape[1]

        def put(_module: nn.Module, _args: Any, output: Any) -> Any:
            tensor = first_tensor(output)
            flat = tensor.clone().reshape(-1, width, tensor.shape[-1])
            for number, token in places:
                flat[number * SAMPLES : (number + 1) * SAMPLES, token] = clean[token]
            patched = flat.reshape(tensor.shape)
            return patched if isinstance(output, torch.Tensor) else (patched, *output[1:])

        return self._view.get_submodule(path).register_forward_hook(put)
