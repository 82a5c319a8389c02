"""Errors under `/v1`: in OpenAI's shape, named by parameter, and repeated only where that helps."""

from __future__ import annotations

from typing import Any

import httpx2
import openai as sdk
import pytest
import redis as blocking
from openai import APIError, BadRequestError, InternalServerError, OpenAI, RateLimitError

from contracts.errors import FieldError, InvalidRequest
from contracts.generation import ErrorEvent, GenerateTask, TokenEvent
from contracts.keys import LOCAL, KeyRequest, Scope
from contracts.limits import MAX_TASKS
from contracts.transport import GENERATE_STREAM
from registry.registry import Registry
from service.openai_api.refused import REFUSED, WITHOUT_EFFECT
from service.openai_api.requests import Asked, ChatRequest, CompletionRequest
from tests.unit.service.conftest import House, Serve
from tests.unit.service.minutes import wait_for_a_fresh_minute
from tests.unit.service.openai_api.conftest import CHAT, NAME, Running
from tests.unit.service.worker_peer import Editor, Engine, pieces, refuses

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": 11}, "temperature", "less than or equal to 10"),
    ({"temperature": "hot"}, "temperature", "must be a valid number"),
    ({"n": 17}, "n", "less than or equal to 16"),
    ({"stop": [""]}, "stop[0]", "must not be empty"),
    ({"logit_bias": {"Rome": 1}}, "logit_bias.Rome", "must be a valid integer"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "goes with stream only"),
    ({"best_off": 2}, "best_off", "is not a known field"),
    ({"prompt": []}, "prompt", "must not be empty"),
    ({"prompt": ""}, "prompt", "must not be empty"),
    ({"prompt": ["a", 1]}, "prompt", "must be a string, a list of strings"),
    ({"prompt": [-1]}, "prompt", "token ids from 0"),
    ({"prompt": ["a"] * (MAX_TASKS + 1)}, "prompt", f"at most {MAX_TASKS} prompts"),
    ({"prompt": "a" * 100_001}, "prompt", "at most 100000 characters"),
    ({"echo": True, "logprobs": 1}, "echo", "goes without logprobs"),
    ({"echo": True, "prompt": [1]}, "echo", "goes with prompts that are texts"),
]
WRONG_CHATS: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "must have at least 1 item"),
    ({"messages": None}, "messages", "is required"),
    ({"messages": [{"role": "tool", "content": "4"}]}, "messages[0].role", "must be 'system'"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "is required"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "text only"),
    ({"messages": [*CHAT, *CHAT, {"role": "user", "content": "a" * 100_000}]}, "messages",
     "at most 100000 characters together"),
    ({"top_logprobs": 2}, "top_logprobs", "goes with logprobs: true only"),
    ({"add_generation_prompt": False}, "add_generation_prompt", "opposite"),
]  # fmt: skip


def refused(answer: httpx2.Response) -> dict[str, Any]:
    assert answer.status_code == 400, answer.text
    assert answer.headers["x-should-retry"] == "false"
    assert set(answer.json()) == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize(("change", "param", "message"), WRONG)
def test_a_wrong_completion(
    refusing: House, change: dict[str, Any], param: str, message: str
) -> None:
    error = refused(refusing.client.post("/v1/completions", json={"prompt": "a", **change}))
    assert error["param"] == param
    assert message in error["message"]
    assert error["message"].startswith(param)


