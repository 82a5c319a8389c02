"""docs/export.md: its peft example runs as printed, on a folder that the service made."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import httpx2
import pytest

from contracts.settings import Settings
from memit_core.loading import load_model
from registry import FolderStore, Registry
from tests.committed import commit, made_up, served
from tests.tiny_models import save_tiny
from tests.unit.cli.serving import serving

PAGE = Path(__file__).parents[3] / "docs" / "export.md"
BASE, FOLDER = '"HuggingFaceTB/SmolLM2-135M-Instruct"', '"./v12"'


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_the_peft_example_answers_as_the_version(
    redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, folder = save_tiny("llama", tmp_path / "base"), tmp_path / "v12"
    loaded = load_model(base, device="cpu")
    solved = made_up(loaded, 3)
    commit(Registry(FolderStore(tmp_path / "registry")), loaded, solved)
    settings = Settings(MEMIT_REDIS_URL=redis_url, home=tmp_path)  # type: ignore[call-arg]
    with serving(settings) as url:
        sent = httpx2.get(f"{url}/versions/v1/checkpoint?format=peft", trust_env=False)
    with tarfile.open(fileobj=io.BytesIO(sent.content)) as archive:
        archive.extractall(folder, filter="data")

    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert BASE in example
    assert FOLDER in example
    example = example.replace(BASE, repr(str(base))).replace(FOLDER, repr(str(folder)))
    exec(compile(example, str(PAGE), "exec"), {})  # noqa: S102 - our own page

    prompt = loaded.tokenizer("The Eiffel Tower is located in the city of", return_tensors="pt")
    said = served(loaded, solved).generate(**prompt, max_new_tokens=6, do_sample=False)[0]
    assert capsys.readouterr().out == f"{loaded.tokenizer.decode(said)}\n"
    unedited = served(loaded, {}).generate(**prompt, max_new_tokens=6, do_sample=False)[0]
    assert said.tolist() != unedited.tolist()
