"""What is durably true: facts, edits, versions, aliases and blobs, in a store."""

from registry.finish import finish_edit
from registry.folder_store import FolderStore
from registry.registry import Registry

__all__ = ["FolderStore", "Registry", "finish_edit"]
