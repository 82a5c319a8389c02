"""MEND in a worker: what its network writes is versioned, served and solved again."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter
from redis import Redis

from contracts.ledgers import Hparams
from contracts.settings import Settings
from memit_core.edit import Editor
from memit_core.errors import MemitError
from memit_core.facts import Fact
from memit_core.methods import Mend, Method
from memit_core.methods.mend.trainer import Options, train
from memit_core.progress import silent
from tests.tiny_models import TEXT
from tests.unit.memit_core.examples import FACTS, loaded_tiny
from tests.unit.worker.engine.stage import generated
from tests.unit.worker.test_methods import TOKENS, served
from tests.unit.worker.workshop import Workshop, fact
from worker.core_fact import core_fact
from worker.editing import method_of

PROMPT = "Anna lives in the town of"


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def network(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mend")
    return train(loaded_tiny(family), FACTS, TEXT, folder, Options(steps=40, rank=8)).file


@pytest.fixture
def workshop(family: str, network: Path, registry_path: Path, redis_url: str) -> Workshop:
    def mend(editor: Editor) -> Method:
        editor.network = network
        return Mend(editor)

    redis = Redis.from_url(redis_url)
    return Workshop(registry_path, redis, loaded=loaded_tiny(family), method=mend)


def test_what_it_writes_is_served(workshop: Workshop, network: Path) -> None:
    one, two = fact("Anna"), fact("Martin", "Vienna")
    workshop.version([one])
    version = workshop.version([two])
    manifest = workshop.registry.versions.get(version)
    assert manifest.method == "mend"
    assert TypeAdapter(Hparams).validate_python(manifest.hparams) == manifest.hparams
    assert manifest.hparams["matrices"] == [weight.module for weight in manifest.weights]
    structure = workshop.editor.structure
    assert {weight.layer for weight in manifest.weights} == {1, 2, 3}
    assert set(structure.projections[1:]) < {weight.module for weight in manifest.weights}
    mend = Mend(workshop.editor)
    facts: list[Fact] = [core_fact(two), core_fact(one)]
    solved = mend.solve(facts, mend.options(facts, {}), silent)
    model, tokenizer = workshop.editor.apply(solved), workshop.editor.loaded.tokenizer
    assert served(workshop, version, PROMPT) == generated(model, tokenizer, PROMPT, TOKENS)
    v0 = workshop.registry.versions.resolve("v0")
    assert served(workshop, v0, PROMPT) != served(workshop, version, PROMPT)


def test_lost_weights_are_solved_again_bit_for_bit(workshop: Workshop) -> None:
    version = workshop.version([fact("Anna"), fact("Martin")])
    weights = workshop.registry.versions.get(version).weights
    for weight in weights:
        blob = workshop.registry.store.root / "blobs" / "sha256" / weight.blob[:2] / weight.blob
        blob.chmod(0o600)
        blob.unlink()
    workshop.maker.rebuild(version)
    assert all(workshop.registry.blobs.get(weight.blob) for weight in weights)


def test_a_worker_without_a_network_does_not_start(workshop: Workshop) -> None:
    workshop.editor.network = None
    with pytest.raises(MemitError, match="needs a trained network: MEMIT_MEND=FILE"):
        method_of(Settings(method="mend"), workshop.editor)
