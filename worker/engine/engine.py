"""The engine: one step loop over the model's plain forward that serves rows of many versions.

Knows nothing of Redis or HTTP: tasks come by `submit`, events go to each task's sink. All calls
come from one thread.
"""

from __future__ import annotations

import copy
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from contracts import retry_after as after
from contracts.errors import ServiceError, Unavailable
from contracts.generation import ErrorEvent, GenerateTask
from contracts.ids import VersionId
from memit_core.loading import LoadedModel
from memit_core.transformers_internals import longest_input, special_tokens
from worker.engine.batch import KeyValueBatch
from worker.engine.beginning import Encoder, beginning, cut_to_fit
from worker.engine.pace import SHORT, Pace
from worker.engine.prefixes import Prefixes
from worker.engine.prompts import Prompts
from worker.engine.requests import Language, Request, Sink, requests_of
from worker.engine.sampling import Sampler
from worker.engine.text import TokenTexts
from worker.engine.versioned import ServingView

PREFILL_TOKENS = 2048
"""Prompt tokens (padding included) computed in one step at most; `Pace` says how many are: a longer
prompt is computed over several steps, between which running rows decode."""

MOST_COMPUTING = 2
"""Prefills under way at once, so that short prompts pass a long one and a second long one waits."""
RECENT = 0.1
"""Part of the newest answer in the mean time that a row is taken."""

logger = logging.getLogger(__name__)


class Holder(Protocol):
    """Which versions are in the serving view; `Residents` says what the methods do."""

    def load_wanted(self, wanted: Iterable[VersionId]) -> dict[VersionId, ServiceError]: ...
    def holds(self, version: VersionId) -> bool: ...
    def lease(self, version: VersionId) -> bool: ...
    def release(self, version: VersionId) -> None: ...


class DeviceLost(Exception):
    """The device reported an error after which nothing in this process can be trusted."""


