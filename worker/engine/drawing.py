"""Draws tokens from the likeliest ones (top-k, top-p, min-p), without sorting the vocabulary.

What may be drawn of a row is all that scores at least its threshold; the draw is the argmax of
score plus noise. Both are functions of the row alone, up to rounding, however they are found: on
the CPU among the row's largest scores, and only if its likeliest tokens are more than that, among
all. An accelerator sorts all faster than it tells the host which rows need it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.engine.noise import Gumbel

CANDIDATES = 256
"""How many of a row's largest scores are looked at before all are."""
_GROUP = 16
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
    if scores.device.type != "cpu":
        return _draw_of_largest(scores, draws, vocabulary)[0]
    bounded = (draws.top_k > 0) | (draws.top_p < 1) | (draws.min_p > 0)
    free, rest = (rows.nonzero()[:, 0] for rows in (~bounded, bounded))
    drawn = torch.empty_like(draws.seed)
    drawn[free] = _noisy(scores[free], draws.of(free)).argmax(-1)
    width = min(vocabulary, max(CANDIDATES, draws.widest + 1))
    drawn[rest], known = _draw_of_largest(scores[rest], draws.of(rest), width)
    if width < vocabulary:
        rest = rest[~known]
        drawn[rest] = _draw_of_all(scores[rest], draws.of(rest))
    return drawn


def _draw_of_largest(
    scores: torch.Tensor, draws: Draws, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A token of the `width` largest, and whether no other could be drawn: [R] each."""
    values, tokens = largest(scores, width)
    floor = _floor(values, draws)
    nucleus = _nucleus(values, floor, log_total(scores), draws)
    noisy = values + Gumbel(draws.seed, draws.step).of(tokens)
    noisy.masked_fill_(values < floor.maximum(nucleus), -torch.inf)
    drawn = tokens.gather(1, noisy.argmax(-1, keepdim=True))
    last = values[:, -1:]
    known = (last < floor) | ((floor == -torch.inf) & (last < nucleus))
    return drawn[:, 0], known[:, 0]


def _draw_of_all(scores: torch.Tensor, draws: Draws) -> torch.Tensor:
    """The same for rows that may draw more tokens, without their order.

    The noisiest token is drawn unless more likely ones fill top-p already; then it is none of
    these, nor is any that is less likely than it, and the next is looked at.
    """
    values, _ = largest(scores, max(1, draws.widest))
    excluded = scores < _floor(values, draws)
    weights = (scores - log_total(scores)).exp_().masked_fill_(excluded, 0)
    wanted = draws.top_p[:, None] * weights.sum(-1, keepdim=True)
    noisy = _noisy(scores.masked_fill_(excluded, -torch.inf), draws)
    drawn = torch.empty_like(draws.seed)
    rows = torch.arange(len(drawn))
    while len(rows):
        place = noisy.argmax(-1, keepdim=True)
        drawn[rows] = place[:, 0]
        weight = weights.gather(1, place)
        above = weights.masked_fill(weights <= weight, 0).sum(-1, keepdim=True)
        refused = ((above >= wanted) & (above > 0))[:, 0].nonzero()[:, 0]
        rows, weights, noisy, wanted, weight = (
            t[refused] for t in (rows, weights, noisy, wanted, weight)
        )
        noisy.masked_fill_(weights <= weight, -torch.inf)
    return drawn


def _noisy(scores: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Adds the noise to the scores."""
    noise = Gumbel(draws.seed, draws.step)
    for block in _blocks(scores):
        tokens = torch.arange(block.start, block.stop, device=scores.device)
        scores[:, block].add_(noise.of(tokens))
    return scores


def log_total(scores: torch.Tensor) -> torch.Tensor:
    """The logarithm of each row's sum of exponentials [R, 1]."""
    # In blocks it is several times faster than `logsumexp`.
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
    groups = size // _GROUP
    if count == size:
        values, places = scores.sort(dim=-1, descending=True, stable=True)
        return values, places
    if scores.device.type != "cpu" or count >= groups:
        values, places = scores.topk(count)
        return values, places
    # They are in the groups that have the largest maxima, or in what the groups leave over. A
    # group is every so manieth column: maxima of those are found fastest.
    even = groups * _GROUP
    by_group = scores[:, :even].view(rows, _GROUP, groups)
    chosen = by_group.amax(1).topk(count, sorted=False).indices
    members = groups * torch.arange(_GROUP)[:, None]
    over = torch.arange(even, size).expand(rows, -1)
    places = torch.cat([(chosen[:, None] + members).flatten(1), over], 1)
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
