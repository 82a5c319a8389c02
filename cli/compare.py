"""How far the weights of a version are from those that an export holds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from cli.client import Client
from cli.errors import CommandFailed
from cli.exported import ADAPTER, Exported
from contracts.versions import LayerWeights, Version
from service.factors import Doubles, Tensors, decode, matrix


@dataclass(frozen=True)
class Comparison:
    """Relative differences are Frobenius norms, the largest of all matrices."""

    equal: bool
    """Whether every change has the bytes that the exported version's had."""
    difference: float | None
    """Relative difference from the exported changes; None where the folder holds none."""
    adapter: float | None
    """Relative difference from the folder's adapter, if it holds one."""


def compare(client: Client, found: Exported, made: Version) -> Comparison:
    """Hold a version's changes against an export's: an adapter whole in memory, changes singly.

    Raises:
        CommandFailed: the export holds something that is no change of a matrix.
    """
    theirs = {one.module: one for one in found.version.weights}
    ours = {one.module: one for one in made.weights}
    blobs = {path: one.blob for path, one in theirs.items()}
    equal = blobs == {path: one.blob for path, one in ours.items()}
    adapter = _adapter(found)
    by_blob, by_adapter = [0.0] if equal else [], []
    for path, one in theirs.items():
        if path not in ours:
            return Comparison(False, None, None)
        stored = None if equal else found.read(f"weights/{one.blob}.safetensors")
        if stored is None and adapter is None:
            continue
        here = matrix(_blob(client, ours[path]))
        if stored is not None:
            by_blob.append(_distance(matrix(_change(stored)), here))
        if adapter is not None:
            by_adapter.append(_distance(_product(adapter, path), here))
    apart = max(by_adapter, default=None)
    return Comparison(equal, max(by_blob, default=apart), apart)


def _distance(there: Doubles, here: Doubles) -> float:
    if there.shape != here.shape:
        raise CommandFailed(f"a change is {there.shape} in the export and {here.shape} here")
    difference, size = np.linalg.norm(there - here), np.linalg.norm(here)
    return float(difference / size) if size > 0 else float(difference)


def _blob(client: Client, weights: LayerWeights) -> Tensors:
    data = client.call("GET", f"/blobs/{weights.blob}").content
    if hashlib.sha256(data).hexdigest() != weights.blob:
        raise CommandFailed(f"blob {weights.blob} came with other bytes than it is named for")
    return _change(data)


def _change(data: bytes) -> Tensors:
    try:
        return decode(data)
    except ValueError as error:
        raise CommandFailed(str(error)) from error


def _adapter(found: Exported) -> Tensors | None:
    data = found.read(ADAPTER)
    try:
        return None if data is None else safetensors.numpy.load(data)
    except SafetensorError as error:
        raise CommandFailed(f"{ADAPTER}: {error}") from error


def _product(adapter: Tensors, path: str) -> Doubles:
    """ΔW [d, m] = B A of one module, float64."""
    names = [f"base_model.model.{path}.lora_{side}.weight" for side in "BA"]
    missing = [name for name in names if name not in adapter]
    if missing:
        raise CommandFailed(f"{ADAPTER}: has no {missing[0]}")
    b, a = (adapter[name].astype(np.float64) for name in names)
    product: Doubles = b @ a
    return product
