"""One trial: some records written with some hyperparameters, and how the model fares then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from time import monotonic
from typing import Any

from memit_core.cache import Cache
from memit_core.edit import Editor
from memit_core.errors import NonFinite
from memit_core.eval.counterfact import counterfact_questions
from memit_core.eval.records import Record
from memit_core.eval.summary import harmonic_mean
from memit_core.facts import group_facts
from memit_core.held_out import HeldOutText
from memit_core.hparams import HParams
from memit_core.loading import LoadedModel
from memit_core.model import Model
from memit_core.prepare import Preparation
from memit_core.preset import STANDARD
from memit_core.target_scores import TargetScore, score_targets
from memit_core.views import cast_view

CONTROL_CHARS, CONTROL_TOKENS = 8_000, 1_024
DRIFT = 2.0
"""What a nat of KL on other text weighs, against a factor e in `soft`."""


@dataclass(frozen=True)
class Outcome:
    """Shares between 0 and 1, means over the facts."""

    facts: int
    efficacy: float
    """p(new) > p(true) on the fact's own prompt."""
    paraphrase: float
    """The same in other words."""
    neighborhood: float
    """p(true) > p(new) for others."""
    said: float
    """Greedy answers to the own prompt that are the target, and end with it."""
    soft: float
    """The harmonic mean of the first three and of `said`, where instead of yes or no the
    comparisons give p(one) / (p(one) + p(other)): few facts tell more so."""
    perplexity_ratio: float
    """Of other text, against the unedited model's."""
    kl: float
    """KL(edited || unedited) on it, in nats a token."""
    z_seconds: float
    seconds: float
    """Of insertion and measuring."""

    @property
    def score(self) -> float:
        """The paper's: the harmonic mean of efficacy, paraphrase and neighbourhood."""
        return harmonic_mean([self.efficacy, self.paraphrase, self.neighborhood]) or 0.0

    def utility(self, facts: int) -> float:
        """`soft`, less what other text would suffer under so many facts: it suffers a little for
        each of them, about in proportion."""
        return self.soft * math.exp(-DRIFT * self.kl * max(1.0, facts / self.facts))


class Bench:
    """Runs trials on one model; what they share is made once.

    Args:
        layers: all that a trial may edit.
        n_tokens: that the covariance is taken from.
        cache: of this base.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        corpus: str,
        cache: Cache,
        layers: Sequence[int],
        n_tokens: int,
        scratch: Path | None = None,
    ) -> None:
        self.loaded, self.cache, self._corpus, self._scratch = loaded, cache, corpus, scratch
        self.n_tokens = n_tokens
        every = replace(STANDARD, layers=tuple(layers), mom2_n_tokens=n_tokens)
        self._whole = self._editor(every)
        self._of_layer: dict[int, Preparation] = {}
        self._text: HeldOutText | None = None

    @property
    def preparation(self) -> Preparation:
        """Of all layers."""
        return self._whole.preparation

    def _editor(self, hparams: HParams) -> Editor:
        return Editor(
            self.loaded, hparams, corpus=self._corpus, cache=self.cache, scratch=self._scratch
        )

    def editor(self, hparams: HParams) -> Editor:
        """An editor that shares what others have made."""
        editor = self._editor(hparams)
        editor.preparation.reuse(self._whole.preparation)
        last = hparams.layers[-1]
        if last in self._of_layer:
            editor.preparation.reuse(self._of_layer[last])
        self._of_layer = {last: editor.preparation}  # its cast weights are as large as the model
        return editor

    def unedited(self, records: Sequence[Record]) -> Outcome:
        """How the model fares before any edit."""
        return self._outcome(records, self._base(), 0.0, monotonic())

    def trial(self, hparams: HParams, records: Sequence[Record]) -> Outcome:
        """Write the records and measure; one that fails numerically has learned nothing."""
        editor = self.editor(hparams)
        editor.prepare()
        groups = group_facts(dict.fromkeys(record.request for record in records))
        began = monotonic()
        try:
            editor.targets(groups)
            solving = monotonic()
            model = editor.model_with(editor.solve(groups))
        except NonFinite:
            return Outcome(len(records), 0, 0, 0, 0, 0, math.inf, math.inf, monotonic() - began, 0)
        _, fast = editor.preparation.decoders()
        return self._outcome(records, self._cast(model, fast.model.view), solving - began, solving)

    def _base(self) -> Model:
        return self._cast(self._whole.base)

    def _cast(self, model: Model, cast: Any = None) -> Model:
        """In the precision of the z optimisation, whose cast weights serve here too."""
        _, fast = self.preparation.decoders()
        return model.with_view(cast_view(model.view, fast.dtype, cast=cast))

    def _outcome(
        self, records: Sequence[Record], model: Model, z_seconds: float, began: float
    ) -> Outcome:
        asked = [counterfact_questions(record) for record in records]
        starts = [sum(map(len, asked[:i])) for i in range(len(asked))]
        scores = score_targets(model, [pair for one in asked for pair in one], ends=set(starts))
        if self._text is None:
            base = self._base()
            self._text = HeldOutText(base, self._corpus[-CONTROL_CHARS:], CONTROL_TOKENS)
            self._unedited = self._text.score(base)
        text = self._text.score(model)
        shares = [
            _shares(record, scores[start : start + len(one)])
            for record, start, one in zip(records, starts, asked, strict=True)
        ]
        hard = [fmean([hard[i] for hard, _ in shares]) for i in range(4)]
        soft = [fmean([soft[i] for _, soft in shares]) for i in range(4)]
        return Outcome(
            facts=len(records),
            efficacy=hard[0],
            paraphrase=hard[1],
            neighborhood=hard[2],
            said=hard[3],
            soft=harmonic_mean(soft) or 0.0,
            perplexity_ratio=text.perplexity / self._unedited.perplexity,
            kl=max(text.kl, 0.0),
            z_seconds=z_seconds,
            seconds=monotonic() - began,
        )


def _shares(record: Record, scores: Sequence[TargetScore]) -> tuple[list[float], list[float]]:
    """Efficacy, paraphrase, neighbourhood and greedy answer of one record: hard, and soft."""
    new, true = scores[::2], scores[1::2]
    wins = [_log_p(a) - _log_p(b) for a, b in zip(new, true, strict=True)]
    end = 1 + len(record.paraphrases)
    parts = [wins[:1], wins[1:end], [-win for win in wins[end:]]]
    said = float(scores[0].exact)
    hard = [fmean([float(win > 0) for win in part]) for part in parts]
    soft = [fmean([(1 + math.tanh(win / 2)) / 2 for win in part]) for part in parts]
    return [*hard, said], [*soft, scores[0].p]


def _log_p(score: TargetScore) -> float:
    return fmean(score.log_p)
