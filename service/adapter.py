"""A version as a LoRA folder for peft, vLLM and SGLang, made of the registry's blobs alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from contracts import retry_after as after
from contracts.errors import Conflict, Unavailable
from contracts.exports import ADAPTER_RANKS, LOSSLESS
from contracts.versions import LayerWeights, VersionManifest
from registry.blobs import Blobs
from service.factors import Basis, basis_of, decode, factors, shape_of

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
FLOAT_BYTES = 4
OWN_NAME = ("down_proj", "gate_proj", "up_proj", "fc1", "fc2")
"""Last parts of paths that one matrix of a block has; others, as `c_proj`, a block has twice."""
DECOMPOSING = threading.Lock()
"""Held while changes are decomposed, which takes a processor and several times their size in
memory: one request at a time."""


@dataclass(frozen=True)
class Part:
    """One matrix of an adapter: W [d, m] gets B [d, rank] A [rank, m] added."""

    weights: LayerWeights
    d: int
    m: int
    basis: Basis | None

    @property
    def rank(self) -> int:
        return self.weights.rank if self.basis is None else self.basis.rank


@dataclass(frozen=True)
class Adapter:
    """An adapter that can be sent: every blob was read once, and what is lost is known."""

    model: str
    parts: Sequence[Part]
    rank: int
    error: float
    """The largest relative error of its matrices, Frobenius norms."""

    def config(self) -> dict[str, Any]:
        """`adapter_config.json`."""
        modules = [part.weights.module for part in self.parts]
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.model,
            "inference_mode": True,
            "r": self.rank,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": sorted(set(map(_suffix, modules))),
            "layers_to_transform": sorted({part.weights.layer for part in self.parts}),
            "fan_in_fan_out": any(part.weights.transposed for part in self.parts),
            "modules_to_save": None,
            "use_dora": False,
            "use_rslora": False,
        }

    def header(self) -> bytes:
        """How the safetensors file begins: its length, then every tensor's shape and place."""
        tensors, at = {}, 0
        for part in self.parts:
            shapes = {"lora_A": [self.rank, part.m], "lora_B": [part.d, self.rank]}
            for name, shape in shapes.items():
                end = at + FLOAT_BYTES * shape[0] * shape[1]
                key = f"base_model.model.{part.weights.module}.{name}.weight"
                tensors[key] = {"dtype": "F32", "shape": shape, "data_offsets": [at, end]}
                at = end
        text = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def size(self) -> int:
        """Bytes of the safetensors file."""
        floats = sum(self.rank * (part.d + part.m) for part in self.parts)
        return len(self.header()) + FLOAT_BYTES * floats

    def pieces(self, blobs: Blobs) -> Iterator[bytes]:
        """The safetensors file, one matrix in memory at a time."""
        yield self.header()
        for part in self.parts:
            tensors = decode(blobs.get(part.weights.blob))
            b, a = factors(tensors, part.basis, self.rank)
            yield a.astype("<f4", copy=False).tobytes()
            yield b.astype("<f4", copy=False).tobytes()


def prepare(blobs: Blobs, manifest: VersionManifest, max_rank: int, allow_loss: bool) -> Adapter:
    """Read a version's changes once, and find the rank that holds them all.

    Raises:
        Conflict: the version changes nothing; or `max_rank` is too small for it, and loss is not
            allowed.
        Unavailable: it has changes to decompose, and another request does so.
        BlobMissing, BlobDamaged: a change cannot be read.
    """
    if not manifest.weights:
        raise Conflict("this version is the base model: there is nothing to adapt")
    parts = _parts(blobs, manifest.weights, max_rank)
    needed = max(part.rank for part in parts)
    error = max(part.basis.error if part.basis else 0.0 for part in parts)
    if error > LOSSLESS and not allow_loss:
        raise Conflict(
            f"the changes of {manifest.live_count} facts do not fit rank {max_rank}: the relative "
            f"error would be {error:.1e}, over {LOSSLESS:.0e}; ask for a larger max_rank, for "
            "format=merged, or for allow_loss=true"
        )
    rank = next((one for one in ADAPTER_RANKS if needed <= one <= max_rank), needed)
    return Adapter(manifest.model, parts, rank, error)


def _parts(blobs: Blobs, changes: Sequence[LayerWeights], max_rank: int) -> list[Part]:
    if all(one.kind == "low_rank" and one.rank <= max_rank for one in changes):
        return [_part(blobs, one, max_rank) for one in changes]
    if not DECOMPOSING.acquire(blocking=False):
        raise Unavailable("another adapter is being computed", retry_after=after.ADAPTER)
    try:
        return [_part(blobs, one, max_rank) for one in changes]
    finally:
        DECOMPOSING.release()


def _part(blobs: Blobs, weights: LayerWeights, max_rank: int) -> Part:
    tensors = decode(blobs.get(weights.blob))
    d, m = shape_of(tensors)
    return Part(weights, d, m, basis_of(tensors, max_rank))


def _suffix(module: str) -> str:
    """The shortest end of a module's path that no other module of a block has."""
    parent, _, name = module.rpartition(".")
    return name if name in OWN_NAME else f"{parent.rpartition('.')[2]}.{name}"
