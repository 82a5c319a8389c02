"""The engine: one step loop over the model's plain forward that serves rows of many versions.

Knows nothing of Redis or HTTP: tasks come by `submit`, events go to each task's sink. All calls
come from one thread.
"""

from __future__ import annotations

import copy
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from contracts import retry_after as after
from contracts.errors import ServiceError, Unavailable
from contracts.generation import ErrorEvent, GenerateTask
from contracts.ids import VersionId
from memit_core.loading import LoadedModel
from memit_core.transformers_internals import longest_input, special_tokens
from worker.engine.batch import KeyValueBatch, pad_left
from worker.engine.beginning import Encoder, beginning, cut_to_fit
from worker.engine.pace import Pace
from worker.engine.prefixes import Hit, Prefixes
from worker.engine.requests import Language, Request, Sink, requests_of
from worker.engine.sampling import Sampler
from worker.engine.text import TokenTexts
from worker.engine.versioned import ServingView

PREFILL_TOKENS = 2048
"""Prompt tokens (padding included) computed in one step at most; `Pace` says how many are: a longer
prompt is computed over several steps, between which running rows decode."""

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
    ) -> None:
        """Begin idle.

        Args:
            worker: id that `StartEvent` names.
            max_batch: rows decoded together.
            max_context: tokens of prompt and answer together; the model's own limit holds too.
            max_parked: requests that may wait for their version to be loaded.
            prefill_tokens: see `PREFILL_TOKENS`.
            prefix_bytes: see `Prefixes`.
        """
        self.residents = residents
        self.generated_tokens = 0
        self._row_seconds: float | None = None
        self._view = view
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
        self._hits: list[Hit | None] = []
        """What was known of each prompt that is computed."""
        self._waiting: list[Request] = []
        self._prefilling: list[Request] = []
        self._running: list[Request] = []
        self._places: list[int] = []
        """Row among the prompts that are computed, of each request that is prefilling."""
        self._batch = KeyValueBatch(0, view.device)
        self._prompts = KeyValueBatch(0, view.device)
        self._sampler = Sampler([], view.device)

    @property
    def running(self) -> int:
        """Rows in the batch, those whose prompt is being computed included."""
        return len(self._running) + len(self._prefilling)

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
        left = self._prompt_tokens()
        while left > 0:
            self._admit()
            if not self._prefilling:
                break
            spent = left
            with self._guard(self._prefilling):
                spent = self._prefill(left)
            left = self._pace.rest(left - spent)
        with self._guard(self._running):
            self._decode()
        self._retire()

    def _admit(self) -> None:
        """Move waiting requests to the next prefill, in turn; those whose version loads, wait."""
        failed = self.residents.load_wanted([request.version for request in self._waiting])
        now = time.time()
        room = 0 if self._prefilling else self._max_batch - len(self._running)
        admitted: list[Request] = []
        prompts: dict[tuple[str, tuple[int, ...]], int] = {}
        lengths: list[int] = []
        for request in self._in_turn():
            if request.version in failed:
                request.fail(failed[request.version])
            elif request.task.deadline < now and not request.started:
                request.fail(Unavailable("no row was free in time", retry_after=after.ENGINE_BUSY))
            if request.ended or len(admitted) >= room:
                continue
            # The choices of a task, and whoever asks the same, share the columns of one prompt.
            prompt = (request.version, tuple(request.ids))
            more = prompt not in prompts
            if admitted and more and not self._pace.together([*lengths, request.prompt_tokens]):
                room = 0
            elif self.residents.lease(request.version):
                if more:
                    prompts[prompt] = len(prompts)
                    lengths.append(request.prompt_tokens)
                admitted.append(request)
                request.start(self._worker, time.monotonic())
        if admitted:
            self._prefilling = admitted
            self._places = [prompts[r.version, tuple(r.ids)] for r in admitted]
            self._prompts = KeyValueBatch(len(prompts), self._view.device)
        self._waiting = [r for r in self._waiting if not r.ended and r not in admitted]

    def _in_turn(self) -> list[Request]:
        """Those that wait: first of the principals with the fewest rows, each one's in order."""
        rows = Counter(request.task.principal for request in [*self._prefilling, *self._running])
        turns: list[int] = []
        for request in self._waiting:
            turns.append(rows[request.task.principal])
            rows[request.task.principal] += 1
        order = sorted(range(len(turns)), key=turns.__getitem__)
        return [self._waiting[place] for place in order]

    def _prompt_tokens(self) -> int:
        """Prompt tokens that the next step may compute."""
        ready = [r for r in self._waiting if self.residents.holds(r.version)]
        return self._pace.tokens(len(self._running), len(self._prefilling) + len(ready))

    def _prefill(self, most: int) -> int:
        """Compute the next columns of the admitted prompts; after the last, the rows join.

        Args:
            most: tokens, padding included; but a column at least.

        Returns:
            How many there were.
        """
        asked = [self._prefilling[self._places.index(row)] for row in range(self._prompts.rows)]
        tokens, mask = pad_left([request.ids for request in asked], self._view.device)
        if not self._prompts.width:
            self._hits = [self._prefixes.find(request.owner, request.ids) for request in asked]
            self._prompts.begin(self._hits, mask)
        done = self._prompts.width
        new = slice(done, done + max(1, most // len(asked)))
        spent = tokens[:, new].numel()
        versions = [request.version for request in asked]
        begun = time.perf_counter()
        logits = self._prompts.forward(self._view, versions, tokens[:, new], mask[:, new])
        self._pace.prefilled(spent, time.perf_counter() - begun)
        if self._prompts.width < tokens.shape[1]:
            return spent
        sound = logits.amax(-1).isfinite().tolist()
        for row, (request, hit) in enumerate(zip(asked, self._hits, strict=True)):
            if sound[row] and self._prefixes.wants(request.ids, hit):
                states = self._prompts.states(row, len(request.ids))
                self._prefixes.keep(request.owner, request.ids, states)
        if len(asked) < len(self._prefilling):
            logits = logits[self._places]
        sampler = Sampler([request.row() for request in self._prefilling], self._view.device)
        self._emit(self._prefilling, sampler, logits)
        self._batch.join(self._prompts, self._places)
        self._sampler.join(sampler)
        self._running += self._prefilling
        self._end_prefill()
        self._retire()
        return spent

    def _end_prefill(self) -> None:
        self._prefilling, self._hits = [], []
        self._prompts = KeyValueBatch(0, self._view.device)

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
        if self._prefilling and all(request.ended for request in self._prefilling):
            self._release(self._prefilling)
            self._end_prefill()
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
