"""What is durably true: facts, edits, versions, aliases and blobs, in a folder."""

from registry.commit import settle
from registry.registry import Registry

__all__ = ["Registry", "settle"]
