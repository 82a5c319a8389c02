"""What a registry of many versions takes on the disk, before and after `memit prune`.

    python -m benchmarks.retention [--versions 1000] [--facts 10] [--keep 10] [--home FOLDER]

No model runs: weights are random numbers in the shapes of the default model's factors, 5 layers of
576 and 1,536. Every other file is put as a worker puts it: each edit brings one fact, and one fact
leaves where a version would have more than --facts.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from contracts.edits import AcceptedEdit, EditRequest
from contracts.facts import Fact, LiveFact
from contracts.ids import new_edit_id
from contracts.reports import FactReport, Report
from contracts.versions import ACTIVE, LayerWeights, VersionManifest
from memit_core.weights import LowRank, encode_delta
from registry import FolderStore, Registry, finish_edit
from registry.blobs import blob_key
from registry.retention import Policy, consider, give_up

BASE = "b" * 64
LAYERS = (2, 3, 4, 5, 6)
D, M = 576, 1_536


def main(
    versions: Annotated[int, typer.Option(min=1)] = 1_000,
    facts: Annotated[int, typer.Option(min=1, help="Live facts of a version, at most.")] = 10,
    keep: Annotated[int, typer.Option(min=1, help="As of `memit prune`.")] = 10,
    home: Annotated[Path | None, typer.Option(help="By default a folder that is deleted.")] = None,
) -> None:
    """Make the registry, prune it, and print bytes by kind of file."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = (home or Path(scratch)) / "registry"
        registry = Registry(FolderStore(folder))
        fill(registry, versions, facts)
        before = sizes(registry, folder)
        policy, began = Policy(keep=keep, older_than=0), time.perf_counter()
        removed = len(list(give_up(registry, policy, consider(registry, policy))))
        seconds = time.perf_counter() - began
        table = Table("kind", "files", "before", "after")
        after = sizes(registry, folder)
        for kind, (count, size) in sorted(before.items(), key=lambda one: -one[1][1]):
            table.add_row(kind, f"{count:,}", f"{size:,}", f"{after.get(kind, (0, 0))[1]:,}")
        total = [sum(size for _, size in one.values()) for one in (before, after)]
        table.add_row("all", "", *(f"{size:,}" for size in total))
        console = Console()
        console.print(table)
        console.print(f"bytes; weights of {removed} versions removed in {seconds:.1f} s")


def fill(registry: Registry, versions: int, facts: int) -> None:
    """v0, and so many versions by edits of one fact."""
    torch.manual_seed(0)
    v0 = registry.versions.commit(_manifest(registry, 0, []))
    registry.aliases.move(ACTIVE, str(v0), 0)
    live: list[LiveFact] = []
    for number in track(range(1, versions + 1), "versions", transient=True):
        live = _edit(registry, number, live[-facts + 1 :] if facts > 1 else [])


def _edit(registry: Registry, number: int, kept: list[LiveFact]) -> list[LiveFact]:
    """An edit from its acceptance to its end; the facts that are live then."""
    fact = Fact(subject=f"Person {number}", prompt="{} lives in the town of", target_new="Lisbon")
    request = EditRequest(facts=[fact])
    edit = AcceptedEdit(id=new_edit_id(), request=request, accepted_at=time.time())
    registry.edits.accept(edit, f"key {number}", "body")
    parent, epoch = registry.versions.resolve(ACTIVE), registry.aliases.epoch(ACTIVE)
    registry.edits.start(edit.id, "worker", parent, epoch)
    new = LiveFact(id=fact.id, fact=fact, edit_id=edit.id, since=number, learned=True)
    live = [*kept, new]
    artefacts = registry.artefacts(BASE)
    artefacts.put_once(f"z/{number}", encode_delta(LowRank(torch.randn(D, 1), torch.randn(1, 1))))
    weights = [_weights(registry, layer, len(live)) for layer in LAYERS]
    solution = json.dumps([one.model_dump(mode="json") for one in weights])
    artefacts.put_once(f"solutions/{number}", solution.encode())
    measured = [FactReport(id=fact.id, success=True, p_new=0.9, answer=" Lisbon")]
    made = _manifest(registry, number, live).model_copy(
        update={
            "edit_id": edit.id,
            "parent": parent,
            "added": [fact.id],
            "weights": weights,
            "report": Report(facts=1, per_fact=measured),
        }
    )
    registry.edits.begin_commit(edit.id, "worker", epoch, made)
    finish_edit(registry, edit.id)
    return live


def _weights(registry: Registry, layer: int, rank: int) -> LayerWeights:
    delta = LowRank(torch.randn(D, rank), torch.randn(M, rank))
    return LayerWeights(
        layer=layer,
        module=f"model.layers.{layer}.mlp.down_proj",
        blob=registry.blobs.put(encode_delta(delta)),
        kind="low_rank",
        rank=rank,
    )


def _manifest(registry: Registry, seq: int, live: list[LiveFact]) -> VersionManifest:
    return VersionManifest(
        seq=seq,
        created_at=time.time(),
        base=BASE,
        model="random numbers",
        dtype="float32",
        hparams={"layers": list(LAYERS), "mom2_update_weight": 1_000.0},
        live=registry.ledger.put_live(live),
        live_count=len(live),
    )


def sizes(registry: Registry, folder: Path) -> dict[str, tuple[int, int]]:
    """Files and bytes by kind of the registry in a folder."""
    manifests = [
        registry.versions.get(str(registry.versions.by_seq(number)))
        for number in range(registry.versions.tip() + 1)
    ]
    kinds = {blob_key(blob): "weights" for one in manifests for blob in one.blobs}
    kinds |= {blob_key(one.live): "ledgers" for one in manifests}
    counts, totals = Counter[str](), Counter[str]()
    for path in folder.rglob("*"):
        if path.is_file():
            key = path.relative_to(folder).as_posix()
            top = key.partition("/")[0]
            kind = kinds.get(key, "other blobs" if top == "blobs" else top)
            counts[kind] += 1
            totals[kind] += path.stat().st_size
    return {kind: (counts[kind], totals[kind]) for kind in totals}


if __name__ == "__main__":
    typer.run(main)
