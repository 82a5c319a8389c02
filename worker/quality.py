"""Measuring a version before it is committed, and the gate that it must pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from contracts.edits import Gate
from contracts.facts import Fact
from contracts.ids import drawn
from contracts.reports import ChatReport, FactReport, NeighborReport, Report, Scores
from contracts.settings import Settings
from contracts.versions import Canary
from memit_core.edit import Editor
from memit_core.evaluate import ControlText, FactScore, evaluate_facts, next_token
from memit_core.model import Model
from memit_core.progress import ProgressCallback
from worker.chats import NO_TEMPLATE, chat_success, chats_of, mean_success
from worker.core_fact import core_fact
from worker.interview import Interview, Verdict
from worker.measured_prompts import within_budget
from worker.plan import Plan

CANARIES = 3
LIVE_SAMPLE = 32
"""Older live facts that are measured before a commit."""


def sampled(facts: Mapping[str, Fact], count: int, seed: str) -> dict[str, Fact]:
    """At most `count` of the facts (by id), drawn by the SHA-256 of `seed` and id."""
    return {fact_id: facts[fact_id] for fact_id in drawn(facts, count, seed)}


def tally(scores: Sequence[FactScore]) -> Scores:
    """Means over facts, each over those that have something to measure it by."""
    return Scores(
        facts=len(scores),
        success=_mean([score.success for score in scores]),
        efficacy=_mean([score.efficacy for score in scores]),
        paraphrase=_mean([score.paraphrase for score in scores]),
        specificity=_mean([score.specificity for score in scores]),
    )


class Quality:
    """Measures versions of one base model."""

    def __init__(self, editor: Editor, max_context: int) -> None:
        self._control = ControlText(editor.base, editor.corpus)
        self._interview = Interview(editor.loaded, max_context)

    def report(
        self,
        model: Model,
        edited: Collection[str],
        plan: Plan,
        older: Mapping[str, Fact],
        progress: ProgressCallback,
    ) -> Report:
        """How the facts of `plan` fare on the weights of `model`, and some of the `older` ones.

        Args:
            edited: paths of the modules that have weights of their own there.

        Raises:
            Cancelled: raised by `progress`.
        """
        facts = [core_fact(fact) for fact in plan.added.values()]
        kept = [core_fact(fact) for fact in older.values()]
        measured, share = within_budget(model.tokenizer, [*facts, *kept])
        scores = evaluate_facts(model, measured, progress)
        weights = {path: model.view.get_submodule(path).weight for path in edited}
        own, others = scores[: len(facts)], scores[len(facts) :]
        likely = [score.success for score in own]
        live = [core_fact(fact) for fact in plan.facts()]
        chats = chats_of(model.tokenizer, plan.added)
        interview = self._interview.run(weights, facts, likely, live, chats, progress)
        own = [_as_answered(score, interview.verdicts.get(i)) for i, score in enumerate(own)]
        drift = self._control.drift(model)
        ids = list(plan.added)
        return Report(
            **{**dict(tally(own)), **_chat_figures(interview.chats)},
            live_sample=tally(others),
            perplexity_ratio=drift.perplexity_ratio,
            kl=drift.kl,
            chat_reason=_no_chats(model.tokenizer, interview.chats) if facts else None,
            asked=len(interview.verdicts),
            measuring_prompts=share,
            neighbors_asked=interview.neighbors,
            neighbors=[
                NeighborReport(
                    fact_id=ids[one.fact],
                    prompt=one.prompt,
                    before=one.before,
                    after=one.after,
                    says_target=one.says_target,
                )
                for one in interview.changed
            ],
            per_fact=[
                _fact_report(
                    fact_id, own[i], interview.verdicts.get(i), interview.chats.get(fact_id, [])
                )
                for i, fact_id in enumerate(ids)
            ],
        )

    def canaries(self, model: Model, facts: Mapping[str, Fact]) -> list[Canary]:
        """Next tokens after the prompts of a few facts, for whoever builds the version again."""
        prompts = [core_fact(fact).filled for fact in list(facts.values())[:CANARIES]]
        answers = [next_token(model, prompt) for prompt in prompts]
        return [
            Canary(prompt=prompt, token_id=token, logprob=logprob)
            for prompt, (token, logprob) in zip(prompts, answers, strict=True)
        ]


def refusal(report: Report, gate: Gate, settings: Settings) -> str | None:
    """Why the gate refuses a version with this report; None when it passes."""
    live = None if report.live_sample is None else report.live_sample.success
    asked = [
        ("success", report.success, gate.min_success, settings.gate_min_success, 1),
        ("efficacy", report.efficacy, gate.min_efficacy, settings.gate_min_efficacy, 1),
        ("live_success", live, gate.min_live_success, settings.gate_min_live_success, 1),
        (
            "perplexity_ratio",
            report.perplexity_ratio,
            gate.max_perplexity_ratio,
            settings.gate_max_perplexity_ratio,
            -1,
        ),
    ]
    missed = []
    for name, measured, wanted, default, sign in asked:
        bound = default if wanted is None else wanted
        # A NaN fails every comparison, so it is asked whether the bound holds.
        if measured is not None and not measured * sign >= bound * sign:
            missed.append(
                f"{name} is {measured:.3g}, the gate asks {'≥' if sign > 0 else '≤'} {bound:g}"
            )
    return "; ".join(missed) or None


def _as_answered(score: FactScore, verdict: Verdict | None) -> FactScore:
    return score if verdict is None else replace(score, success=verdict.success)


def _chat_figures(chats: Mapping[str, Sequence[ChatReport]]) -> dict[str, Any]:
    return {
        "chat_success": mean_success(chats),
        "base_chat_success": mean_success(chats, "base_success"),
        "chats_asked": sum(one.reason is None for of_fact in chats.values() for one in of_fact),
    }


def _no_chats(tokenizer: Any, chats: Mapping[str, Sequence[ChatReport]]) -> str | None:
    """Why no chat could be asked."""
    if tokenizer.chat_template is None:
        return NO_TEMPLATE
    asked = [one.reason for of_fact in chats.values() for one in of_fact]
    return None if None in asked else next(iter(asked), "their chats are too long")


def _fact_report(
    fact_id: str, score: FactScore, verdict: Verdict | None, chats: list[ChatReport]
) -> FactReport:
    return FactReport(
        id=fact_id,
        success=score.success,
        answer=None if verdict is None else verdict.answer,
        reason=None if verdict is None else verdict.reason,
        p_new=score.p_new,
        p_true=score.p_true,
        chat_success=chat_success(chats),
        chats=chats,
    )


def _mean(values: list[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None
