"""Who asks: a key, or whoever reaches a service that needs none; and what it may do."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.errors import Forbidden
from contracts.keys import LOCAL, KeyRecord, Scope, with_included


@dataclass(frozen=True)
class Principal:
    """The one in whose name a request is."""

    id: str
    """Of its key, or `local`."""
    scopes: frozenset[Scope]
    """With those that they include."""
    aliases: frozenset[str] | None = None
    """The only ones that it may ask and move; None: all."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def require(self, scope: Scope) -> None:
        """
        Raises:
            Forbidden: it has not this scope.
        """
        if scope not in self.scopes:
            has = ", ".join(sorted(self.scopes))
            raise Forbidden(f"{self.id} lacks the scope {scope}; it has {has}")

    def require_alias(self, ref: str) -> None:
        """
        Args:
            ref: what is asked or moved: an alias, or a version that no alias limit lets through.

        Raises:
            Forbidden: it may use other aliases only.
        """
        if not self.may_use(ref):
            raise Forbidden(f"{self.id} may not use {ref[:100]!r}, only {self._listed()}")

    def require_activation(self) -> None:
        """
        Raises:
            Forbidden: it may not move `active`, which an edit does.
        """
        if not self.may_use("active"):
            raise Forbidden(
                f"{self.id} may not move 'active', only {self._listed()}: "
                'send "activate": false, or retract by POST /edits with it'
            )

    def may_use(self, ref: str) -> bool:
        """Whether it may ask and move this alias; a version by its id only without a limit."""
        return self.aliases is None or ref in self.aliases

    def _listed(self) -> str:
        return ", ".join(sorted(self.aliases or ()))


ANYBODY = Principal(LOCAL, frozenset(Scope))
"""Who asks where no key is needed."""


def principal_of(record: KeyRecord) -> Principal:
    """The principal of a valid key."""
    return Principal(
        id=record.id,
        scopes=with_included(record.scopes),
        aliases=None if record.aliases is None else frozenset(record.aliases),
        requests_per_minute=record.requests_per_minute,
        tokens_per_minute=record.tokens_per_minute,
    )
