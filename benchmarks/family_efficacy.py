"""What is known of each family: agreement with the reference, and whether an edit takes.

    python -m benchmarks.family_efficacy [FAMILY ...] [--json OUT.json]

*Agreement*: tiny models with random weights against the float64 reference of the tests.

*Efficacy*: fifty facts at once into a small trained model, asked for greedily afterwards.
The models know a made-up world and are trained when they are first asked for (tests/training.py):
a minute or two each on one core. Fifty people get a new object of one relation, in one wording.
Then everything is asked greedily: the edited prompts, the same facts in the other wordings, and as
neighbours the facts of all other people in the edited wordings. λ is found on fifty other facts of
the same world. The table has efficacy, other wordings and neighbours (unedited), in percent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from memit_core import Editor, Fact, HParams, LoadedModel, group_facts
from memit_core.model import Model
from memit_core.target_scores import score_targets
from tests.synthetic_world import RELATIONS, Edit, World
from tests.tiny_models import FAMILIES
from tests.trained_models import the_world, trained_model
from tests.unit.memit_core.examples import (
    FACTS,
    by_layer,
    editor_of,
    loaded_tiny,
    optimise,
    settings_of,
)
from tests.unit.memit_core.examples import HPARAMS as TINY_HPARAMS
from tests.unit.memit_core.test_against_reference import error, insertion_of, reference_of

EDITS = 50

HPARAMS = HParams(
    layers=(0, 1),
    v_lr=0.3,
    v_beta1=0.5,
    v_beta2=0.9,
    v_max_grad_steps=60,
    v_weight_decay=0.1,
    clamp_norm_factor=5.0,
    mom2_n_tokens=20_000,
    bare_share=0.35,
    reweight_rounds=3,
)
"""The same for every family, but for λ."""
WEIGHTS = (300.0, 100.0, 30.0, 10.0)
"""λ that are tried."""
LEAST, LEAST_IN_OTHER_WORDS, MOST_LOST = 95, 90, 5
"""What an edit is held to: its efficacy, its facts in other wordings, and points of neighbours."""


@dataclass(frozen=True)
class Efficacy:
    """Shares of prompts with the right greedy answer, in percent."""

    known: float
    """Of all facts in all wordings, by the unedited model."""
    efficacy_before: float
    efficacy: float
    other_wordings: float
    neighbours_before: float
    neighbours: float

    @property
    def margin(self) -> float:
        """Points by which the nearest bound is met; negative where it is missed."""
        return min(
            self.efficacy - LEAST,
            self.other_wordings - LEAST_IN_OTHER_WORDS,
            MOST_LOST - (self.neighbours_before - self.neighbours),
        )


@dataclass(frozen=True)
class Questions:
    """Facts to write, and pairs of prompt and answer to ask."""

    facts: list[Fact]
    edited: list[tuple[str, str]]
    others: list[tuple[str, str]]
    neighbours: list[tuple[str, str]]
    everything: list[tuple[str, str]]


def questions(world: World, edits: Sequence[Edit], unseen: Sequence[Edit] = ()) -> Questions:
    """What is written and asked for these edits; the facts of `unseen` are left out."""
    facts = [Fact(e.person, e.relation.wordings[0], e.new) for e in edits]
    edited = {e.person for e in edits}
    left_out = {(e.person, e.relation) for e in unseen}
    return Questions(
        facts=facts,
        edited=[(fact.filled, fact.target_new) for fact in facts],
        others=[(w.format(e.person), e.new) for e in edits for w in e.relation.wordings[1:]],
        neighbours=[
            (relation.wordings[0].format(person), world.object(person, relation))
            for person in sorted(set(world.people) - edited)
            for relation in RELATIONS
            if (person, relation) not in left_out
        ],
        everything=[
            (s.prompt, world.object(s.person, s.relation))
            for s in world.statements
            if (s.person, s.relation) not in left_out
        ],
    )


def measure(loaded: LoadedModel, world: World, weight: float) -> Efficacy:
    """Edit with this λ, and ask."""
    asked = questions(world, world.edits(EDITS))
    return tried(loaded, world, asked, (weight,))[weight]


def found_weight(loaded: LoadedModel, world: World) -> float:
    """The λ with the largest margin on as many other facts, none of which is among those measured;
    of equal ones the largest, which spares other text most."""
    unseen = world.edits(EDITS)
    edits = world.edits(EDITS, seed=1, but=unseen)
    outcomes = tried(loaded, world, questions(world, edits, unseen), WEIGHTS)
    return max(outcomes, key=lambda weight: (outcomes[weight].margin, weight))


def tried(
    loaded: LoadedModel,
    world: World,
    asked: Questions,
    weights: Sequence[float],
) -> dict[float, Efficacy]:
    """Write the facts with each λ, and ask."""
    editor = Editor(loaded, HPARAMS, corpus=world.text, z_dtype="float32")
    before = editor.base
    known, neighbours = said(before, asked.everything), said(before, asked.neighbours)
    efficacy = said(before, asked.edited)
    groups, outcomes = group_facts(asked.facts), {}
    for weight in weights:
        after = editor.model_with(editor.solve(groups, mom2_update_weight=weight))
        outcomes[weight] = Efficacy(
            known=known,
            efficacy_before=efficacy,
            efficacy=said(after, asked.edited),
            other_wordings=said(after, asked.others),
            neighbours_before=neighbours,
            neighbours=said(after, asked.neighbours),
        )
    return outcomes


def said(model: Model, pairs: Sequence[tuple[str, str]]) -> float:
    """How many of the prompts are answered by their object, in percent."""
    scores = score_targets(model, pairs, ends=range(len(pairs)))
    return 100 * sum(score.exact for score in scores) / len(scores)


def agreement(family: str) -> tuple[float, float]:
    """Largest relative differences of z, as a share of ‖z - h‖, and of Δ, as one of itself, from
    the float64 reference: what `test_against_reference.py` bounds for each family."""
    loaded = loaded_tiny(family)
    groups = group_facts(FACTS)
    reference, settings = reference_of(loaded), settings_of(TINY_HPARAMS)
    of_z = []
    for group, ours in zip(groups, optimise(loaded, groups), strict=True):
        theirs = reference.compute_z(group.facts, settings)
        of_z.append(error(ours.z, theirs.z, scale=theirs.z - theirs.h0))
    editor = editor_of(loaded)
    deltas = by_layer(editor, editor.solve(groups))
    expected = insertion_of(editor, groups)
    of_delta = [
        error(delta.matrix(torch.device("cpu")), expected[layer].delta)
        for layer, delta in deltas.items()
    ]
    return max(of_z), max(of_delta)


REAL = {"llama_tied": "SmolLM2-135M-Instruct", "gemma3": "Gemma 3 270M"}
"""Real models that were edited; of the other families none could be had."""


def main(
    families: Annotated[list[str] | None, typer.Argument(help="All unless given.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write it.")] = None,
) -> None:
    """Measure each family and print its line."""
    table = Table("family", "z, Δ", "λ", "E, W, N", "real model")
    values = {}
    for family in families or FAMILIES:
        of_z, of_delta = agreement(family)
        loaded = trained_model(family)
        weight = found_weight(loaded, the_world())
        found = measure(loaded, the_world(), weight)
        shown = (found.efficacy, found.other_wordings, found.neighbours)
        table.add_row(
            f"`{family}`",
            f"{of_z:.0e}, {of_delta:.0e}",
            f"{weight:g}",
            f"{', '.join(f'{one:.0f}' for one in shown)} ({found.neighbours_before:.0f})",
            REAL.get(family, "none could be had"),
        )
        values[family] = {"z": of_z, "delta": of_delta, "mom2_update_weight": weight}
        values[family] |= asdict(found)
        # written as they come: all of them take minutes
        if json_out is not None:
            json_out.write_text(json.dumps(values, indent=2) + "\n")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
