"""Settings, read once from the environment (`MEMIT_*`) in each process's entry point."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import AliasChoices, Field, field_serializer, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contracts.limits import MAX_NAME_CHARS

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


class Settings(BaseSettings):
    """Every knob of the service; a field `x` is read from the variable `MEMIT_X`."""

    model_config = SettingsConfigDict(
        env_prefix="MEMIT_", frozen=True, extra="ignore", populate_by_name=True
    )

    # where things are
    home: Path = Field(
        default_factory=lambda: Path.home() / ".local" / "share" / "memit",
        description="folder of the registry, the converted default model and embedded Redis",
    )
    scratch: Path | None = Field(
        default=None,
        description="folder of a covariance that is not finished; by default `scratch` in the home",
    )
    scratch_save_seconds: float = Field(
        default=10, ge=0, description="seconds between two saves of such a covariance, at least"
    )
    redis_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("MEMIT_REDIS_URL", "REDIS_URL"),
        description="Redis to use; without one `memit serve` starts its own",
    )
    role: Literal["all", "engine", "editor"] = Field(
        default="all",
        description="what a worker does: generate (engine), write facts (editor), or both",
    )
    poll_seconds: float = Field(
        default=5,
        gt=0,
        description="seconds between two looks at the registry where Redis brings no news of it",
    )
    redis_password_file: Path | None = Field(
        default=None, description="file with the Redis password, for containers"
    )
    host: str = Field(default="127.0.0.1", description="address the API listens on")
    served_model_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_NAME_CHARS,
        description="name of the model under /v1; by default that of the base model",
    )
    auth: Literal["auto", "required", "off"] = Field(
        default="auto",
        description="whether the API asks for a key: auto once the registry has one, and wherever "
        "it listens beyond this machine",
    )
    first_key_file: Path | None = Field(
        default=None,
        description="file with a key that gets every scope, for containers",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="port the API listens on")
    cors_origins: str = Field(
        default="",
        description="origins whose pages may ask the API in a browser, by commas; * is any",
    )

    # the model
    model: str = Field(default=DEFAULT_MODEL, description="folder or hub name of the base model")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="device")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="dtype of the weights; auto is float32 on CPU, as stored elsewhere",
    )
    method: str = Field(
        default="memit",
        description="how facts are written; a registry keeps the method that it was begun with",
    )
    mend: Path | None = Field(
        default=None,
        description="file of the trained network that the method mend needs; see memit train-mend",
    )
    z_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="precision in which z is optimised; auto is bfloat16 where that is faster",
    )
    hparams: Path | None = Field(
        default=None,
        description="JSON file of hyperparameters; by default those that the registry was begun "
        "with, or the model's preset",
    )
    corpus: str | None = Field(
        default=None,
        description="text file, or dataset as NAME[:CONFIG[:SPLIT[:COLUMN]]], for the covariance; "
        "by default the packaged sample",
    )

    # limits of the API
    max_body_bytes: int = Field(default=16 * 2**20, ge=1024, description="largest request body")
    max_facts_per_edit: int = Field(default=1_000, ge=1, le=10_000, description="facts an edit")
    max_facts_per_rebase: int = Field(
        default=10_000, ge=1, le=10_000, description="facts of a ledger that is rebased"
    )
    max_fact_tokens: int = Field(
        default=512, ge=8, description="tokens of a filled prompt and its target together"
    )
    max_queued_edits: int = Field(default=1_000, ge=1, description="edits waiting at most")
    max_queue: int = Field(default=256, ge=1, description="generation requests waiting at most")
    max_queue_per_key: int = Field(
        default=64, ge=1, description="generation requests of one key waiting at most"
    )
    max_streams_per_key: int = Field(
        default=64, ge=1, description="answers that one key may have open at once"
    )
    max_connections: int = Field(
        default=512, ge=1, description="connections of one process of the API at most"
    )
    body_timeout: float = Field(
        default=30, gt=0, description="seconds a client may take to send headers and body"
    )
    start_timeout: float = Field(
        default=60, gt=0, description="seconds a generation may wait for an engine"
    )

    webhook_allow_private: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        default=(),
        description="networks that webhooks may reach although they are not public, as in "
        "10.1.0.0/16,fd00::/8",
    )

    # the engine
    max_batch: int = Field(default=16, ge=1, description="generation rows decoded together")
    max_context: int = Field(
        default=2_048, ge=16, description="tokens of prompt and answer together"
    )
    prefix_cache_mb: int = Field(
        default=256, ge=0, description="MiB of computed prompts kept for those that begin alike"
    )
    resident_mb: float | None = Field(
        default=None,
        gt=0,
        description="MiB of edited versions held in memory; by default as much as the model itself "
        "takes, or a quarter of the free memory where that is less; one version always fits",
    )

    warm_seconds: float = Field(
        default=60,
        gt=0,
        description="seconds that engines have to load a new version before it becomes active; "
        "after them it does not",
    )

    # the gate
    gate_min_success: float = Field(default=0.5, ge=0, le=1, description="see Gate.min_success")
    gate_min_efficacy: float = Field(default=0.0, ge=0, le=1, description="see Gate.min_efficacy")
    gate_min_live_success: float = Field(
        default=0.0, ge=0, le=1, description="see Gate.min_live_success"
    )
    gate_max_perplexity_ratio: float = Field(
        default=2.0, gt=0, description="see Gate.max_perplexity_ratio"
    )

    report_max_facts: int = Field(
        default=2_000,
        ge=0,
        description="facts a full report measures at most, a sample of more; 0: none is made",
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["console", "json"] = Field(
        default="console", description="how a record is logged: for people, or as a line of JSON"
    )

    @field_validator("webhook_allow_private", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        return [one.strip() for one in given.split(",") if one.strip()]

    @field_serializer("webhook_allow_private")
    def _as_given(self, networks: tuple[IPv4Network | IPv6Network, ...]) -> str:
        """As a variable has it, for processes that are started with these settings."""
        return ",".join(map(str, networks))

    @property
    def registry_path(self) -> Path:
        return self.home / "registry"

    @property
    def scratch_path(self) -> Path:
        return self.home / "scratch" if self.scratch is None else self.scratch

    def redis(self) -> str:
        """The Redis URL, with the password of `redis_password_file` if one is set.

        Raises:
            ValueError: no Redis is configured.
        """
        if self.redis_url is None:
            raise ValueError("no Redis: set REDIS_URL, or start everything with `memit serve`")
        if self.redis_password_file is None:
            return self.redis_url
        password = quote(self.redis_password_file.read_text().strip(), safe="")
        scheme, rest = self.redis_url.split("://", 1)
        return f"{scheme}://:{password}@{rest.rpartition('@')[2]}"

    def secrets(self) -> list[str]:
        """What no log may show, as far as the settings know it; never raises."""
        found = []
        if self.redis_url is not None:
            userinfo = self.redis_url.partition("://")[2].rpartition("@")[0]
            found.append(userinfo.partition(":")[2])
        if self.redis_password_file is not None:
            with contextlib.suppress(OSError, UnicodeError):  # whoever needs it says so
                found.append(self.redis_password_file.read_text().strip())
        return [secret for secret in found if secret]
