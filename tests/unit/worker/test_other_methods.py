"""Every method writes, serves and takes back facts as MEMIT does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from redis import Redis

from contracts.settings import Settings
from memit_core.methods import METHODS
from memit_core.progress import silent
from memit_core.weights import encode_delta
from tests.unit.worker.workshop import Workshop, fact
from worker import lineage
from worker.core_fact import core_fact
from worker.editing import method_of
from worker.lineage import begun_with

OTHERS = [name for name in METHODS if name not in ("memit", "mend")]
"""Those that need nothing trained before; MEND is in test_mend.py."""
ORDERED = {"rome"}
FACTS = [fact("Anna"), fact("Martin", "Geneva"), fact("Zoe", "Paris")]


@pytest.fixture(params=OTHERS)
def workshop(request: pytest.FixtureRequest, registry_path: Path, redis_url: str) -> Workshop:
    return Workshop(registry_path, Redis.from_url(redis_url), method=METHODS[request.param])


def blobs(workshop: Workshop, version: str) -> list[str]:
    return [weight.blob for weight in workshop.registry.versions.get(version).weights]


def test_versions_hold_what_the_method_solves(workshop: Workshop) -> None:
    version = workshop.version(FACTS)
    manifest = workshop.registry.versions.get(version)
    method = METHODS[manifest.method](workshop.editor)
    facts = [core_fact(one) for one in FACTS]
    options = method.options(facts, {})
    assert manifest.hparams == json.loads(json.dumps(options))
    assert manifest.method_revision == method.revision
    solved = method.solve(facts, options, silent)
    for weight in manifest.weights:
        assert workshop.registry.blobs.get(weight.blob) == encode_delta(solved[weight.module])
    assert manifest.report is not None
    assert len(manifest.report.per_fact) == len(FACTS)


def test_a_fact_taken_back_leaves_what_the_others_alone_give(workshop: Workshop) -> None:
    both = workshop.version(FACTS[:2])
    all_three = workshop.version(FACTS[2:])
    end = workshop.run([], retract=[FACTS[2].id])
    assert end.version is not None
    assert blobs(workshop, end.version) == blobs(workshop, both) != blobs(workshop, all_three)


def test_the_order_of_edits_matters_where_the_method_says_so(
    workshop: Workshop, tmp_path: Path
) -> None:
    name = workshop.registry.versions.get(workshop.active).method
    workshop.version(FACTS[:1])
    one = workshop.version(FACTS[1:2])
    other_shop = Workshop(tmp_path / "other", workshop.redis, method=METHODS[name])
    other_shop.version(FACTS[1:2])
    other = other_shop.version(FACTS[:1])
    assert METHODS[name](workshop.editor).ordered == (name in ORDERED)
    assert (blobs(workshop, one) != blobs(other_shop, other)) == (name in ORDERED)


def test_lost_weights_are_solved_again(workshop: Workshop) -> None:
    version = workshop.version(FACTS)
    (first, *_) = blobs(workshop, version)
    file = workshop.registry.store.root / "blobs" / "sha256" / first[:2] / first
    file.unlink()
    workshop.maker.rebuild(version)
    assert workshop.registry.blobs.get(first)


def test_an_option_of_memit_is_refused(workshop: Workshop) -> None:
    end = workshop.run(FACTS, mom2_update_weight=100.0)
    assert end.problem is not None
    assert "has no option 'mom2_update_weight'" in end.problem.detail


def test_each_is_chosen_by_its_name(workshop: Workshop) -> None:
    for name in OTHERS:
        assert method_of(Settings(method=name), workshop.editor).name == name


def test_hyperparameters_are_those_of_v0_and_of_no_version(workshop: Workshop) -> None:
    """Where v0 is lost, a version of MEMIT would say them; these say their method's options."""
    version = workshop.version(FACTS)
    first = workshop.registry.versions.oldest()[1]
    assert begun_with(workshop.registry, workshop.editor.loaded.digest) == workshop.editor.hparams
    assert lineage._holds_hparams(first)
    assert not lineage._holds_hparams(workshop.registry.versions.get(version))
