"""Model names: every version is one."""

from __future__ import annotations

import httpx2
import pytest
from openai import NotFoundError, OpenAI

from registry.registry import Registry
from tests.unit.service.conftest import Serve
from tests.unit.service.facts import eiffel
from tests.unit.service.openai_api.conftest import CHAT, NAME, Running
from tests.unit.service.worker_peer import Editor, pieces


@pytest.fixture
def edited(client: httpx2.Client, editor: Editor, registry: Registry) -> str:
    """The id of v1, which `active` names; v2 was rejected, and `stable` names v0."""
    edit = client.post("/edits", json={"facts": [eiffel()]}).json()
    version = editor.run(edit["id"]).version
    assert version is not None
    more = client.post("/edits", json={"facts": [{**eiffel(), "target_new": "Oslo"}]}).json()
    editor.run(more["id"], reject=True)
    registry.aliases.move("stable", registry.versions.resolve("v0"), 0)
    return version


def test_the_list(openai: OpenAI, edited: str, registry: Registry) -> None:
    found = {model.id: model for model in openai.models.list()}
    assert list(found) == [NAME, *(f"{NAME}@{ref}" for ref in ("base", "stable", "v1", "v0"))]
    card = found[f"{NAME}@v1"].model_dump(exclude_unset=True)
    assert card == {
        "id": f"{NAME}@v1",
        "object": "model",
        "created": int(registry.versions.get(edited).created_at),
        "owned_by": "memit-service",
        "root": NAME,
        "parent": f"{NAME}@base",
        "version": edited,
    }
    assert found[f"{NAME}@base"].model_dump()["parent"] is None


def test_requests_are_counted_by_their_whole_path(
    openai: OpenAI, client: httpx2.Client, edited: str
) -> None:
    openai.models.list()
    openai.models.retrieve(f"{NAME}@v1")
    counted = client.get("/metrics").text
    for route in ("/v1/models", "/v1/models/{model}", "/edits"):
        assert f'route="{route}",status="20' in counted


def test_any_other_name_resolves(openai: OpenAI, edited: str) -> None:
    for name in (NAME, f"{NAME}@v1", f"{NAME}@{edited}", f"{NAME}@active"):
        assert openai.models.retrieve(name).model_dump()["version"] == edited


def test_the_answer_is_the_named_version_s(
    openai: OpenAI, engine: Running, edited: str, registry: Registry
) -> None:
    running = engine(pieces("Rome"))
    base = registry.versions.resolve("v0")
    expected = {NAME: edited, f"{NAME}@v1": edited, f"{NAME}@base": base, f"{NAME}@stable": base}
    for name, version in expected.items():
        answer = openai.chat.completions.create(model=name, messages=CHAT)
        assert (answer.system_fingerprint, answer.model) == (version, name)
    assert [task.version for task in running.tasks] == list(expected.values())


@pytest.mark.parametrize("name", ["gpt-5", f"{NAME}@v99", f"{NAME}@", f"{NAME}@no such", "@v0"])
def test_another_name_is_not_found(openai: OpenAI, engine: Running, name: str) -> None:
    engine(pieces("Rome"))
    with pytest.raises(NotFoundError, match="does not exist") as failure:
        openai.completions.create(model=name, prompt="a")
    assert (failure.value.code, failure.value.param) == ("model_not_found", "model")
    with pytest.raises(NotFoundError):
        openai.models.retrieve(name)


def test_a_name_of_ones_own_with_slashes(serve: Serve, editor: Editor) -> None:
    client = serve(served_model_name="our/news@home")
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="none") as openai:
        assert [model.id for model in openai.models.list()][:2] == [
            "our/news@home",
            "our/news@home@base",
        ]
        card = openai.models.retrieve("our/news@home@v0").model_dump()
    assert (card["root"], card["parent"]) == (NAME, None)
    assert client.get("/v1/models/our/news@home@v0").status_code == 200


def test_a_user_of_a_split_alias_keeps_the_version(
    openai: OpenAI, client: httpx2.Client, engine: Running, edited: str
) -> None:
    engine(pieces("Rome"))
    split = {"split": {"v0": 1, "v1": 1}}
    assert client.put("/aliases/canary", json=split).status_code == 201

    def version(user: str, **headers: str) -> str:
        answer = openai.completions.create(
            model=f"{NAME}@canary", prompt="a", user=user, extra_headers=headers
        )
        return str(answer.system_fingerprint)

    by_user = {user: version(user) for user in map(str, range(12))}
    assert len(set(by_user.values())) == 2
    assert {user: version(user) for user in by_user} == by_user
    sticky = {"X-Memit-Sticky": "one"}
    assert len({version(user, **sticky) for user in by_user}) == 1
