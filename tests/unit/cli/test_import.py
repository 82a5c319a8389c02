"""`memit import`: the facts of an export written into another registry, weights compared."""

from __future__ import annotations

import json
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

from cli.main import app
from contracts.settings import Settings
from tests.unit.cli.serving import serving
from tests.unit.memit_core.examples import loaded_tiny
from tests.unit.worker.workshop import Workshop, fact, keepers


def run(url: str, *arguments: Path | str) -> Result:
    return CliRunner(env={"MEMIT_URL": url}).invoke(app, list(map(str, arguments)))


@contextmanager
def house(home: Path, redis_url: str, family: str = "llama") -> Iterator[tuple[str, Workshop]]:
    """A service with a worker that takes every edit to its end; its URL."""
    over = threading.Event()
    settings = Settings(MEMIT_REDIS_URL=redis_url, home=home)  # type: ignore[call-arg]
    with Redis.from_url(redis_url) as redis, serving(settings) as url:
        shop = Workshop(home / "registry", redis, loaded=loaded_tiny(family))

        def work() -> None:
            while not over.wait(0.02):
                for edit_id in shop.registry.edits.unfinished():
                    shop.runner.run(edit_id)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield url, shop
        finally:
            over.set()
            thread.join()


@pytest.fixture
def exported(redis_url: str, tmp_path: Path) -> Callable[[str, int], Path]:
    """A version of so many facts as a folder, from a registry where more has happened."""

    def make(form: str, count: int) -> Path:
        folder = tmp_path / form
        with house(tmp_path / "there", redis_url) as (url, shop):
            shop.version([fact("Anna Keller", "Geneva")])
            gone = shop.registry.ledger.live(shop.active)[0].id
            shop.version(keepers(count), retract=[gone])
            result = run(url, "export", "active", "--format", form, "--to", folder)
            assert result.exit_code == 0, result.output
        return folder

    return make


@pytest.mark.parametrize(("form", "count"), [("peft", 3), ("peft", 25), ("delta", 3)])
def test_the_same_facts_give_the_same_weights(
    exported: Callable[[str, int], Path], redis_url: str, tmp_path: Path, form: str, count: int
) -> None:
    folder = exported(form, count)
    with house(tmp_path / "here", redis_url) as (url, shop):
        shop.version([fact("Martin Okafor", "Lisbon")])  # what is active here has no part in it
        active = shop.active
        result = run(url, "import", folder, "--json")
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)
        made = shop.registry.versions.resolve(told["version"])
        assert {live.fact.subject for live in shop.registry.ledger.live(made)} == {
            one.subject for one in keepers(count)
        }
        assert told["equal"] is True
        assert told["relative_difference"] == 0
        assert told["other_settings"] == []
        assert shop.active == active
        said = run(url, "import", folder, "--activate").stdout
        assert "Its weights are the exported ones, bit for bit." in said
        assert ("The adapter's matrices differ" in said) == (form == "peft")
        assert shop.active != active


def test_an_adapter_that_was_changed_is_told(
    exported: Callable[[str, int], Path], redis_url: str, tmp_path: Path
) -> None:
    folder = exported("peft", 3)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, file)
    with tarfile.open(tmp_path / "changed.tar", "w") as archive:
        for one in folder.iterdir():
            archive.add(one, one.name)
    with house(tmp_path / "here", redis_url) as (url, _):
        said = run(url, "import", tmp_path / "changed.tar").stdout
    assert "The adapter's matrices differ from its weights by 5.0e-01." in said


def test_another_base_is_refused(
    exported: Callable[[str, int], Path], redis_url: str, tmp_path: Path
) -> None:
    folder = exported("delta", 1)
    shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    with house(tmp_path / "here", redis_url, "gpt2") as (url, shop):
        result = run(url, "import", tmp_path / "packed.zip")
        assert result.exit_code == 1
        assert "was made for another base: llama in float32" in result.stderr.replace("\n", " ")
        assert shop.registry.versions.tip() == 0


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_export_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    result = run("http://127.0.0.1:1", "import", file)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {file}: ")
