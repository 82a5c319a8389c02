"""Which version of a split alias: the one that needs one, and the one that a key draws."""

from __future__ import annotations

import math
from collections.abc import Mapping

from contracts.ids import VersionId, digest_of, version_seq

_BITS = 52
"""Of a hash: with a half added they are exact in float64 and never 0 or 1."""


def heaviest(split: Mapping[VersionId, int]) -> VersionId:
    """The version with the largest weight; of equals the one with the lowest number."""
    return min(split, key=lambda version: (-split[version], version_seq(version)))


def drawn(alias: str, key: str, split: Mapping[VersionId, int]) -> VersionId:
    """The version that `key` gets of this alias: the same one in every process and every time.

    Over keys, versions come in proportion to their weights. This is rendezvous hashing with
    weights: between two splits a key goes from one version to another only if the other's weight
    grew in proportion to the one's, so 9 to 1 becoming 1 to 1 moves four keys of ten, all one way.
    """

    def time_to_come(version: VersionId) -> float:
        """Exponentially distributed, at the rate of the weight: the first to come is drawn."""
        number = int(digest_of([alias, key, version]), 16) >> (256 - _BITS)
        return -math.log((number + 0.5) / 2**_BITS) / split[version]

    return min(sorted(split), key=time_to_come)
