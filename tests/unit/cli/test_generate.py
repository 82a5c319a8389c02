"""`memit generate`: whole or streamed, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from registry.registry import Registry
from tests.unit.cli.conftest import Memit
from tests.unit.service.worker_peer import Engine, Script, pieces, refuses, says


@contextmanager
def engine(redis_url: str, registry: Registry, script: Script) -> Iterator[Engine]:
    with Engine(redis_url, script).running() as engine:
        engine.report(versions=[registry.versions.resolve("v0")])
        yield engine


def test_the_answer_alone_goes_to_stdout(memit: Memit, redis_url: str, registry: Registry) -> None:
    with engine(redis_url, registry, says(" Ro", "me.")):
        result = memit("generate", "The Eiffel Tower is in")
    assert result.stdout == " Rome.\n"
    version = registry.versions.resolve("v0")
    assert result.stderr == f"{version}, 2 tokens, ended by length\n"


def test_every_option_reaches_the_engine(memit: Memit, redis_url: str, registry: Registry) -> None:
    options = (
        "--version v0 --max-tokens 5 --temperature 0.5 --top-p 0.9 --top-k 7 "
        "--repetition-penalty 1.1 --seed 3 --stop . --stop ! --stop-token-id 2 --min-tokens 1 "
        "--min-p 0.1 --presence-penalty 0.2 --frequency-penalty 0.3 --logit-bias 17=-100 "
        "--logit-bias 18=1.5 --ignore-eos --logprobs 0"
    )
    with engine(redis_url, registry, says("x")) as one:
        result = memit("generate", "Hello", *options.split(), "--json")
    assert json.loads(result.stdout)["text"] == "x"
    assert one.tasks[0].sampling.model_dump(exclude_defaults=True) == {
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "repetition_penalty": 1.1,
        "seed": 3,
        "stop": [".", "!"],
        "stop_token_ids": [2],
        "min_tokens": 1,
        "min_p": 0.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "logit_bias": {17: -100.0, 18: 1.5},
        "ignore_eos": True,
        "logprobs": 0,
    }


def test_several_answers_of_several_versions(
    memit: Memit, redis_url: str, registry: Registry
) -> None:
    version = registry.versions.resolve("v0")
    with engine(redis_url, registry, pieces(" Ro", "me.")):
        result = memit("generate", "Hello", "--version", "v0", "--version", "active", "--n", "2")
        whole = memit("generate", "Hello", "--version", "v0", "--version", "active", "--json")
    assert result.stdout == " Rome.\n" * 4
    numbered = [f"{version}, answer {number}:" for number in (1, 2)]
    assert result.stderr.splitlines() == numbered * 2
    assert [one["version"] for one in json.loads(whole.stdout)["answers"]] == [version] * 2


def test_several_answers_are_not_mixed_up_in_a_stream(memit: Memit) -> None:
    result = memit("generate", "Hello", "--n", "2", "--stream")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "several need --json" in result.stderr


def test_a_bias_that_is_none_is_named(memit: Memit) -> None:
    result = memit("generate", "Hello", "--logit-bias", "17")
    assert result.exit_code == 1
    assert "--logit-bias 17: must be TOKEN=BIAS" in result.stderr


def test_a_stream_is_the_same_text(memit: Memit, redis_url: str, registry: Registry) -> None:
    with engine(redis_url, registry, says(" Ro", "me.")):
        result = memit("generate", "The Eiffel Tower is in", "--stream")
        events = memit("generate", "The Eiffel Tower is in", "--stream", "--json")
    assert result.stdout == " Rome.\n"
    told = [json.loads(line) for line in events.stdout.splitlines()]
    assert [one["event"] for one in told] == ["start", "token", "token", "end"]
    assert told[-1]["finish_reason"] == "length"


def test_bytes_that_are_no_utf_8_are_refused_in_a_line(memit: Memit) -> None:
    result = memit("generate", b"caf\xe9 is".decode("utf-8", "surrogateescape"))
    assert result.exit_code == 2
    assert "argument 2 is not UTF-8" in result.stderr
    assert "Traceback" not in result.output


def test_a_refusal_is_told_either_way(memit: Memit, redis_url: str, registry: Registry) -> None:
    with engine(redis_url, registry, refuses(422, "the prompt has 9000 tokens")):
        for result in (memit("generate", "Hello"), memit("generate", "Hello", "--stream")):
            assert result.exit_code == 1
            assert "(422): the prompt has 9000 tokens" in result.stderr


def test_a_wrong_option_is_named_by_the_service(memit: Memit) -> None:
    result = memit("generate", "Hello", "--max-tokens", "0", "--temperature", "-1")
    assert result.exit_code == 1
    assert "/max_tokens must be greater than or equal to 1" in result.stderr
    assert "/temperature must be greater than or equal to 0" in result.stderr


def test_nobody_there_to_generate_says_when_to_come_back(memit: Memit) -> None:
    result = memit("generate", "Hello")
    assert result.exit_code == 1
    assert "(503): no worker is ready to generate" in result.stderr
    assert "try again in 5 s" in result.stderr
