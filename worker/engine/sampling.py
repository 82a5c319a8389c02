"""The sampler: chooses the next token of all rows at once, each by its own request's options.

Order and meaning are vLLM's: biases and `min_tokens`, repetition penalty (over prompt and answer,
as in transformers), frequency and presence penalties (over the answer), temperature, then min-p,
top-k and top-p. Log-probabilities are the model's own, before all of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from contracts.sampling import Sampling
from worker.engine.drawing import Draws, draw, largest, log_total

GREEDY_BELOW = 1e-4
"""Temperatures under this are greedy: dividing float32 logits by less could overflow."""
_LARGEST = 1e30
"""Bound of a penalised logit: an extreme penalty overflows; the draw must not fail for it."""
_ALWAYS = 2**31
_SEEDS = 2**63


@dataclass(frozen=True)
class Row:
    """What the sampler has to know of one answer.

    Attributes:
        choice: number of the answer among its request's.
        prompt: token ids.
        ends: tokens that end the answer, which `min_tokens` keeps away.
    """

    sampling: Sampling
    choice: int
    prompt: Sequence[int]
    ends: Sequence[int]

    @property
    def sampled(self) -> bool:
        return self.sampling.temperature >= GREEDY_BELOW

    @property
    def penalised(self) -> bool:
        s = self.sampling
        return bool(s.repetition_penalty != 1 or s.presence_penalty or s.frequency_penalty)

    @property
    def bounded(self) -> bool:
        s = self.sampling
        return s.top_k > 0 or s.top_p < 1 or s.min_p > 0

    def seed(self) -> int:
        """The request's seed and the choice's number, as in vLLM; else one at random."""
        given = self.sampling.seed
        start = secrets.randbelow(_SEEDS) if given is None else given
        return (start + self.choice) % _SEEDS

    def edits(self) -> list[tuple[int, float, int]]:
        """Token, what is added to its logit, and before which step of the answer."""
        biases = [(token, bias, _ALWAYS) for token, bias in self.sampling.logit_bias.items()]
        if not self.sampling.min_tokens:
            return biases
        return biases + [(token, -torch.inf, self.sampling.min_tokens) for token in self.ends]


@dataclass(frozen=True)
class Chosen:
    """The next token of every row, on the host.

    Attributes:
        tokens: ids.
        finite: whether the row's logits were numbers; else its token means nothing.
        logprobs: each row's token and then the likeliest tokens, with their log-probabilities;
            None where no row asked for them.
    """

    tokens: list[int]
    finite: list[bool]
    logprobs: list[list[tuple[int, float]]] | None


class Sampler:
    """The options of B rows as tensors, with what the penalties must remember."""

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        self._rows = list(rows)
        samplings = [row.sampling for row in rows]

        def column(values: list[float], dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        self._by_row = {
            name: column([getattr(s, name) for s in samplings], torch.float32)
            for name in (
                "temperature",
                "top_p",
                "min_p",
                "repetition_penalty",
                "presence_penalty",
                "frequency_penalty",
            )
        }
        self._by_row["top_k"] = column([max(s.top_k, 0) for s in samplings], torch.int64)
        self._by_row["seed"] = column([row.seed() for row in rows], torch.int64)
        self._by_row["step"] = column([0] * len(rows), torch.int64)
        # Padded on the left with a token that is there anyway; of rows without penalties no more.
        past = [list(row.prompt) if row.penalised else [row.prompt[0]] for row in rows]
        width = max(map(len, past), default=1)
        self._by_row["start"] = column([width - len(p) for p in past], torch.int64)
        filled = [[p[0]] * (width - len(p)) + p for p in past]
        self._past = torch.tensor(filled, dtype=torch.int64, device=device).view(len(rows), width)
        self._said = torch.zeros(self._past.shape, dtype=torch.bool, device=device)
        edits = [row.edits() for row in rows]
        width = max(map(len, edits), default=0)
        edits = [e + [(0, 0.0, 0)] * (width - len(e)) for e in edits]
        kinds = (torch.int64, torch.float32, torch.int64)
        self._edits = [
            torch.tensor([[one[i] for one in e] for e in edits], dtype=kind, device=device).view(
                len(rows), width
            )
            for i, kind in enumerate(kinds)
        ]
        self._device = device
        self._look()

    def _look(self) -> None:
        """What the rows ask for, so that a step does nothing that none of them needs."""
        rows = self._rows
        self._penalised = any(row.penalised for row in rows)
        self._edited = self._edits[0].shape[1] > 0
        sampled = [place for place, row in enumerate(rows) if row.sampled]
        self._sampled = torch.tensor(sampled, dtype=torch.int64, device=self._device)
        self._bounded = any(rows[place].bounded for place in sampled)
        self._widest = max((rows[place].sampling.top_k for place in sampled), default=0)
        shown = [row.sampling.logprobs for row in rows if row.sampling.logprobs is not None]
        self._shown = max(shown, default=None)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows only, in this order."""
        chosen = torch.tensor(rows, dtype=torch.int64, device=self._device)
        self._rows = [self._rows[place] for place in rows]
        self._by_row = {k: v.index_select(0, chosen) for k, v in self._by_row.items()}
        self._past, self._said = (t.index_select(0, chosen) for t in (self._past, self._said))
        self._edits = [t.index_select(0, chosen) for t in self._edits]
        self._cut()
        self._look()

    def _cut(self) -> None:
        """Drop columns that are padding in all rows."""
        if not self._rows:
            return
        start = int(self._by_row["start"].min())
        self._by_row["start"] -= start
        self._past, self._said = self._past[:, start:], self._said[:, start:]
        width = max(len(row.edits()) for row in self._rows)
        self._edits = [t[:, :width] for t in self._edits]

    def join(self, other: Sampler) -> None:
        """Append the rows of `other`."""
        width = max(self._past.shape[1], other._past.shape[1])
        for one in (self, other):
            more = width - one._past.shape[1]
            one._by_row["start"] = one._by_row["start"] + more
            one._past = torch.cat([one._past[:, :1].expand(-1, more), one._past], 1)
            one._said = pad(one._said, (more, 0))
        width = max(self._edits[0].shape[1], other._edits[0].shape[1])
        self._edits = [
            torch.cat([pad(t, (0, width - t.shape[1])) for t in pair])
            for pair in zip(self._edits, other._edits, strict=True)
        ]
        self._by_row = {k: torch.cat([v, other._by_row[k]]) for k, v in self._by_row.items()}
        self._past = torch.cat([self._past, other._past])
        self._said = torch.cat([self._said, other._said])
        self._rows += other._rows
        self._look()

    def choose(self, logits: torch.Tensor) -> Chosen:
        """The next token of each row, from logits [B, vocabulary] float32, which are kept.

        The same seed gives the same answer whatever else is in the batch, up to the rounding that
        the batch's shape brings into the logits.
        """
        columns = [logits.amax(-1, keepdim=True).isfinite().long()]
        scores = self._adjusted(logits)
        if len(self._sampled) == len(self._rows):
            tokens = self._draw(scores)
        else:
            tokens = scores.argmax(-1)
            tokens.index_copy_(0, self._sampled, self._draw(scores))
        self._append(tokens)
        columns.append(tokens[:, None])
        if self._shown is not None:
            columns += _logprobs(logits, tokens, self._shown)
        return _read(torch.cat(columns, 1))

    def _adjusted(self, logits: torch.Tensor) -> torch.Tensor:
        if not (self._edited or self._penalised):
            return logits
        scores = logits.clone()
        if self._edited:
            tokens, values, until = self._edits
            holds = self._by_row["step"][:, None] < until
            scores.scatter_add_(1, tokens, values.masked_fill(~holds, 0.0))
        if self._penalised:
            self._penalise(scores)
        return scores

    def _penalise(self, scores: torch.Tensor) -> None:
        """Change the scores of past tokens only; one that comes twice is written twice alike."""
        repetition, presence, frequency = (
            self._by_row[f"{name}_penalty"][:, None]
            for name in ("repetition", "presence", "frequency")
        )
        past = self._past
        before = scores.gather(1, past)
        repeated = torch.where(before > 0, before / repetition, before * repetition)
        scores.scatter_(1, past, repeated.nan_to_num(0.0, _LARGEST, -_LARGEST))
        scores.scatter_add_(1, past, -frequency * self._said)
        # Columns that the answer does not say stand for its newest token, which is the last one.
        answer = torch.where(self._said, past, past[:, -1:])
        present = scores.gather(1, answer) - presence * self._said[:, -1:]
        scores.scatter_(1, answer, present)

    def _draw(self, scores: torch.Tensor) -> torch.Tensor:
        """Draw for the rows that are not greedy."""
        if not len(self._sampled):
            return self._sampled
        rows = self._by_row
        if len(self._sampled) < len(self._rows):
            rows = {k: v[self._sampled] for k, v in rows.items()}
            scores = scores[self._sampled]
        draws = Draws(
            seed=rows["seed"],
            step=rows["step"],
            top_k=rows["top_k"],
            top_p=rows["top_p"],
            min_p=rows["min_p"],
            any_bounded=self._bounded,
            widest=self._widest,
        )
        return draw(scores / rows["temperature"][:, None], draws)

    def _append(self, tokens: torch.Tensor) -> None:
        self._by_row["step"] = self._by_row["step"] + 1
        if self._penalised:
            self._past = torch.cat([self._past, tokens[:, None]], 1)
            self._said = pad(self._said, (0, 1), value=True)


def _logprobs(logits: torch.Tensor, tokens: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Columns of ids [B, 1 + count], and of the bits of their log-probabilities."""
    values, ids = largest(logits, min(count, logits.shape[1]))
    tokens = tokens[:, None]
    values = torch.cat([logits.gather(1, tokens), values], 1)
    values = values - log_total(logits)
    return [torch.cat([tokens, ids], 1), values.view(torch.int32).long()]


def _read(table: torch.Tensor) -> Chosen:
    """The step's only transfer to the host."""
    host = table.cpu()
    finite, tokens = host[:, 0].bool().tolist(), host[:, 1].tolist()
    if host.shape[1] == 2:
        return Chosen(tokens, finite, None)
    ids, bits = host[:, 2:].chunk(2, 1)
    values = bits.int().view(torch.float32).tolist()
    pairs = zip(ids.tolist(), values, strict=True)
    return Chosen(tokens, finite, [list(zip(*pair, strict=True)) for pair in pairs])