class Engine:
    """Continuous batching of pinned requests: rows join and leave the batch between steps."""

    def __init__(
        self,
        loaded: LoadedModel,
        view: ServingView,
        residents: Holder,
        *,
        worker: str,
        max_batch: int,
        max_context: int,
        max_parked: int,
        prefill_tokens: int = PREFILL_TOKENS,
        prefix_bytes: int = 0,
        said: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin idle.

        Args:
            worker: id that `StartEvent` names.
            max_batch: rows decoded together.
            max_context: tokens of prompt and answer together; the model's own limit holds too.
            max_parked: requests that may wait for their version to be loaded.
            prefill_tokens: see `PREFILL_TOKENS`.
            prefix_bytes: see `Prefixes`.
            said: called amid a step, when prompts are computed and tokens are not yet.
        """
        self.residents = residents
        self.generated_tokens = 0
        self._row_seconds: float | None = None
        self._view = view
        self._said = said
        # A tokenizer of our own: fast tokenizers refuse to be used by two threads at once.
        self._tokenizer = copy.deepcopy(loaded.tokenizer)
        self._encoder = Encoder(self._tokenizer)
        self._unknown = loaded.unknown_tokens
        self._language = Language(
            self._tokenizer,
            TokenTexts(self._tokenizer),
            _eos_ids(loaded),
            special_tokens(loaded.tokenizer),
        )
        self._limit = min(max_context, longest_input(loaded.model.config) or max_context)
        self._worker = worker
        self._max_batch = max_batch
        self._max_parked = max_parked
        self._pace = Pace(prefill_tokens, on_cpu=view.device.type == "cpu")
        self._prefixes = Prefixes(prefix_bytes)
        self._waiting: list[Request] = []
        self._computing: list[Prompts] = []
        """Those admitted; several where one is so long that others are admitted beside it."""
        self._running: list[Request] = []
        self._batch = KeyValueBatch(0, view.device)
        self._sampler = Sampler([], view.device)

    @property
    def running(self) -> int:
        """Rows in the batch, those whose prompt is being computed included."""
        return len(self._running) + len(self._prefilling)

    @property
    def _prefilling(self) -> list[Request]:
        return [request for prompts in self._computing for request in prompts.requests]

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def starts_per_second(self) -> float | None:
        """Rows that become free while all are taken; None before the first answer."""
        return None if self._row_seconds is None else self._max_batch / self._row_seconds

    @property
    def busy(self) -> bool:
        return bool(self._requests())

    @property
    def room(self) -> int:
        """How many more tasks to take: requests that wait for their version keep no row busy."""
        parked = sum(not self.residents.holds(request.version) for request in self._waiting)
        rows = self._max_batch - self.running - (len(self._waiting) - parked)
        return max(0, min(rows, self._max_parked - parked))

    def submit(self, task: GenerateTask, sink: Sink) -> None:
        """Take a task; what becomes of it, its sink hears."""
        try:
            ids = beginning(task, self._encoder, self._limit, self._unknown)
        except ServiceError as error:
            sink(ErrorEvent(problem=error.problem()))
            return
        except Exception:
            # Of what else was taken with it, nothing may be lost.
            logger.exception("a request could not be begun")
            sink(ErrorEvent(problem=ServiceError("the request could not be begun").problem()))
            return
        task = cut_to_fit(task, len(ids), self._limit)
        self._waiting += requests_of(task, sink, ids, self._language)

    def drop(self, request_id: str) -> None:
        """Forget a request that nobody listens to any more; its row is free after the next step."""
        for request in self._requests():
            if request.task.id == request_id:
                request.ended = True

    def fail_all(self, error: ServiceError, *, elsewhere: bool = False) -> None:
        """End every request with this problem, and be idle after the next step.

        Args:
            elsewhere: another worker may answer them.
        """
        for request in self._requests():
            request.fail(error, elsewhere=elsewhere)

    @torch.inference_mode()
    def step(self) -> None:
        """One cycle: admit, prefill, decode once for all rows, retire; text goes out as it comes.

        Raises:
            DeviceLost: the device is broken; the process should end.
        """
        begun, usual, new = self._prompt_tokens()
        for prompts, tokens in zip(list(self._computing), begun, strict=True):
            if tokens and not prompts.ended:
                self._compute(prompts, tokens)
        while admitted := self._admit(new):
            most = new if admitted.longest <= SHORT else min(new, usual)
            new = self._pace.rest(new - self._compute(admitted, most))
        # Who waits for a first token has it before all rows' next ones are computed.
        self._said()
        with self._guard(self._running):
            self._decode()
        self._retire()

    def _admit(self, tokens: int) -> Prompts | None:
        """Move waiting requests to the next prefill, in turn; those whose version loads, wait.

        Args:
            tokens: that are left for it in this step; without any, none is moved.
        """
        failed = self.residents.load_wanted([request.version for request in self._waiting])
        now = time.time()
        free = tokens > 0 and len(self._computing) < MOST_COMPUTING
        room = self._max_batch - self.running if free else 0
        admitted: list[Request] = []
        lengths: dict[tuple[str, tuple[int, ...]], int] = {}
        for request in self._in_turn():
            if request.version in failed:
                request.fail(failed[request.version])
            elif request.task.deadline < now and not request.started:
                request.fail(Unavailable("no row was free in time", retry_after=after.ENGINE_BUSY))
            if request.ended or len(admitted) >= room:
                continue
            # The choices of a task, and whoever asks the same, share one prompt.
            prompt = (request.version, tuple(request.ids))
            others = {**lengths, prompt: request.prompt_tokens}
            shares = prompt in lengths or self._pace.together(list(others.values()))
            if admitted and not shares:
                room = 0
            elif self.residents.lease(request.version):
                lengths = others
                admitted.append(request)
                request.start(self._worker, time.monotonic())
        self._waiting = [r for r in self._waiting if not r.ended and r not in admitted]
        if not admitted:
            return None
        self._computing.append(Prompts(admitted))
        return self._computing[-1]

    def _in_turn(self) -> list[Request]:
        """Those that wait: first of the principals with the fewest rows, each one's by priority."""
        rows = Counter(request.task.principal for request in [*self._prefilling, *self._running])
        turns: dict[int, int] = {}
        for place in sorted(
            range(len(self._waiting)), key=lambda at: self._waiting[at].task.priority
        ):
            principal = self._waiting[place].task.principal
            turns[place] = rows[principal]
            rows[principal] += 1
        order = sorted(turns, key=lambda place: (turns[place], place))
        return [self._waiting[place] for place in order]

    def _prompt_tokens(self) -> tuple[list[int], int, int]:
        """Prompt tokens of the next step: of each that was begun before, of a long one that is new,
        and of new ones."""
        ready = [r for r in self._waiting if self.residents.holds(r.version)]
        # The choices of a task share one prompt.
        lengths = list({r.task.id: r.prompt_tokens for r in ready}.values())
        begun = {r.task.id for r in self._prefilling}
        waiting = len(begun) + sum(length > SHORT for length in lengths)
        tokens = self._pace.tokens(len(self._running), waiting)
        room = len(self._computing) < MOST_COMPUTING and self.running < self._max_batch
        each, new = self._pace.split(tokens, len(self._computing), new=bool(ready) and room)
        burst = self._pace.burst(len(self._running), lengths)
        return each, tokens, max(new, burst)

    def _compute(self, prompts: Prompts, most: int) -> int:
        """Compute a piece of prompts, of so many tokens; after the last, their rows join."""
        spent, begun = most, time.perf_counter()
        with self._guard(prompts.requests):
            at_end = self._pace.to_the_end(most)
            spent = prompts.compute(self._view, self._prefixes, most, at_end)
            self._pace.prefilled(spent, time.perf_counter() - begun)
            if (computed := prompts.computed) is not None:
                self._join(prompts, *computed)
        self._retire()
        return spent

    def _join(self, prompts: Prompts, batch: KeyValueBatch, logits: torch.Tensor) -> None:
        sampler = Sampler([request.row() for request in prompts.requests], self._view.device)
        self._emit(prompts.requests, sampler, logits)
        self._batch.join(batch, prompts.places)
        self._sampler.join(sampler)
        self._running += prompts.requests
        self._computing.remove(prompts)

    def _decode(self) -> None:
        """One token more for every running row."""
        if not self._running:
            return
        last = torch.tensor([[request.ids[-1]] for request in self._running])
        tokens = last.to(self._view.device)
        versions = [request.version for request in self._running]
        begun = time.perf_counter()
        logits = self._batch.forward(self._view, versions, tokens, torch.ones_like(tokens))
        self._emit(self._running, self._sampler, logits)
        self._pace.decoded(time.perf_counter() - begun)

    def _emit(self, requests: Sequence[Request], sampler: Sampler, logits: torch.Tensor) -> None:
        """Choose each row's token from logits [rows, vocabulary] and give it to its request."""
        chosen = sampler.choose(logits)
        for row, request in enumerate(requests):
            if request.ended:
                continue
            if not chosen.finite[row]:
                logger.error("no finite logits", extra=_ids([request.task]))
                request.fail(Unavailable(f"version {request.version} gave no finite logits"))
                continue
            logprobs = None if chosen.logprobs is None else chosen.logprobs[row]
            request.accept(chosen.tokens[row], logprobs)
            self.generated_tokens += 1

    def _retire(self) -> None:
        """Let ended rows leave the batch, and give their leases back."""
        for prompts in [one for one in self._computing if one.ended]:
            self._release(prompts.requests)
            self._computing.remove(prompts)
        stay = [row for row, request in enumerate(self._running) if not request.ended]
        if len(stay) == len(self._running):
            return
        self._release([request for request in self._running if request.ended])
        if stay:
            order = self._batch.keep(stay)
            self._sampler.keep(order)
            self._running = [self._running[row] for row in order]
        else:
            self._running = []
            self._batch = KeyValueBatch(0, self._view.device)
            self._sampler = Sampler([], self._view.device)

    def _release(self, requests: Sequence[Request]) -> None:
        now = time.monotonic()
        for request in requests:
            self.residents.release(request.version)
            seconds = now - request.admitted_at
            mean = seconds if self._row_seconds is None else self._row_seconds
            self._row_seconds = (1 - RECENT) * mean + RECENT * seconds

    def _requests(self) -> list[Request]:
        return [*self._waiting, *self._prefilling, *self._running]

    @contextmanager
    def _guard(self, requests: Sequence[Request]) -> Iterator[None]:
        """Let an unexpected error end these requests only, whose keys and values it spoiled."""
        try:
            yield
        except Exception as error:
            tasks = {request.task.id: request.task for request in requests}
            logger.exception(
                "a step failed; %d requests end with it", len(requests), extra=_ids(tasks.values())
            )
            for request in requests:
                request.fail(Unavailable("the engine failed", retry_after=after.ENGINE_BUSY))
            if "CUDA error" in str(error):
                raise DeviceLost(str(error)) from error


def _ids(tasks: Iterable[GenerateTask]) -> dict[str, str]:
    """What a line of the log says of these tasks, in their order."""
    asked = list(tasks)
    return {
        "generation_id": ", ".join(task.id for task in asked),
        "version_id": ", ".join(dict.fromkeys(task.version for task in asked)),
        "request_id": ", ".join(dict.fromkeys(task.origin.request_id or "-" for task in asked)),
    }


def _eos_ids(loaded: LoadedModel) -> frozenset[int]:
    """Tokens that end an answer: those of the generation config, and the tokenizer's."""
    configured: Any = loaded.model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in [*ids, loaded.tokenizer.eos_token_id] if i is not None)
