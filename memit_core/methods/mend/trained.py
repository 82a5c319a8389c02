"""A trained network's file: one safetensors file, what it was made of as JSON in its metadata."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from memit_core.errors import MemitError
from memit_core.loading import LoadedModel
from memit_core.methods.mend.network import Network
from memit_core.methods.mend.reach import changed_matrices

FILE = "mend.safetensors"
"""Its name in the trainer's folder."""
CONFIG = "mend"
"""The key of the metadata."""
REVISION = 1
"""Of the network; raised when the same tensors give other changes."""
NAMED = {"revision": int, "base": str, "matrices": list, "rank": int, "steps": int, "data": str}
"""What a config must hold."""


@dataclass(frozen=True)
class Trained:
    """A network that fits a base."""

    network: Network
    config: Mapping[str, Any]
    digest: str
    """SHA-256 in hex of the file."""


def save_trained(file: Path, network: Network, config: Mapping[str, Any]) -> None:
    """Write the file whole or not at all.

    Args:
        config: at least what `NAMED` says, JSON-ready.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(file, state_of(network), {CONFIG: json.dumps(config, sort_keys=True)})


def state_of(network: Network) -> dict[str, torch.Tensor]:
    """Copies of its tensors by name, on the CPU."""
    return {name: one.detach().cpu().clone() for name, one in network.state_dict().items()}


def write_whole(file: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file that is there whole, or as it was before.

    Raises:
        OSError: it cannot be written.
    """
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        part.write_bytes(safetensors.torch.save(tensors, metadata))
        part.replace(file)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def load_trained(file: Path, loaded: LoadedModel) -> Trained:
    """The network of a file, for this base and on its device.

    Raises:
        MemitError: there is no such file, it is damaged, or it was made for another base.
    """
    config, tensors = _read(file)
    if config["base"] != loaded.digest:
        raise MemitError(
            f"{file} was trained for another base model (weights {config['base'][:12]}), not for "
            f"{loaded.name} ({loaded.dtype_name}, weights {loaded.digest[:12]})"
        )
    matrices = changed_matrices(loaded)
    if config["revision"] != REVISION or config["matrices"] != list(matrices):
        raise MemitError(f"{file} was trained by another release: train it again")
    network = Network(matrices, config["rank"])
    shapes = {name: one.shape for name, one in network.state_dict().items()}
    if {name: one.shape for name, one in tensors.items()} != shapes:
        raise MemitError(f"{file} is damaged: its tensors are not those of a network")
    if not all(one.isfinite().all() for one in tensors.values()):
        raise MemitError(f"{file} is damaged: it holds NaN or infinity")
    network.load_state_dict(tensors)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Trained(network.requires_grad_(False).to(loaded.device), config, digest)


def _read(file: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise MemitError(f"there is no trained network at {file}: see memit train-mend") from error
    except (OSError, SafetensorError) as error:
        raise MemitError(f"{file} is no trained network: {error}") from error
    try:
        config = json.loads(metadata[CONFIG])
        fits = all(type(config[name]) is kind for name, kind in NAMED.items())
    except (KeyError, TypeError, ValueError) as error:
        raise MemitError(f"{file} is no trained network: its metadata lack {CONFIG}") from error
    if not (fits and config["rank"] >= 1):
        raise MemitError(f"{file} is no trained network: its metadata are damaged")
    return config, tensors
