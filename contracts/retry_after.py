"""Seconds after which a client may try again (`Retry-After`), by what it waits for."""

NO_VERSION = 10.0
"""A worker loads the model and publishes v0."""
EDIT_QUEUE_FULL = 30.0
EDIT_RUNNING = 2.0
"""A look at how an edit goes on."""
NO_ENGINE = 5.0
"""No worker generates, or the one that did is gone; another one takes its place."""
CONNECTIONS = 5.0
"""Another client's connection ends."""
ENGINE_BUSY = 1.0
"""A row is free soon, or the engine lost a step."""
VERSION_NOT_LOADED = 5.0
ADAPTER = 10.0
"""Another adapter is computed: seconds a matrix of a large model."""
STORAGE = 5.0
REDIS = 2.0
LONGEST = 60.0
"""OpenAI's client gives up where it shall wait over two minutes."""
