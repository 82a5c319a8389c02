"""Draws tokens from the likeliest ones (top-k, top-p, min-p), without sorting the vocabulary.

What may be drawn of a row is all that scores at least its threshold; the draw is the argmax of
score plus noise. Both are functions of the row alone, however they are found. On the CPU they are
found among the row's largest scores, and only a row whose likeliest tokens are more than that is
looked at whole. An accelerator sorts faster than it tells the host which rows need it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.engine.noise import Gumbel

CANDIDATES = 256
_CHUNK = 16
_BLOCK = 8192
"""Columns of the vocabulary computed together on the CPU: what lies between stays in its cache."""
_WHOLE = 2**40
"""Probability 1: sums of integers are the same in every order."""


@dataclass(frozen=True)
class Draws:
    """What decides the draws of R rows; tensors are [R].

    Attributes:
        seed, step: int64, see `Gumbel`.
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
    """A token [R] int64 of each row, from scores [R, vocabulary] float32, which are overwritten.

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
    noisy = values + Gumbel(draws.seed, draws.step).of(tokens)
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
    scores.masked_fill_(scores < floor, -torch.inf)
    some = (draws.top_p < 1).nonzero()[:, 0]
    if len(some):
        scores[some] = _nucleus_of_all(scores[some], total[some], draws.top_p[some, None])
    return _noisy(scores, draws).argmax(-1)


def _noisy(scores: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Adds the noise to the scores."""
    noise = Gumbel(draws.seed, draws.step)
    for block in _blocks(scores):
        tokens = torch.arange(block.start, block.stop, device=scores.device)
        scores[:, block].add_(noise.of(tokens))
    return scores


def log_total(scores: torch.Tensor) -> torch.Tensor:
    """The logarithm of each row's sum of exponentials [R, 1]."""
    most = scores.amax(-1, keepdim=True)
    sums = [(scores[:, b] - most).exp_().sum(-1, keepdim=True) for b in _blocks(scores)]
    return most + torch.cat(sums, 1).sum(-1, keepdim=True).log_()


def _blocks(scores: torch.Tensor) -> list[slice]:
    size = scores.shape[1]
    step = _BLOCK if scores.device.type == "cpu" else size
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


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


def _nucleus(
    values: torch.Tensor, floor: torch.Tensor, total: torch.Tensor, draws: Draws
) -> torch.Tensor:
    """The least score [R, 1] that top-p leaves, if it is among `values`, the largest in order."""
    mass = ((values - total).exp() * _WHOLE).long().masked_fill_(values < floor, 0)
    ends = mass.cumsum(-1)
    wanted = draws.top_p[:, None] * ends[:, -1:].where(floor > -torch.inf, _WHOLE)
    count = (ends - mass < wanted).logical_and_(mass > 0).sum(-1, keepdim=True)
    least = values.gather(1, count.clamp(min=1) - 1)
    return least.where(draws.top_p[:, None] < 1, -torch.inf)


def _nucleus_of_all(scores: torch.Tensor, total: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Scores [R, vocabulary] with -inf where top-p leaves nothing, without knowing their order.

    Halves the range in which the least probability is that is left: positive floats are in the
    order of their bits, so that 31 halves find it.
    """
    weights = (scores - total).exp_()
    wanted = top_p * weights.sum(-1, keepdim=True)
    too_much = weights.amax(-1, keepdim=True).view(torch.int32) + 1
    enough = torch.zeros_like(too_much)
    kept = torch.empty_like(weights)
    for _ in range(31):
        middle = enough + (too_much - enough) // 2
        kept.copy_(weights).ge_(middle.view(torch.float32)).mul_(weights)
        reached = kept.sum(-1, keepdim=True) >= wanted
        enough, too_much = middle.where(reached, enough), too_much.where(reached, middle)
    return scores.masked_fill_(weights < enough.view(torch.float32), -torch.inf)
