"""Asking a version's live facts in chats, some at a time, for its full report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from contracts.facts import Fact
from contracts.reports import ChatReport
from memit_core.loading import LoadedModel
from memit_core.model import Model
from memit_core.progress import ProgressCallback
from worker.answers import EDITED, MAX_BATCH, Answers
from worker.chats import Chat, chats_of, mean_success


class LiveChats:
    """What the chats of one version gave so far; the base is not asked."""

    def __init__(self, loaded: LoadedModel, max_context: int) -> None:
        self._answers = Answers(loaded, max_context)
        self._reports: dict[Chat, ChatReport] = {}

    def forget(self) -> None:
        """Begin with another version."""
        self._reports = {}

    def ask(
        self,
        model: Model,
        edited: Collection[str],
        facts: Mapping[str, Fact],
        progress: ProgressCallback,
        after_part: Callable[[], object],
    ) -> float | None:
        """Share that is known in chats, of these facts (by id) or as many as a report asks.

        Args:
            model: the version's weights, with a tokenizer for this thread alone.
            edited: paths of the modules that have weights of their own there.
            after_part: called when some more chats were asked.

        Raises:
            Cancelled: raised by `progress`; the next call goes on from there.
            DeviceLost: the device is broken.
        """
        weights = {path: model.view.get_submodule(path).weight for path in edited}
        chats = chats_of(model.tokenizer, facts)
        left = [chat for chat in chats if chat not in self._reports]
        for start in range(0, len(left), MAX_BATCH):
            part = left[start : start + MAX_BATCH]
            answers = self._answers.ask(weights, [one.question(EDITED) for one in part], progress)
            for chat, answer in zip(part, answers, strict=True):
                self._reports[chat] = chat.report(answer)
            after_part()
        by_fact: dict[str, list[ChatReport]] = {}
        for chat in chats:
            by_fact.setdefault(chat.fact_id, []).append(self._reports[chat])
        return mean_success(by_fact)
