"""What every edit of a base needs besides its facts: each thing is made once, and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path

import torch

from memit_core.cache import Cache
from memit_core.chat_context import ChatContext, chat_context
from memit_core.covariance import compute_covariance, decode_covariance, encode_covariance
from memit_core.decoder import Decoder
from memit_core.hparams import HParams
from memit_core.loading import LoadedModel
from memit_core.precision import fast_decoder, z_dtype
from memit_core.progress import ProgressCallback, silent
from memit_core.solve import KeySolver, Solver
from memit_core.templates import decode_contexts, encode_contexts, sample_contexts
from memit_core.word_ends import word_ends


@dataclass(frozen=True)
class Prepared:
    """All of it."""

    contexts: tuple[str, ...]
    """Context prefixes, the empty one first."""
    chat: ChatContext | None
    """One context more, through the chat template."""
    covariance: dict[int, torch.Tensor]
    """C by layer, [m, m] float32."""
    solvers: Mapping[int, KeySolver]
    """By layer; a solver keeps the factor of its C once it is made."""
    decoders: tuple[Decoder, Decoder]
    """The base in its own precision, and its upper blocks in that of the z optimisation."""
    word_ends: torch.Tensor | None
    """Tokens that end a word, bool [vocabulary], where z learns a target's end."""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What keys are read after: the contexts, and what stands before the prompt in a chat."""
        return self.contexts if self.chat is None else (*self.contexts, self.chat.before)


class Preparation:
    """Makes each thing when it is first asked for.

    Args:
        corpus: text for the covariance.
        cache: where contexts and covariance are kept.
        z_dtype, scratch, save_seconds: as `Editor` takes them.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        hparams: HParams,
        corpus: str,
        cache: Cache,
        *,
        z_dtype: str,
        scratch: Path | None,
        save_seconds: float,
    ) -> None:
        self._loaded, self._hparams = loaded, hparams
        self._corpus, self._cache = corpus, cache
        self._z_dtype = z_dtype
        self._scratch, self._save_seconds = scratch, save_seconds
        self._contexts: tuple[str, ...] | None = None
        self._covariance: dict[int, torch.Tensor] | None = None
        self._solvers: dict[int, Solver] | None = None
        self._decoders: tuple[Decoder, Decoder] | None = None
        self._word_ends: torch.Tensor | None = None

    def everything(self, progress: ProgressCallback = silent) -> Prepared:
        """What is missing is made now, which may take minutes.

        Raises:
            MemitError: the corpus is empty, or the covariance not finite.
            Cancelled: raised by `progress`.
        """
        self.everything_but_decoders(progress)
        return Prepared(
            self.contexts(),
            self.chat,
            self.covariance(),
            self.solvers(),
            self.decoders(),
            self.word_ends(),
        )

    def everything_but_decoders(self, progress: ProgressCallback = silent) -> None:
        """Those hold weights in another precision; nothing else hangs on the last layer alone."""
        self.contexts(progress)
        self.covariance(progress)
        self.word_ends()

    def reuse(self, other: Preparation) -> None:
        """Take over what `other`, of the same base and corpus, has made and that serves here."""
        mine, theirs = self._hparams, other._hparams
        if (mine.n_contexts, mine.context_length) == (theirs.n_contexts, theirs.context_length):
            self._contexts = other._contexts
        if mine.mom2_n_tokens == theirs.mom2_n_tokens and other._covariance is not None:
            known = {layer: c for layer, c in other._covariance.items() if layer in mine.layers}
            if len(known) == len(mine.layers):
                self._covariance = known
                self._solvers = {layer: other.solvers()[layer] for layer in mine.layers}
        if mine.layers[-1] == theirs.layers[-1]:
            self._decoders = other._decoders
        self._word_ends = other._word_ends

    def contexts(self, progress: ProgressCallback = silent) -> tuple[str, ...]:
        """Context prefixes, the empty one first."""
        if self._contexts is None:
            progress("templates", 0, 1)
            hp = self._hparams
            name = f"templates/{hp.n_contexts}x{hp.context_length}"
            data = self._cache.get(name)
            if data is None:
                sampled = sample_contexts(self._loaded.runnable(), hp)
                data = self._cache.put_once(name, encode_contexts(sampled))
            self._contexts = decode_contexts(data)
            progress("templates", 1, 1)
        return self._contexts

    @cached_property
    def chat(self) -> ChatContext | None:
        """See `chat_context`; None too where the hyperparameters do not ask for it."""
        return chat_context(self._loaded.tokenizer) if self._hparams.chat_context else None

    @property
    def contexts_digest(self) -> str:
        """SHA-256 in hex of all contexts."""
        contexts = [*self.contexts(), *([astuple(self.chat)] if self.chat else [])]
        return hashlib.sha256(json.dumps(contexts).encode()).hexdigest()

    def covariance(self, progress: ProgressCallback = silent) -> dict[int, torch.Tensor]:
        """C by layer, [m, m] float32."""
        if self._covariance is None:
            name = f"covariance/{self.covariance_digest}"
            data = self._cache.get(name)
            if data is None:
                computed = compute_covariance(
                    self._loaded.runnable(),
                    self._hparams,
                    self._corpus,
                    progress,
                    self.partial_covariance(),
                    self._save_seconds,
                )
                data = self._cache.put_once(name, encode_covariance(computed))
            self._covariance = decode_covariance(data)
        return self._covariance

    @cached_property
    def covariance_digest(self) -> str:
        """SHA-256 in hex of what the covariance is computed from, besides the base."""
        hp = self._hparams
        source = [
            hashlib.sha256(self._corpus.encode()).hexdigest(),
            hp.mom2_n_tokens,
            list(hp.layers),
        ]
        return hashlib.sha256(json.dumps(source).encode()).hexdigest()

    def partial_covariance(self) -> Path | None:
        """Where a covariance that is not finished is saved, if anywhere."""
        if self._scratch is None:
            return None
        name = f"{self._loaded.digest}{self.covariance_digest}"
        return self._scratch / f"covariance-{hashlib.sha256(name.encode()).hexdigest()}.part"

    def solvers(self) -> dict[int, Solver]:
        """By layer."""
        if self._solvers is None:
            device = self._loaded.device
            self._solvers = {layer: Solver(c, device) for layer, c in self.covariance().items()}
        return self._solvers

    def factorise(self, progress: ProgressCallback = silent) -> None:
        """Make the factor of each layer's C, which the first edit of few facts would make."""
        missing = [solver for solver in self.solvers().values() if not solver.factored]
        for i, solver in enumerate(missing):
            progress("factors", i, len(missing))
            solver.factor()
            progress("factors", i + 1, len(missing))

    def decoders(self) -> tuple[Decoder, Decoder]:
        """The base in its own precision, and its upper blocks in that of the z optimisation.

        Kept, since making them takes as long as several steps of an edit of one fact.
        """
        if self._decoders is None:
            loaded = self._loaded
            dtype = z_dtype(loaded.device, loaded.dtype, self._z_dtype)
            exact = Decoder(loaded.runnable())
            self._decoders = exact, fast_decoder(loaded, dtype, self._hparams.layers[-1])
        return self._decoders

    def word_ends(self) -> torch.Tensor | None:
        """Tokens that end a word, bool [vocabulary]; None where z learns no end."""
        if self._word_ends is None and self._hparams.v_end_factor:
            head = self._loaded.model.get_output_embeddings()
            self._word_ends = word_ends(self._loaded.tokenizer, head.weight.shape[0])
        return self._word_ends
