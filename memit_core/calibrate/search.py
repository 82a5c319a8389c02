"""The search: from where facts sit to hyperparameters that write many of them, in stages.

1. *trace*: causal tracing shows where facts are read out, for people; nothing is edited.
2. *layers*: a few facts into layers of the lower part, alone and spread over the layers below; from
   a fifth of the depth outwards, until that leads nowhere.
3. *z*: from the best of these, one setting after another is moved while that helps: λ, the last
   layer, the spread, the clamp, Adam's step and the number of steps.
4. *many*: λ again, on as many other facts at once as the time allows; what they say is the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from memit_core.calibrate.causal_trace import Trace, Tracer, decode_trace
from memit_core.calibrate.notebook import Notebook
from memit_core.calibrate.scales import Scale, Settings, measure_scales
from memit_core.calibrate.trial import Bench, Outcome
from memit_core.eval.records import Record
from memit_core.facts import Fact
from memit_core.hparams import HParams
from memit_core.progress import ProgressCallback

REVISION = 1
"""Raised when a trial measures otherwise."""
FEW, SOME = 8, 16
"""Facts of stage 2 and of stage 3."""
SHARES = {"trace": 0.08, "layers": 0.4, "z": 0.65, "many": 1.0}
"""When each stage is over: of the time that is left after the covariance."""
LOWER_PART = 0.62
LIKELY = 0.2
"""Of the depth: where published presets, and those measured here, read z."""
STRIDE = 20
"""Layers tried in the whole depth, if all of them were."""
PATIENCE = 4
"""Layers tried without gain before stage 2 is over."""
SPREAD = 5
"""Layers that share the way in the published presets."""
GAIN = 0.003
"""By which a move must raise the utility."""
MOVES = 3
"""In one direction."""
SIZE_TRIALS = 4
"""That stage 4 wants to have time for."""
TRACED = 8
LEAST_TRACED = 2
START = Settings((0,), old_memory=0.3, clamp=0.75, step=0.1, steps=25)
START_ALONE = replace(START, old_memory=0.03)
"""One layer alone has nobody above that makes up for what it does not write."""
START_NORM = replace(START_ALONE, clamp=2.0, step=0.5)
"""Behind a norm; the clamp compares with what the projection gives."""


@dataclass(frozen=True)
class Tried:
    """One row of the table that led to the result."""

    stage: str
    settings: Settings
    hparams: HParams
    outcome: Outcome


@dataclass(frozen=True)
class Found:
    """Where a search ended, and its way there."""

    best: Tried
    tried: list[Tried]
    trace: Trace
    before: Outcome
    """The unedited model on the facts of `best`."""


class Search:
    """Finds hyperparameters on one model.

    Args:
        few: `FEW` + `SOME` records, for stages 2 and 3.
        many: records for stage 4, and for the verdict.
        progress: told in seconds, of those that the whole may take.
    """

    def __init__(
        self,
        bench: Bench,
        notebook: Notebook,
        few: Sequence[Record],
        many: Sequence[Record],
        progress: ProgressCallback,
    ) -> None:
        self._bench, self._notebook = bench, notebook
        self._few, self._some, self._many = few[:FEW], few[FEW : FEW + SOME], many
        self._progress = progress
        self._scales: dict[int, Scale] = {}
        self._began = 0.0
        structure = bench.loaded.structure
        self._hidden, self._depth = structure.hidden, len(structure.blocks)
        self._through_norm = bool(structure.carry.norms)
        self._tried: list[Tried] = []

    def run(self) -> Found:
        """Go through the stages.

        Raises:
            MemitError: the model cannot be edited, or its corpus is too short.
            Cancelled: raised by `progress`.
        """
        self._scales = self._measured_scales()
        self._began = self._notebook.spent
        trace = self._traced()
        best = self._best_layers()
        best = self._climbed("z", best.settings, self._some, self._moves())
        many = self._many[: self._affordable()]
        before = self._unedited(many)
        best = self._climbed("many", best.settings, many, [WEIGHT_MOVE])
        return Found(best, self._tried, trace, before)

    # stage 1

    def _measured_scales(self) -> dict[int, Scale]:
        preparation = self._bench.preparation

        def prepare() -> dict[str, dict[str, float]]:
            preparation.everything_but_decoders(self._progress)
            facts = [record.fact for record in self._few]
            found = measure_scales(self._bench.loaded.runnable(), facts, preparation.solvers())
            return {str(layer): asdict(scale) for layer, scale in found.items()}

        key = [REVISION, "scales", preparation.covariance_digest, _contents(self._few)]
        values = self._notebook.once(key, prepare)
        # Where the scales were read back, the rest still has to be.
        preparation.everything_but_decoders(self._progress)
        return {int(layer): Scale(**scale) for layer, scale in values.items()}

    def _traced(self) -> Trace:
        """As many facts as the time allows, the first ones in turn."""
        facts = [record.fact for record in [*self._few, *self._some]][:TRACED]

        def trace() -> str:
            tracer = Tracer(self._bench.loaded.runnable(), facts)
            for i, fact in enumerate(facts):
                self._report()
                if i >= LEAST_TRACED and self._until("trace") < 0:
                    break
                tracer.add(fact)
            return tracer.trace().encode().decode()

        return decode_trace(
            self._notebook.once([REVISION, "trace", _written(facts)], trace).encode()
        )

    # stage 2

    def _best_layers(self) -> Tried:
        first, *others = self._last_layers()
        best = self._best_of(first)
        since = 0
        for layer in others:
            cost = max(one.outcome.z_seconds + 2 * one.outcome.seconds for one in self._tried)
            if since == PATIENCE or self._until("layers") < cost:
                break
            tried = self._best_of(layer)
            better = self._utility(tried) > self._utility(best)
            best, since = (tried, 0) if better else (best, since + 1)
        return best

    def _best_of(self, layer: int) -> Tried:
        """The better of the ways to edit with this last layer."""
        tried = [self._try("layers", one, self._few) for one in self._of_last(layer)]
        return max(tried, key=self._utility)

    def _last_layers(self) -> list[int]:
        """Candidates for the last edited layer, the likely ones first."""
        apart = max(1, round(self._depth / STRIDE))
        likely = min(round(LIKELY * self._depth), len(self._scales) - 1)
        candidates = [layer for layer in self._scales if (layer - likely) % apart == 0]
        return sorted(candidates, key=lambda layer: (abs(layer - likely), layer))

    def _of_last(self, layer: int) -> Iterator[Settings]:
        alone = START_NORM if self._through_norm else START_ALONE
        yield replace(alone, layers=(layer,))
        if layer and not self._through_norm:
            yield replace(START, layers=tuple(range(max(0, layer - SPREAD + 1), layer + 1)))

    # stage 3

    def _moves(self) -> list[tuple[Move, tuple[float, ...]]]:
        """Each with the two factors or steps that it is tried by."""
        return [
            WEIGHT_MOVE,
            (self._shift, (1, -1)),
            (_clamp, (1.5, 1 / 1.5)),
            (_step, (2.0, 0.5)),
            (self._widen, (1, -1)),
            (_steps, (0.6,)),
        ]

    def _shift(self, settings: Settings, by: float) -> Settings:
        moved = tuple(layer + int(by) for layer in settings.layers)
        inside = moved[0] >= 0 and moved[-1] in self._scales
        return replace(settings, layers=moved) if inside else settings

    def _widen(self, settings: Settings, by: float) -> Settings:
        """One layer more below, or one less."""
        first = settings.layers[0] - int(by)
        inside = 0 <= first <= settings.layers[-1]
        layers = tuple(range(first, settings.layers[-1] + 1))
        return replace(settings, layers=layers) if inside else settings

    def _climbed(
        self,
        stage: str,
        start: Settings,
        records: Sequence[Record],
        moves: Sequence[tuple[Move, tuple[float, ...]]],
    ) -> Tried:
        """The best found by moving one setting at a time, each as long as that helps."""
        best = self._try(stage, start, records)
        took = best.outcome.z_seconds + best.outcome.seconds
        for move, factors in moves:
            # Fewer steps are as good where nothing is lost.
            gain = -GAIN if move is _steps else GAIN
            for by in factors:
                moved = False
                for _ in range(MOVES):
                    settings = move(best.settings, by)
                    if settings == best.settings or self._until(stage) < took:
                        break
                    tried = self._try(stage, settings, records)
                    if self._utility(tried) < self._utility(best) + gain:
                        break
                    best, moved = tried, True
                if moved:
                    break
        return best

    # stage 4

    def _affordable(self) -> int:
        """Records that `SIZE_TRIALS` trials of stage 4 have time for; at least those of stage 3."""
        last = self._tried[-1].outcome
        z = max(one.outcome.z_seconds / one.outcome.facts for one in self._tried)
        fact = z + SIZE_TRIALS * last.seconds / last.facts
        fits = int(0.8 * self._until("many") / max(fact, 1e-6))
        return min(len(self._many), max(len(self._some), fits))

    # trials

    def _until(self, stage: str) -> float:
        """Seconds until a stage shall be over; negative once it is late."""
        left = self._notebook.seconds - self._began
        return self._began + SHARES[stage] * left - self._notebook.spent

    def _try(self, stage: str, settings: Settings, records: Sequence[Record]) -> Tried:
        self._report()
        n_tokens = self._bench.n_tokens
        hparams = settings.hparams(self._scales, self._hidden, self._through_norm, n_tokens)
        key = [REVISION, "trial", hparams.as_dict(), _contents(records)]
        values = self._notebook.once(key, lambda: asdict(self._bench.trial(hparams, records)))
        tried = Tried(stage, settings, hparams, Outcome(**values))
        self._tried.append(tried)
        self._report()
        return tried

    def _unedited(self, records: Sequence[Record]) -> Outcome:
        key = [REVISION, "unedited", _contents(records)]
        return Outcome(**self._notebook.once(key, lambda: asdict(self._bench.unedited(records))))

    def _utility(self, tried: Tried) -> float:
        return tried.outcome.utility(len(self._many))

    def _report(self) -> None:
        most = round(self._notebook.seconds)
        self._progress("calibrate", min(round(self._notebook.spent), most), most)


Move = Callable[[Settings, float], Settings]


def _old_memory(settings: Settings, by: float) -> Settings:
    return replace(settings, old_memory=settings.old_memory * by)


WEIGHT_MOVE = (_old_memory, (3.0, 1 / 3))
"""λ, up and down."""


def _clamp(settings: Settings, by: float) -> Settings:
    return replace(settings, clamp=settings.clamp * by)


def _step(settings: Settings, by: float) -> Settings:
    return replace(settings, step=settings.step * by)


def _steps(settings: Settings, by: float) -> Settings:
    return replace(settings, steps=max(5, round(settings.steps * by)))


def _written(facts: Sequence[Fact]) -> list[Any]:
    return [[*fact.content, fact.target_true] for fact in facts]


def _contents(records: Sequence[Record]) -> list[Any]:
    """All that a trial asks."""
    asked = [[list(record.paraphrases), list(map(list, record.neighbors))] for record in records]
    return [_written([record.fact for record in records]), asked]
