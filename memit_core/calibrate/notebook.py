"""What a calibration has measured so far, and the time it took: after a stop it is read back."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

from memit_core.cache import Cache


class Notebook:
    """Everything measured once. What is read back counts as the seconds that it took, so a
    calibration that was broken off goes on as it would have.

    Args:
        cache: of the base model; one that outlives the process lets a calibration go on.
        seconds: that the calibration may take.
    """

    def __init__(self, cache: Cache, seconds: float) -> None:
        self._cache = cache
        self.seconds = seconds
        self._spent = 0.0
        self._began: float | None = None

    @property
    def spent(self) -> float:
        """Seconds, those of what is being measured included."""
        running = 0.0 if self._began is None else time.monotonic() - self._began
        return self._spent + running

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """The JSON value of `make()`, or what was kept of it.

        Args:
            key: JSON-ready; all that the value depends on besides the base.
        """
        name = f"calibration/{hashlib.sha256(json.dumps(key).encode()).hexdigest()}"
        data = self._cache.get(name)
        if data is None:
            self._began = time.monotonic()
            value = make()
            took, self._began = time.monotonic() - self._began, None
            data = self._cache.put_once(
                name, json.dumps({"seconds": took, "value": value}).encode()
            )
        record = json.loads(data)
        self._spent += record["seconds"]
        return record["value"]
