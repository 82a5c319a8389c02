"""What can be asked of a service, written once for `Memit` and `AsyncMemit`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack
from urllib.parse import quote

from memit_client import endpoints
from memit_client.caller import Caller
from memit_client.download import Format, download
from memit_client.edits import Edit, Progress
from memit_client.errors import NotFound, committed
from memit_client.facts import Fact, FactDetail, LiveFact
from memit_client.follow import follow
from memit_client.generation import Generation, Message, Sampling, TextEvent
from memit_client.probes import Health, Readiness
from memit_client.text_stream import text_events
from memit_client.versions import Alias, AliasPeriod, Ledger, Version, VersionDiff

ACTIVE = "active"
Prompt = str | Sequence[Message]


class Gate(TypedDict, total=False):
    """What a version must reach; what is left out takes the service's setting."""

    min_success: float
    min_efficacy: float
    min_live_success: float
    max_perplexity_ratio: float


class Methods:
    """Every method may raise any `MemitError` but those of edits that were waited for."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    # edits

    async def edit(
        self,
        facts: Iterable[Fact | Mapping[str, Any]] = (),
        *,
        retract: Iterable[str] = (),
        base: str | None = None,
        gate: Gate | None = None,
        activate: bool | None = None,
        drop_failed: bool = False,
        mom2_update_weight: float | None = None,
        if_epoch: int | None = None,
        idempotency_key: str | None = None,
        wait: bool = False,
    ) -> Edit:
        """Write facts, and take back those with the ids in `retract`, in one edit.

        Args:
            base: version to start from; by default what `active` names.
            activate: False for a trial that is never served; True for a branch, with `if_epoch`.
            drop_failed: solve once more without the facts that were not learned.
            mom2_update_weight: λ of the closed form, for this version alone.
            if_epoch: activate only while `active` is at this epoch.
            idempotency_key: the same key and body give the same edit; by default a new one.
            wait: return when it is committed; else as soon as it is accepted.

        Raises:
            InvalidRequest: a field is wrong, and nothing was accepted.
            NotCommitted: it was waited for and ended otherwise.
        """
        asked = {
            "facts": [fact.body() if isinstance(fact, Fact) else dict(fact) for fact in facts],
            "retract": list(retract),
            "base": base,
            "gate": gate,
            "activate": activate,
            "drop_failed": drop_failed,
            "mom2_update_weight": mom2_update_weight,
        }
        body = {name: value for name, value in asked.items() if value is not None}
        headers = _key(idempotency_key)
        if if_epoch is not None:
            headers["If-Match"] = f'"{if_epoch}"'
        edit = await self._caller.call(endpoints.POST_EDIT, body=body, headers=headers)
        return await self.wait(edit) if wait else edit

    async def add(self, subject: str, prompt: str, target_new: str, *, wait: bool = False) -> Edit:
        """Write one fact: `prompt` has a `{}` for the subject and goes on as `target_new`."""
        fact = Fact(subject=subject, prompt=prompt, target_new=target_new)
        return await self.edit([fact], wait=wait)

    async def wait(
        self,
        edit: Edit | str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as the blocking one has it
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Edit:
        """Follow an edit, or the edit with this id, until it is committed.

        A service that goes away meanwhile is waited for, a minute long.

        Args:
            timeout: seconds, overstepped by a few at most.
            on_progress: is called whenever there is news.

        Raises:
            EditRejected, EditFailed, EditCancelled: it ended so.
            WaitTimeout: it goes on.
        """
        edit_id = edit.id if isinstance(edit, Edit) else edit
        async with aclosing(follow(self._caller, edit_id, timeout)) as news:
            async for item in news:
                if isinstance(item, Edit):
                    return committed(item)
                if on_progress is not None:
                    on_progress(item)
        raise AssertionError("follow ends with an edit")

    async def get_edit(self, edit_id: str) -> Edit:
        """One edit, as it stands."""
        return await self._caller.call(endpoints.GET_EDIT, names={"edit_id": edit_id})

    def edits(self) -> AsyncGenerator[Edit, None]:
        """All edits, newest first."""
        return self._caller.pages(endpoints.LIST_EDITS)

    async def cancel(self, edit_id: str) -> Edit:
        """Cancel an edit; one that runs stops a little later.

        Raises:
            Conflict: it has ended.
        """
        return await self._caller.call(endpoints.CANCEL_EDIT, names={"edit_id": edit_id})

    # facts

    def facts(
        self, *, subject: str | None = None, version: str | None = None
    ) -> AsyncGenerator[LiveFact, None]:
        """Facts that are live in a version, by default `active`, newest first.

        Args:
            subject: a part of it, in any case.
        """
        return self._caller.pages(endpoints.LIST_FACTS, {"subject": subject, "version": version})

    async def get_fact(self, fact_id: str, *, version: str | None = None) -> FactDetail:
        """What became of a fact, and how it stands in a version."""
        params = {"version": version}
        return await self._caller.call(
            endpoints.GET_FACT, params=params, names={"fact_id": fact_id}
        )

    async def retract(
        self, fact_id: str, *, idempotency_key: str | None = None, wait: bool = False
    ) -> Edit:
        """Take a fact back; several at once: `edit(retract=[...])`.

        Raises:
            Conflict: it is not live in `active`.
            NotCommitted: as of `edit`.
        """
        headers = _key(idempotency_key)
        edit = await self._caller.call(
            endpoints.RETRACT_FACT, headers=headers, names={"fact_id": fact_id}
        )
        return await self.wait(edit) if wait else edit

    # generation

    async def generate(
        self,
        prompt: Prompt,
        *,
        version: str = ACTIVE,
        sticky: str | None = None,
        **sampling: Unpack[Sampling],
    ) -> Generation:
        """Continue a text, or answer a chat.

        Args:
            prompt: the text, or the messages of the chat; an assistant's at the end is gone on
                with.
            sticky: always the same version of an alias that is split, for the same text.
        """
        body = {**_question(prompt), "version": version, **sampling}
        return await self._caller.call(endpoints.GENERATE, body=body, headers=_sticky(sticky))

    async def compare(
        self,
        prompt: Prompt,
        versions: Sequence[str],
        *,
        sticky: str | None = None,
        **sampling: Unpack[Sampling],
    ) -> list[Generation]:
        """Ask several versions the same; their answers in the same order."""
        body = {**_question(prompt), "versions": list(versions), **sampling}
        headers = _sticky(sticky)
        answer = await self._caller.call(endpoints.GENERATE_EACH, body=body, headers=headers)
        return answer.answers

    def stream(
        self,
        prompt: Prompt,
        *,
        version: str = ACTIVE,
        sticky: str | None = None,
        **sampling: Unpack[Sampling],
    ) -> AsyncGenerator[TextEvent, None]:
        """`generate`, text by text; leaving the loop gives the rest up."""
        body = {**_question(prompt), "version": version, **sampling}
        return text_events(self._caller, body, _sticky(sticky))

    # versions and aliases

    def versions(self) -> AsyncGenerator[Version, None]:
        """All versions, newest first."""
        return self._caller.pages(endpoints.LIST_VERSIONS)

    async def get_version(self, ref: str = ACTIVE) -> Version:
        """One version by id (`v3-9f3c2a71b0de`), short id (`v3`) or alias."""
        return await self._caller.call(endpoints.GET_VERSION, names={"ref": ref})

    async def ledger(self, ref: str = ACTIVE) -> Ledger:
        """All facts of a version, with its hyperparameters and reports."""
        return await self._caller.call(endpoints.GET_LEDGER, names={"ref": ref})

    async def diff(self, a: str, b: str) -> VersionDiff:
        """Facts that were added, superseded or retracted from a to b, and how figures moved."""
        return await self._caller.call(endpoints.DIFF, names={"a": a, "b": b})

    async def download(
        self,
        ref: str,
        to: str | PathLike[str],
        *,
        format: Format = "delta",  # noqa: A002 - the service's name for it
        max_rank: int | None = None,
        allow_loss: bool = False,
    ) -> Path:
        """Put a version's files into the folder `to`, which is new or empty; returns it.

        A download that broke off goes on where it was when it is asked for again; of an adapter
        it begins anew.

        Args:
            format: `delta`, what the version adds to the base; `peft`, a LoRA folder.
            max_rank: of a LoRA folder.
            allow_loss: cut the adapter to `max_rank` even where that loses more than rounding.

        Raises:
            Conflict: the version does not fit an adapter of this rank.
            OSError: there is something at `to`, or it cannot be written.
        """
        folder = Path(to)
        params: dict[str, Any] = {}
        if format == "peft":
            params = {"max_rank": max_rank, "allow_loss": allow_loss}
        await download(self._caller, ref, folder, format, params)
        return folder

    async def aliases(self) -> list[Alias]:
        """All aliases, by name."""
        return await self._caller.call(endpoints.LIST_ALIASES)

    async def get_alias(self, name: str = ACTIVE) -> Alias:
        """Where an alias points."""
        return await self._caller.call(endpoints.GET_ALIAS, names={"name": name})

    def alias_history(self, name: str = ACTIVE) -> AsyncGenerator[AliasPeriod, None]:
        """What an alias named when, newest first."""
        return self._caller.pages(endpoints.ALIAS_HISTORY, names={"name": name})

    async def set_alias(
        self, name: str, to: str | Mapping[str, int], *, if_epoch: int | None = None
    ) -> Alias:
        """Point an alias at a version, and make the alias if there is none of this name.

        Args:
            to: the version, or several with the weights by which they split generations.
            if_epoch: only while the alias is at this epoch, 0 for one that is not there yet; by
                default the one that it is at now.

        Raises:
            PreconditionFailed: somebody else moved it.
            Conflict: the version was rejected by its gate.
        """
        epoch = await self._epoch(name) if if_epoch is None else if_epoch
        headers = {"If-Match": f'"{epoch}"'} if epoch else {"If-None-Match": "*"}
        body = {"version": to} if isinstance(to, str) else {"split": dict(to)}
        return await self._caller.call(
            endpoints.PUT_ALIAS, body=body, headers=headers, names={"name": name}
        )

    async def _epoch(self, name: str) -> int:
        try:
            return (await self.get_alias(name)).epoch
        except NotFound:
            return 0

    # probes

    async def health(self) -> Health:
        """Whether the service answers."""
        return await self._caller.call(endpoints.HEALTH)

    async def ready(self) -> Readiness:
        """What `active` names and how many workers hold it.

        Raises:
            Unavailable: edits or generations cannot be served; `errors` says what is missing.
        """
        return await self._caller.call(endpoints.READY)


def _question(prompt: Prompt) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"prompt": prompt}
    messages = list(prompt)
    going_on = bool(messages) and messages[-1]["role"] == "assistant"
    return {"messages": messages, "continue_final_message": going_on}


def _sticky(given: str | None) -> dict[str, str]:
    # Headers are ASCII; any text is a key, as it is here.
    return {} if given is None else {"X-Memit-Sticky": quote(given)}


def _key(given: str | None) -> dict[str, str]:
    return {"Idempotency-Key": given or uuid.uuid4().hex}