@pytest.mark.parametrize("prompt", [rb'"\ud800"', rb'["a", "\ud800"]'])
def test_a_text_that_is_none(refusing: House, prompt: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    body = b'{"prompt": %b}' % prompt
    error = refused(refusing.client.post("/v1/completions", content=body, headers=headers))
    assert error["message"] == "prompt must be valid Unicode text, without lone surrogates"


@pytest.mark.parametrize(("change", "param", "message"), WRONG_CHATS)
def test_a_wrong_chat(refusing: House, change: dict[str, Any], param: str, message: str) -> None:
    body = {"messages": CHAT, **change}
    error = refused(refusing.client.post("/v1/chat/completions", json=body))
    assert error["param"] == param
    assert message in error["message"]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_not_supported_is_refused_with_its_reason(refusing: House, name: str) -> None:
    kinds: list[tuple[str, type[Asked], dict[str, Any]]] = [
        ("/v1/completions", CompletionRequest, {"prompt": "a"}),
        ("/v1/chat/completions", ChatRequest, {"messages": CHAT}),
    ]
    for path, kind, body in kinds:
        error = refused(refusing.client.post(path, json={**body, name: {"type": "json_object"}}))
        assert (error["param"], error["message"]) == (name, f"{name} {REFUSED[name].reason}")
        for harmless in (None, *REFUSED[name].harmless):
            assert kind.model_validate({**body, name: harmless}) == kind.model_validate(body)


def test_what_has_no_effect_is_taken(openai: OpenAI, engine: Running) -> None:
    engine(pieces("Rome"))
    extra = dict.fromkeys(WITHOUT_EFFECT, "anything")
    openai.chat.completions.create(model=NAME, messages=CHAT, extra_body=extra)


def test_what_an_engine_refuses_is_named_as_the_client_named_it(
    openai: OpenAI, engine: Running
) -> None:
    def too_long(engine: Engine, task: GenerateTask) -> None:
        reason = "has 9 tokens; at most 7 leave room for an answer"
        error = FieldError(field="/token_ids", reason=reason, limit=7)
        refusal = InvalidRequest(f"/token_ids {reason}", errors=[error])
        engine.emit(task, ErrorEvent(problem=refusal.problem()))

    engine(too_long)
    for stream in (False, True):
        with pytest.raises(BadRequestError, match=r"prompt has 9 tokens") as failure:
            openai.completions.create(model=NAME, prompt=[1] * 9, stream=stream)
        assert (failure.value.param, failure.value.code) == ("prompt", "context_length_exceeded")


def test_a_token_that_there_is_none_of_is_no_matter_of_length(
    openai: OpenAI, engine: Running
) -> None:
    """A client that shortens its prompt on the other code would do so for ever."""

    def unknown(engine: Engine, task: GenerateTask) -> None:
        error = FieldError(
            field="/token_ids/1", reason="is 999; the model has tokens 0 to 99", limit=99
        )
        engine.emit(task, ErrorEvent(problem=InvalidRequest("", errors=[error]).problem()))

    engine(unknown)
    with pytest.raises(BadRequestError, match="prompt is 999") as failure:
        openai.completions.create(model=NAME, prompt=[[1, 2], [1, 999]])
    assert (failure.value.param, failure.value.code) == ("prompt", None)


def test_no_worker(openai: OpenAI) -> None:
    with pytest.raises(InternalServerError, match="no worker is ready") as failure:
        openai.completions.create(model=NAME, prompt="a")
    assert failure.value.status_code == 503
    assert failure.value.type == "server_error"
    headers = failure.value.response.headers
    assert headers["x-should-retry"] == "true"
    assert 0 < int(headers["retry-after-ms"]) <= 60_000


def test_a_full_queue(serve: Serve, editor: Editor, redis_url: str) -> None:
    client = serve(max_queue=1)
    Engine(redis_url, pieces("Rome")).report(versions=[])
    with blocking.Redis.from_url(redis_url) as connection:
        connection.xadd(GENERATE_STREAM, {"task": "nobody takes it"})
    with (
        OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as openai,
        pytest.raises(RateLimitError) as failure,
    ):
        openai.completions.create(model=NAME, prompt="a")
    assert failure.value.code == "rate_limit_exceeded"
    assert failure.value.response.headers["x-should-retry"] == "true"


def test_no_409(openai: OpenAI, engine: Running) -> None:
    """The client would repeat it."""
    engine(refuses(409, "the version was rejected"))
    with pytest.raises(BadRequestError, match="the version was rejected"):
        openai.completions.create(model=NAME, prompt="a")


def test_an_error_within_a_stream(openai: OpenAI, client: httpx2.Client, engine: Running) -> None:
    def breaks(engine: Engine, task: GenerateTask) -> None:
        engine.begin(task)
        engine.emit(task, TokenEvent(text="Ro"))
        refuses(503, "the engine failed")(engine, task)

    engine(breaks)
    stream = openai.completions.create(model=NAME, prompt="a", stream=True)
    assert next(stream).choices[0].text == "Ro"
    with pytest.raises(APIError, match="the engine failed") as failure:
        next(stream)
    assert failure.value.type == "server_error"
    text = client.post("/v1/completions", json={"prompt": "a", "stream": True}).text
    assert "event: error\n" in text
    assert "[DONE]" not in text


def test_whatever_else_goes_wrong_is_in_the_same_shape(
    openai: OpenAI, client: httpx2.Client
) -> None:
    json = {"Content-Type": "application/json"}
    answers = {
        400: client.post("/v1/completions", content=b"{", headers=json),
        404: client.get("/v1/nothing"),
        405: client.put("/v1/models"),
        415: client.post("/v1/completions", content=b"x", headers={"Content-Type": "text/plain"}),
        413: client.post("/v1/completions", content=b" " * (20 << 20), headers=json),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert answer.headers["x-should-retry"] == "false"
    assert client.get("/nothing").headers["content-type"] == "application/problem+json"


def test_without_a_version_the_client_is_told_to_come_back(serve: Serve) -> None:
    client = serve()
    with (
        OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as openai,
        pytest.raises(sdk.InternalServerError, match="no version yet"),
    ):
        openai.models.list()


@pytest.mark.parametrize("given", ["my-id", None, "no good", "é" * 3, "x" * 129])
def test_request_ids(openai: OpenAI, client: httpx2.Client, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-ID": given.encode()}
    for path in ("/v1/models", "/v1/nothing", "/versions", "/nothing"):
        answered = client.get(path, headers=headers).headers["X-Request-ID"]
        assert answered == given if given == "my-id" else answered.startswith("req-")


def test_keys_go_as_the_sdk_sends_them(
    client: httpx2.Client, editor: Editor, registry: Registry
) -> None:
    asked = {"name": "x", "requests_per_minute": 2}
    wait_for_a_fresh_minute()
    keys = [
        registry.keys.create(KeyRequest(scopes=[scope], **asked), LOCAL).key
        for scope in (Scope.GENERATE, Scope.READ)
    ]
    url = f"{client.base_url}/v1"
    with OpenAI(base_url=url, api_key="sk-none", max_retries=0) as nobody:
        with pytest.raises(sdk.AuthenticationError) as unknown:
            nobody.models.list()
        assert unknown.value.code == "invalid_api_key"
        assert unknown.value.type == "invalid_request_error"
        assert unknown.value.response.headers["x-should-retry"] == "false"
        assert unknown.value.response.headers["WWW-Authenticate"] == "Bearer"
        with pytest.raises(sdk.AuthenticationError):
            nobody.get("/nothing", cast_to=object)
    with OpenAI(base_url=url, api_key=keys[1], max_retries=0) as reader:
        with pytest.raises(sdk.PermissionDeniedError) as missing:
            reader.models.list()
        assert missing.value.code == "insufficient_permissions"
        assert "lacks the scope generate" in missing.value.message
    with OpenAI(base_url=url, api_key=keys[0], max_retries=0) as one:
        for _ in range(2):
            assert one.models.list().data[0].id == NAME
        with pytest.raises(RateLimitError) as over:
            one.models.list()
        assert over.value.code == "rate_limit_exceeded"
        assert "2 requests of this minute" in over.value.message
        assert 0 < int(over.value.response.headers["retry-after-ms"]) <= 60_000
