"""Where a process can be stopped in an edit, and who can be killed there."""

from __future__ import annotations

import random
import re

VICTIMS = ("worker", "service", "redis")

_KINDS = [
    ("place", r"edits/by-seq/"),
    ("request", r"edits/[^/]+/request\.json"),
    ("end", r"edits/[^/]+/end\.json"),
    ("step", r"edits/[^/]+/\d+\.json"),
    ("number", r"versions/by-seq/"),
    ("manifest", r"versions/v[^/]+[0-9a-f]\.json"),
    ("alias", r"aliases/active/"),
    ("blob", r"blobs/"),
    ("solution", r"models/[^/]+/solutions/"),
    ("z", r"models/[^/]+/z/"),
]


def kind_of(path: str) -> str:
    """What a file of the registry is, in the names of points."""
    key = path.rpartition("/registry/")[2]
    return next((kind for kind, pattern in _KINDS if re.match(pattern, key)), "other")


def _writes(kind: str, *nth: int) -> list[tuple[str, int]]:
    """Before a file is written, between its data and its name, and after."""
    return [(f"{kind} {when}", n) for n in nth or (1,) for when in ("before", "middle", "after")]


POINTS: list[tuple[str, int]] = [
    *_writes("request"),
    *_writes("place"),
    ("queue before", 1),
    ("queue after", 1),
    ("job", 1),
    *_writes("step"),  # it runs
    ("stage prepare", 1),
    ("stage z", 1),
    ("stage z", 4),
    *_writes("z"),
    ("stage insert", 1),  # each layer
    ("stage insert", 2),
    ("stage insert", 3),
    *_writes("blob", 1, 2, 3, 4),  # z, and the matrices of each layer
    *_writes("solution"),
    ("stage evaluate", 1),
    ("stage evaluate", 3),
    *_writes("blob", 5, 6),  # the ledger, the manifest's copy
    *_writes("step", 2),  # it is decided
    *_writes("manifest"),
    *_writes("number"),
    ("warm", 1),
    ("swap before", 1),
    ("swap after", 1),
    *_writes("alias"),
    *_writes("end"),
]
"""(point, how often it is reached before it counts), in the order of an edit."""


def plan(seed: int, number: int) -> tuple[str, int, str, random.Random]:
    """Of a kill by its number: point, nth time, victim, and chance for all else; each in turn."""
    pairs = [(point, nth, victim) for point, nth in POINTS for victim in VICTIMS]
    turn, place = divmod(number, len(pairs))
    random.Random(f"{seed} {turn}").shuffle(pairs)
    return (*pairs[place], random.Random(f"{seed} {number}"))
