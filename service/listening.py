"""Whether the API may listen where it is told to: beyond this machine only with a key."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from contracts.keys import LOCAL, KeyRequest, Scope
from contracts.settings import Settings
from registry.folder_store import FolderStore
from registry.keys import Keys


def prepare_keys(settings: Settings) -> None:
    """Make the key of `first_key_file` valid, and see that there is one where one is needed.

    Raises:
        ValueError: there is none, or the file holds none; the message says what to do.
        RegistryError: the storage fails.
    """
    keys = Keys(FolderStore(settings.registry_path))
    if settings.first_key_file is not None:
        _register(keys, settings.first_key_file)
    if needs_key(settings) and not keys.any_made():
        where = "MEMIT_AUTH=required" if settings.auth == "required" else f"host {settings.host}"
        raise ValueError(
            f"{where} needs a key, and the registry has none. Make one first:\n"
            f"  memit keys create --name me --scope admin --home {settings.home}\n"
            "or listen on 127.0.0.1; MEMIT_AUTH=off lets in everybody who reaches the port"
        )


def needs_key(settings: Settings) -> bool:
    """Whether a key is required whatever the registry has."""
    if settings.auth == "auto":
        return not is_loopback(settings.host)
    return settings.auth == "required"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`, an address or a name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _register(keys: Keys, file: Path) -> None:
    asked = KeyRequest(name="first key", scopes=[Scope.ADMIN])
    try:
        keys.register(file.read_text().strip(), asked, LOCAL)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text"
        raise ValueError(f"MEMIT_FIRST_KEY_FILE {file}: {reason}") from None
    except ValueError as error:
        raise ValueError(f"MEMIT_FIRST_KEY_FILE {file}: {error}") from None
