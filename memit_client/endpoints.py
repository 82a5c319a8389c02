"""Every path of the service that the client asks, what answers, and when to ask again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from memit_client.edits import Edit
from memit_client.errors import UnexpectedAnswer
from memit_client.facts import FactDetail, LiveFact
from memit_client.generation import Generation, Generations
from memit_client.model import Model
from memit_client.probes import Health, Readiness
from memit_client.versions import Alias, AliasPeriod, Ledger, Version, VersionDiff

T = TypeVar("T")
Answer = TypeVar("Answer", covariant=True)


class Page(Model, Generic[T]):
    """A page of a list; without `next_cursor` it is the last."""

    items: list[T]
    next_cursor: str | None = None


class Damaged(Model):
    """What a page cannot show, since a file of the service's registry is damaged."""

    id: str | None
    """Of the edit or version, if it is known."""
    file: str | None
    reason: str


class WholePage(Page[T], Generic[T]):
    """A page that says what it has to leave out."""

    damaged: list[Damaged] = []


class FactPage(Page[LiveFact]):
    """A page of facts; a list stays with its version from page to page."""

    version: str | None
    total: int
    """On all pages."""


class Repeat(Enum):
    """When a request may be sent once more."""

    NEVER = "a second one would fail or do more"
    REFUSED = "while the service refused it or was not reached: it is work, but changes nothing"
    ALWAYS = "a second one changes nothing, or has the key of the first"


@dataclass(frozen=True)
class Route:
    """A method and a path as in the OpenAPI document."""

    method: str
    path: str
    repeat: Repeat = Repeat.ALWAYS

    def filled(self, names: Mapping[str, str]) -> str:
        """The path with these in it, escaped."""
        return self.path.format(**{name: quote(text, safe="") for name, text in names.items()})


@dataclass(frozen=True)
class Endpoint(Route, Generic[Answer]):
    """A route that answers JSON."""

    answer: TypeAdapter[Answer] = field(kw_only=True)

    def read(self, body: bytes) -> Answer:
        """The answer in a body.

        Raises:
            UnexpectedAnswer: it is none.
        """
        try:
            return self.answer.validate_json(body)
        except ValidationError as error:
            raise UnexpectedAnswer(f"{self.method} {self.path}: {error}") from error


POST_EDIT = Endpoint("POST", "/edits", answer=TypeAdapter(Edit))
LIST_EDITS = Endpoint("GET", "/edits", answer=TypeAdapter(WholePage[Edit]))
GET_EDIT = Endpoint("GET", "/edits/{edit_id}", answer=TypeAdapter(Edit))
EDIT_EVENTS = Route("GET", "/edits/{edit_id}/events")
CANCEL_EDIT = Endpoint("DELETE", "/edits/{edit_id}", Repeat.NEVER, answer=TypeAdapter(Edit))
LIST_FACTS = Endpoint("GET", "/facts", answer=TypeAdapter(FactPage))
GET_FACT = Endpoint("GET", "/facts/{fact_id}", answer=TypeAdapter(FactDetail))
RETRACT_FACT = Endpoint("DELETE", "/facts/{fact_id}", answer=TypeAdapter(Edit))
GENERATE = Endpoint("POST", "/generate", Repeat.REFUSED, answer=TypeAdapter(Generation))
GENERATE_EACH = Endpoint("POST", "/generate", Repeat.REFUSED, answer=TypeAdapter(Generations))
LIST_VERSIONS = Endpoint("GET", "/versions", answer=TypeAdapter(WholePage[Version]))
GET_VERSION = Endpoint("GET", "/versions/{ref}", answer=TypeAdapter(Version))
GET_LEDGER = Endpoint("GET", "/versions/{ref}/ledger", answer=TypeAdapter(Ledger))
DIFF = Endpoint("GET", "/versions/{a}/diff/{b}", answer=TypeAdapter(VersionDiff))
CHECKPOINT = Route("GET", "/versions/{ref}/checkpoint")
BLOB = Route("GET", "/blobs/{digest}")
LIST_ALIASES = Endpoint("GET", "/aliases", answer=TypeAdapter(list[Alias]))
GET_ALIAS = Endpoint("GET", "/aliases/{name}", answer=TypeAdapter(Alias))
PUT_ALIAS = Endpoint("PUT", "/aliases/{name}", Repeat.NEVER, answer=TypeAdapter(Alias))
ALIAS_HISTORY = Endpoint(
    "GET", "/aliases/{name}/history", answer=TypeAdapter(WholePage[AliasPeriod])
)
HEALTH = Endpoint("GET", "/healthz", answer=TypeAdapter(Health))
# Not again: who asks whether it is ready wants to know now.
READY = Endpoint("GET", "/readyz", Repeat.NEVER, answer=TypeAdapter(Readiness))
