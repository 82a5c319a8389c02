"""Draws tokens from the likeliest ones (top-k, top-p, min-p), without sorting the vocabulary.

What may be drawn of a row is all that scores at least its threshold; the draw is the argmax of
score plus noise. Both are functions of the row alone, however they are found. On the CPU they are
found among the row's largest scores, and only a row whose likeliest tokens are more than that is
looked at whole. An accelerator sorts faster than it tells the host which rows need it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.engine.noise import gumbel

CANDIDATES = 512
_CHUNK = 16
_BLOCK = 2048
_HALF = 16
"""Bits of half a number."""
_WHOLE = 2**40
"""Probability 1: sums of integers are the same in every order."""


@dataclass(frozen=True)
class Draws:
    """What decides the draws of R rows; tensors are [R].

    Attributes:
        seed, step: int64, see `gumbel`.
        top_k: int64; 0 is off.
        top_p, min_p: float32; 1 and 0 are off. As in vLLM, top-p is of what min-p and top-k left.
        any_bounded: a row has one of the three.
        widest: the largest top_k.
    """

    seed: torch.Tensor
    step: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    any_bounded: bool
    widest: int

    def of(self, rows: torch.Tensor) -> Draws:
        """Those of the rows at these places."""
        return Draws(
            seed=self.seed[rows],
            step=self.step[rows],
            top_k=self.top_k[rows],
            top_p=self.top_p[rows],
            min_p=self.min_p[rows],
            any_bounded=self.any_bounded,
            widest=self.widest,
        )


def draw(scores: torch.Tensor, draws: Draws) -> torch.Tensor:
    """A token [R] int64 of each row, from scores [R, vocabulary] float32.

    Of a row that is not finite it is any token.
    """
    if not draws.any_bounded:
        return _noisy(scores, draws).argmax(-1)
    vocabulary = scores.shape[1]
    width = vocabulary
    if scores.device.type == "cpu":
        width = min(vocabulary, max(CANDIDATES, draws.widest + 1))
    values, tokens = largest(scores, width)
    total = log_total(scores)
    floor = _floor(values, draws)
    nucleus = _nucleus(values, floor, total, draws)
    threshold = floor.maximum(nucleus)
    noisy = values + gumbel(draws.seed, draws.step, tokens)
    best = noisy.masked_fill_(values < threshold, -torch.inf).argmax(-1, keepdim=True)
    drawn = tokens.gather(1, best)[:, 0]
    if width < vocabulary:
        last = values[:, -1:]
        known = (last < floor) | ((floor == -torch.inf) & (last < nucleus))
        rest = known.logical_not().nonzero()[:, 0]
        if len(rest):
            drawn[rest] = _draw_of_all(scores[rest], floor[rest], total[rest], draws.of(rest))
    return drawn


def _draw_of_all(
    scores: torch.Tensor, floor: torch.Tensor, total: torch.Tensor, draws: Draws
) -> torch.Tensor:
    """The same for rows that may draw more tokens than the largest; `floor` is known."""
    noisy = _noisy(scores, draws).masked_fill_(scores < floor, -torch.inf)
    some = (draws.top_p < 1).nonzero()[:, 0]
    if len(some):
        nucleus = _nucleus_of_all(scores[some], floor[some], total[some], draws.of(some))
        noisy[some] = noisy[some].masked_fill_(scores[some] < nucleus, -torch.inf)
    return noisy.argmax(-1)


def _noisy(scores: torch.Tensor, draws: Draws) -> torch.Tensor:
    tokens = torch.arange(scores.shape[1], device=scores.device)
    # Intermediate results that stay in the processor's cache are several times faster.
    blocks = tokens.split(_BLOCK if scores.device.type == "cpu" else len(tokens))
    return torch.cat([gumbel(draws.seed, draws.step, b) for b in blocks], 1).add_(scores)


def log_total(scores: torch.Tensor) -> torch.Tensor:
    """The logarithm of each row's sum of exponentials [R, 1]."""
    # Many times faster than `logsumexp`.
    most = scores.amax(-1, keepdim=True)
    return most - scores.log_softmax(-1).amax(-1, keepdim=True)


