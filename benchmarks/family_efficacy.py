"""Fifty facts at once into a small trained model of each family, asked for greedily afterwards.

    python -m benchmarks.family_efficacy [FAMILY ...] [--json OUT.json]

The models know a made-up world and are trained when they are first asked for (tests/training.py):
some twenty seconds each on one core. Fifty people get a new object of one relation, in one wording.
Then everything is asked greedily: the edited prompts, the same facts in the other wordings, and as
neighbours the facts of all other people in the edited wordings. Prints a table, in percent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from memit_core import Editor, Fact, HParams, LoadedModel, group_facts
from memit_core.model import Model
from memit_core.target_scores import score_targets
from tests.synthetic_world import RELATIONS, World
from tests.tiny_models import FAMILIES
from tests.trained_models import the_world, trained_model

EDITS = 50

PLAIN = HParams(
    layers=(0, 1),
    v_lr=0.3,
    v_beta1=0.5,
    v_beta2=0.9,
    v_max_grad_steps=60,
    v_weight_decay=0.1,
    clamp_norm_factor=5.0,
    mom2_update_weight=100.0,
    mom2_n_tokens=20_000,
    reweight_rounds=3,
)
ALONE = replace(PLAIN, layers=(1,))
THROUGH_NORM = replace(PLAIN, mom2_update_weight=30.0)
PARALLEL = ("gptj", "gpt_neox", "falcon", "falcon_new", "phi", "stablelm_parallel")


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


def hparams_for(loaded: LoadedModel) -> HParams:
    """One set for all families, but a smaller λ where a norm follows the projection, and one layer
    where the MLP runs beside attention and does not see what the layer below has written."""
    if loaded.structure.carry.norms:
        return THROUGH_NORM
    return ALONE if loaded.name in PARALLEL else PLAIN


def measure(loaded: LoadedModel, world: World) -> Efficacy:
    """Edit a model that knows the world, and ask."""
    edits = world.edits(EDITS)
    facts = [Fact(e.person, e.relation.wordings[0], e.new) for e in edits]
    edited = [(fact.filled, fact.target_new) for fact in facts]
    others = [(w.format(e.person), e.new) for e in edits for w in e.relation.wordings[1:]]
    rest = set(world.people) - {e.person for e in edits}
    neighbours = [
        (relation.wordings[0].format(person), world.object(person, relation))
        for person in sorted(rest)
        for relation in RELATIONS
    ]
    everything = [(s.prompt, world.object(s.person, s.relation)) for s in world.statements]
    editor = Editor(loaded, hparams_for(loaded), corpus=world.text, z_dtype="float32")
    before, after = editor.base, editor.model_with(editor.solve(group_facts(facts)))
    return Efficacy(
        known=said(before, everything),
        efficacy_before=said(before, edited),
        efficacy=said(after, edited),
        other_wordings=said(after, others),
        neighbours_before=said(before, neighbours),
        neighbours=said(after, neighbours),
    )


def said(model: Model, pairs: Sequence[tuple[str, str]]) -> float:
    """How many of the prompts are answered by their object, in percent."""
    scores = score_targets(model, pairs, ends=range(len(pairs)))
    return 100 * sum(score.exact for score in scores) / len(scores)


def main(
    families: Annotated[list[str] | None, typer.Argument(help="All unless given.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write it.")] = None,
) -> None:
    """Measure each family and print its line."""
    measured = {name: measure(trained_model(name), the_world()) for name in families or FAMILIES}
    table = Table("family", "known", "efficacy", "other wordings", "neighbours before → after")
    for name, found in measured.items():
        figures = [found.known, found.efficacy, found.other_wordings]
        around = f"{found.neighbours_before:.0f} → {found.neighbours:.0f}"
        table.add_row(name, *(f"{figure:.0f}" for figure in figures), around)
    Console().print(table)
    if json_out is not None:
        values = {name: asdict(found) for name, found in measured.items()}
        json_out.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
