"""An unfinished training on the disk: enough to go on as if it had not been broken off."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from memit_core.errors import MemitError
from memit_core.methods.mend.network import Network
from memit_core.methods.mend.trained import state_of, write_whole

FILE = "training.safetensors"
NOW, BEST, ADAM = "now/", "best/", "adam/"


@dataclass
class Standing:
    """How far a training is; losses are those of held-out facts, in nats."""

    step: int
    """Steps done."""
    before: Sequence[float]
    """Edit and locality loss of the network as it began."""
    best: Sequence[float]
    """Of the best network so far."""
    best_step: int
    waited: int = 0
    """Looks at the held-out facts since then."""


class Checkpoint:
    """The file of one training.

    Args:
        run: what decides every step of it, JSON-ready.
    """

    def __init__(self, file: Path, run: Mapping[str, Any]) -> None:
        self._file = file
        self._run = json.dumps(run, sort_keys=True)

    def save(
        self,
        standing: Standing,
        network: Network,
        best: Mapping[str, torch.Tensor],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Put all of it in the place of what was saved before.

        Raises:
            OSError: it cannot be written.
        """
        moments = {
            f"{ADAM}{number}/{name}": tensor.cpu()
            for number, state in optimizer.state_dict()["state"].items()
            for name, tensor in state.items()
        }
        tensors = {f"{NOW}{name}": tensor for name, tensor in state_of(network).items()}
        tensors |= {f"{BEST}{name}": tensor for name, tensor in best.items()}
        metadata = {"run": self._run, "standing": json.dumps(asdict(standing))}
        write_whole(self._file, tensors | moments, metadata)

    def load(
        self, network: Network, optimizer: torch.optim.Optimizer
    ) -> tuple[Standing, dict[str, torch.Tensor]] | None:
        """Put network and optimizer where they were; None where nothing was saved.

        Returns:
            How far it is, and the best network's tensors.

        Raises:
            MemitError: the file is damaged, or of another training.
        """
        try:
            with safe_open(self._file, "pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            run, values = metadata["run"], json.loads(metadata["standing"])
            standing = Standing(**values)
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise MemitError(
                f"{self._file} is damaged ({error}): remove it to begin anew"
            ) from error
        if run != self._run:
            raise MemitError(
                f"{self._file} is an unfinished training on other records, another model or with "
                "other options: name another folder, or remove it"
            )
        network.load_state_dict(_under(NOW, tensors))
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in _under(ADAM, tensors).items():
            number, _, kind = name.partition("/")
            moments.setdefault(int(number), {})[kind] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
        return standing, _under(BEST, tensors)

    def remove(self) -> None:
        """The training is finished."""
        self._file.unlink(missing_ok=True)


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): one for n, one in tensors.items() if n.startswith(prefix)}