def largest(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest scores of each row, the largest first, and their places: [R, count]."""
    rows, size = scores.shape
    chunks = size // _CHUNK
    if count == size:
        values, places = scores.sort(dim=-1, descending=True, stable=True)
        return values, places
    if scores.device.type != "cpu" or count >= chunks:
        values, places = scores.topk(count)
        return values, places
    # They are in the chunks that have the largest maxima, or in what the chunks leave over.
    even = chunks * _CHUNK
    by_chunk = scores[:, :even].view(rows, chunks, _CHUNK)
    chosen = by_chunk.amax(-1).topk(count, sorted=False).indices
    inside = torch.arange(_CHUNK, device=scores.device)
    places = (chosen[:, :, None] * _CHUNK + inside).view(rows, -1)
    over = torch.arange(even, size, device=scores.device).expand(rows, -1)
    places = torch.cat([places, over], 1)
    values, at = scores.gather(1, places).topk(count)
    return values, places.gather(1, at)


def _floor(values: torch.Tensor, draws: Draws) -> torch.Tensor:
    """The least score [R, 1] that min-p and top-k leave, from the largest ones in order."""
    top_k = draws.top_k[:, None]
    kth = values.gather(1, top_k.clamp(1, values.shape[1]) - 1).where(top_k > 0, -torch.inf)
    return kth.maximum(values[:, :1] + draws.min_p[:, None].log())


def _mass(scores: torch.Tensor, floor: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Probabilities as integers; those under the floor are 0."""
    return ((scores - total).exp() * _WHOLE).long().masked_fill_(scores < floor, 0)


def _wanted(left: torch.Tensor, floor: torch.Tensor, draws: Draws) -> torch.Tensor:
    """What top-p's tokens have together [R, 1], where `left` is the mass that the floor leaves."""
    return draws.top_p[:, None] * left.where(floor > -torch.inf, _WHOLE)


def _nucleus(
    values: torch.Tensor, floor: torch.Tensor, total: torch.Tensor, draws: Draws
) -> torch.Tensor:
    """The least score [R, 1] that top-p leaves, if it is among `values`, the largest in order."""
    mass = _mass(values, floor, total)
    ends = mass.cumsum(-1)
    wanted = _wanted(ends[:, -1:], floor, draws)
    count = (ends - mass < wanted).logical_and_(mass > 0).sum(-1, keepdim=True)
    least = values.gather(1, count.clamp(min=1) - 1)
    return least.where(draws.top_p[:, None] < 1, -torch.inf)


def _nucleus_of_all(
    scores: torch.Tensor, floor: torch.Tensor, total: torch.Tensor, draws: Draws
) -> torch.Tensor:
    """The same among all scores: a histogram of their upper halves, then one of the lower."""
    mass = _mass(scores, floor, total)
    wanted = _wanted(mass.sum(-1, keepdim=True), floor, draws)
    keys = _ordered(scores.view(torch.int32)).long() + 2**31
    upper, lower = keys >> _HALF, keys & (2**_HALF - 1)
    high, above = _crossing(upper, mass, wanted, torch.zeros_like(mass[:, :1]))
    low, _ = _crossing(lower, mass.masked_fill(upper != high, 0), wanted, above)
    key = (high << _HALF) + low - 2**31
    return _ordered(key.int()).view(torch.float32)


def _ordered(bits: torch.Tensor) -> torch.Tensor:
    """Bits of float32 as int32 that are in the numbers' order; and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _crossing(
    keys: torch.Tensor, mass: torch.Tensor, wanted: torch.Tensor, above: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The least key with less than `wanted` above it, and how much that is: [R, 1] each."""
    size = 2**_HALF
    by_key = mass.new_zeros(len(mass), size).scatter_add_(1, keys, mass).flip(1)
    before = by_key.cumsum(1) - by_key + above
    places = torch.arange(size, device=mass.device)
    least = places.where((before < wanted) & (by_key > 0), 0).amax(1, keepdim=True)
    return size - 1 - least, before.gather(1, least)
