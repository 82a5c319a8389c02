"""Versions of this service as LoRA folders, for an engine that serves those."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import httpx2

from benchmarks.servers import Server


def adapters_of(server: Server, folder: Path) -> dict[str, Path]:
    """Export each version that `server` is asked on.

    Returns:
        Folders by the versions' names, as `v3`.
    """
    found = {}
    with httpx2.Client(base_url=server.url, timeout=600, trust_env=False) as client:
        for version in (model.partition("@")[2] for model in server.models):
            reply = client.get(f"/versions/{version}/checkpoint", params={"format": "peft"})
            reply.raise_for_status()
            found[version] = folder / version
            with tarfile.open(fileobj=io.BytesIO(reply.content)) as tar:
                tar.extractall(found[version], filter="data")
    return found


def lora_arguments(adapters: Mapping[str, Path]) -> list[str]:
    """What vLLM is started with, to have all of these in one batch."""
    ranks = [
        json.loads((one / "adapter_config.json").read_text())["r"] for one in adapters.values()
    ]
    arguments = ["--enable-lora", "--max-loras", str(len(adapters))]
    arguments += ["--max-lora-rank", str(max(ranks))]
    return [*arguments, "--lora-modules", *(f"{name}={path}" for name, path in adapters.items())]
