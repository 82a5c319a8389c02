"""What the method gives has a revision: who changes the one must raise the other.

`revision.json` holds what revision it is of, and z and ΔW of some facts on a tiny model. After a
change that moves them, or one of the constants: raise METHOD_REVISION, and Z_REVISION too if z is
among them, and renew the file by

    python -m tests.unit.memit_core.test_revision
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memit_core import insert, solve, z_optimisation
from memit_core.facts import group_facts
from memit_core.revision import METHOD_REVISION, Z_REVISION
from memit_core.word_ends import word_ends
from tests.unit.memit_core.examples import FACTS, HPARAMS, editor_of, loaded_tiny, optimise
from tests.unit.memit_core.test_insertion import ALL, learnable, said

FILE = Path(__file__).with_name("revision.json")
CPU = torch.device("cpu")
SHOWN = 6
"""Numbers of a tensor that are kept, besides its norm."""

ROUNDS = replace(
    HPARAMS, v_num_grad_steps=25, mom2_update_weight=100.0, reweight_rounds=2, reweight_factor=2.0
)
"""With a λ that lets some of the learnable facts be said and others not, in the first round."""


def found() -> dict[str, Any]:
    """What the code gives now."""
    loaded = loaded_tiny("llama")
    groups = group_facts(FACTS)
    ends = word_ends(loaded.tokenizer, loaded.model.get_output_embeddings().weight.shape[0])
    with_end = optimise(loaded, groups, replace(HPARAMS, v_end_factor=0.3), word_ends=ends)
    editor = editor_of(loaded, HPARAMS)
    solved = editor.solve(groups)
    of_all = editor_of(loaded, ALL).solve(groups)
    rounds = editor_of(loaded, ROUNDS)
    of_rounds = rounds.solve(learnable(rounds))
    return {
        "revision": METHOD_REVISION,
        "z revision": Z_REVISION,
        "constants": {
            "STOP_LOSS": z_optimisation.STOP_LOSS,
            "HARD_LOSS": z_optimisation.HARD_LOSS,
            "MOST_MISSED": insert.MOST_MISSED,
            "RIDGE": solve.RIDGE,
            "WOODBURY_SHARE": solve.WOODBURY_SHARE,
        },
        "z": [_shown(target.z) for target in editor.targets(groups)],
        "z with its end": [_shown(target.z) for target in with_end],
        "delta": [_shown(delta.matrix(CPU)) for delta in solved.values()],
        "delta with all of it": [_shown(delta.matrix(CPU)) for delta in of_all.values()],
        "delta in rounds": [_shown(delta.matrix(CPU)) for delta in of_rounds.values()],
    }


def _shown(tensor: torch.Tensor) -> list[float]:
    flat = tensor.flatten()
    return [float(f"{value:.5g}") for value in [flat.norm().item(), *flat[:SHOWN].tolist()]]


def test_some_facts_are_missed_at_first() -> None:
    once = editor_of(loaded_tiny("llama"), replace(ROUNDS, reweight_rounds=0))
    assert len(set(said(once, learnable(once)))) == 2


def test_what_the_method_gives_is_of_its_revision() -> None:
    kept, now = json.loads(FILE.read_text()), found()
    revisions = (kept["revision"], kept["z revision"])
    assert revisions == (METHOD_REVISION, Z_REVISION), f"renew {FILE.name}"
    assert kept["constants"] == now["constants"], "raise METHOD_REVISION"
    for name in ("z", "z with its end", "delta", "delta with all of it", "delta in rounds"):
        for ours, theirs in zip(now[name], kept[name], strict=True):
            scale = theirs[0] / len(theirs)
            assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-3 * scale), (
                f"{name}: raise METHOD_REVISION"
            )


if __name__ == "__main__":
    FILE.write_text(json.dumps(found(), indent=1) + "\n")
