"""Promise 5: in one registry the same live facts give the same weights, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from memit_core.weights import decode_delta
from registry import Registry
from tests.stack import Stack, fact

pytestmark = pytest.mark.slow

TOWNS = ["Lisbon", "Geneva", "Berlin", "Vienna", "Paris"]
FACTS = [fact(f"Painter {i} Okafor", TOWNS[i % len(TOWNS)]) for i in range(10)]


def one_by_one(stack: Stack, facts: list[dict[str, str]]) -> str:
    """Write the facts in single edits on a branch from v0; the last version's id."""
    version = "v0"
    for one in facts:
        version = stack.run_edit({"facts": [one], "base": version, "activate": False})["version"]
    return version


def forget_solutions(registry: Registry) -> None:
    """Take away the kept solutions, so that weights have to be solved again."""
    base = registry.versions.get(registry.versions.resolve("v0")).base
    for file in (registry.store.root / "models" / base / "solutions").iterdir():
        file.unlink()


def matrices(registry: Registry, version: str) -> list[torch.Tensor]:
    """ΔW of a version by layer."""
    weights = registry.versions.get(version).weights
    return [decode_delta(registry.blobs.get(w.blob)).matrix(torch.device("cpu")) for w in weights]


def test_order_and_batching_do_not_matter(make_stack: Callable[..., Stack]) -> None:
    """Ten facts one by one, in two orders, and as one batch; each time solved anew."""
    stack = make_stack()
    forwards = one_by_one(stack, FACTS)
    forget_solutions(stack.registry)
    shuffled = random.Random(1).sample(FACTS, len(FACTS))
    backwards = one_by_one(stack, shuffled)
    forget_solutions(stack.registry)
    batch = stack.run_edit({"facts": shuffled, "base": "v0", "activate": False})["version"]
    assert len({forwards, backwards, batch}) == 3
    assert stack.blobs(forwards) == stack.blobs(backwards) == stack.blobs(batch)
    assert len(stack.blobs(batch)) == 3


def test_retracting_gives_back_the_version_without_the_fact(
    make_stack: Callable[..., Stack],
) -> None:
    """Nine facts, then a tenth, then without it again: solved anew, the same bits as before."""
    stack = make_stack()
    nine = stack.run_edit({"facts": FACTS[:9]})["version"]
    ten = stack.run_edit({"facts": FACTS[9:]})
    assert stack.blobs(ten["version"]) != stack.blobs(nine)
    forget_solutions(stack.registry)
    answer = stack.http.delete(f"/facts/{ten['facts'][0]['id']}")
    assert answer.status_code == 202
    without = stack.wait_edit(answer.json()["id"])["version"]
    assert stack.blobs(without) == stack.blobs(nine)
    prompt = FACTS[9]["prompt"].replace("{}", FACTS[9]["subject"])
    answers = {v: stack.generate(prompt, version=v)["text"] for v in (nine, without)}
    assert answers[nine] == answers[without]


def test_two_registries_agree_within_a_tolerance(
    make_stack: Callable[..., Stack], tmp_path: Path
) -> None:
    """Fresh registries: one optimises z fact by fact, the other all ten in one batch.

    A fact's z is the same function in both, but a float32 forward rounds differently at another
    batch shape. Each of the 8 Adam steps divides a gradient by its own size, so a relative error of
    1e-7 in a small component can grow by some powers of ten; 1e-2 of ΔW's norm is far below what
    any fact's effect rests on.
    """
    first, second = (make_stack(name, z_dtype="float32") for name in ("first", "second"))
    alone = one_by_one(first, FACTS)
    together = second.run_edit({"facts": FACTS})["version"]
    for a, b in zip(
        matrices(first.registry, alone), matrices(second.registry, together), strict=True
    ):
        assert torch.linalg.norm(a - b) <= 1e-2 * torch.linalg.norm(a)


def test_a_damaged_blob_is_solved_again(make_stack: Callable[..., Stack]) -> None:
    """A flipped bit is found on loading; the version comes back with the bits it had."""
    stack = make_stack()
    version = stack.run_edit({"facts": FACTS[:3]})["version"]
    before = stack.generate("Painter 1 Okafor lives in the town of")["text"]
    stack.stop_worker()
    digest = stack.blobs(version)[1]
    blob = stack.home / "registry" / "blobs" / "sha256" / digest[:2] / digest
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(data)
    stack.start_worker()
    stack.wait_ready()
    assert (
        stack.generate("Painter 1 Okafor lives in the town of", version=version)["text"] == before
    )
    assert stack.registry.blobs.get(digest)
