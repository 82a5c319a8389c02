"""How an edited model fares: on the facts themselves, and how far it drifted from the base.

Probabilities are the paper's: p(y) = exp(mean log-probability of y's tokens), compared strictly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from memit_core.facts import Fact
from memit_core.held_out import HeldOutText
from memit_core.model import Model
from memit_core.progress import ProgressCallback, silent
from memit_core.target_scores import TargetScore, score_targets
from memit_core.tokens import encode_text

CONTROL_TOKENS = 512
CONTROL_CHARS = 8_000


@dataclass(frozen=True)
class FactScore:
    """One fact on one set of weights. None where the fact gives nothing to measure it by."""

    success: bool
    """A greedy answer to the own prompt is target_new and ends where it ends."""
    p_new: float
    p_true: float | None
    paraphrase: float | None
    """Share of paraphrase prompts with p(target_new) > p(target_true)."""
    specificity: float | None
    """Share of neighborhood prompts with p(target_true) > p(target_new)."""

    @property
    def efficacy(self) -> bool | None:
        """Whether p(target_new) > p(target_true) on the edit's own prompt."""
        return None if self.p_true is None else self.p_new > self.p_true


@dataclass(frozen=True)
class Drift:
    """Distance from the base on the control text."""

    perplexity_ratio: float
    kl: float
    """Mean KL(edited || base) per token, in nats."""


def evaluate_facts(
    model: Model, facts: Sequence[Fact], progress: ProgressCallback = silent
) -> list[FactScore]:
    """Score each fact on the weights of `model`."""
    if not facts:
        return []
    pairs: list[tuple[str, str]] = []
    own = set()
    for fact in facts:
        own.add(len(pairs))
        pairs += _questions(fact)
    answers = score_targets(model, pairs, progress, ends=own)
    scores, at = [], 0
    for fact in facts:
        count = len(_questions(fact))
        scores.append(_fact_score(fact, answers[at : at + count]))
        at += count
    return scores


def _questions(fact: Fact) -> list[tuple[str, str]]:
    """(prompt, target) pairs of a fact: its own prompt, then paraphrases, then neighborhood."""
    if fact.target_true is None:
        return [(fact.filled, fact.target_new)]
    prompts = [fact.filled, *fact.paraphrase_prompts, *fact.neighborhood_prompts]
    return [(p, target) for p in prompts for target in (fact.target_new, fact.target_true)]


def _fact_score(fact: Fact, answers: Sequence[TargetScore]) -> FactScore:
    success, p_new = answers[0].exact, answers[0].p
    if fact.target_true is None:
        return FactScore(success, p_new, None, None, None)
    p = [answer.p for answer in answers]
    wins = [new > true for new, true in zip(p[::2], p[1::2], strict=True)]
    losses = [true > new for new, true in zip(p[::2], p[1::2], strict=True)]
    end = 1 + len(fact.paraphrase_prompts)
    return FactScore(success, p_new, p[1], _share(wins[1:end]), _share(losses[end:]))


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None


class ControlText:
    """A held-out text on which drift from the base is measured.

    It is the end of the covariance corpus, which the covariance reads from the beginning.
    """

    def __init__(self, base: Model, corpus: str) -> None:
        text = corpus[-CONTROL_CHARS:]
        self._text = HeldOutText(base, text, CONTROL_TOKENS)
        self._base = self._text.score(base)

    def drift(self, model: Model) -> Drift:
        """Perplexity ratio and KL of the weights of `model` against the base's."""
        score = self._text.score(model)
        return Drift(perplexity_ratio=score.perplexity / self._base.perplexity, kl=score.kl)


@torch.no_grad()
def next_token(model: Model, prompt: str) -> tuple[int, float]:
    """The most probable next token after `prompt` and its log-probability."""
    ids = torch.tensor([encode_text(model.tokenizer, prompt)[0]], device=model.device)
    logits = model.view(input_ids=ids, use_cache=False).logits[0, -1]
    log_p = functional.log_softmax(logits.float(), -1)
    best = int(log_p.argmax())
    return best, float(log_p[best])
